//! What the system says of this process.

use std::time::Instant;

/// The kernel counts processor time for `/proc` in hundredths of a second, on every architecture
/// we run on, whatever its own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Bytes of memory in use; `None` where there is no `/proc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub resident: Option<u64>,
    pub virtual_size: Option<u64>,
}

impl Memory {
    pub fn now() -> Self {
        std::fs::read_to_string("/proc/self/status")
            .map(|text| Self::parse(&text))
            .unwrap_or_default()
    }

    fn parse(status: &str) -> Self {
        let kibibytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let number = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
            number.checked_mul(1024)
        };
        Self {
            resident: kibibytes("VmRSS:"),
            virtual_size: kibibytes("VmSize:"),
        }
    }
}

/// Processor time at a moment; two of them make a usage.
#[derive(Clone, Copy, Debug)]
pub struct CpuClock {
    at: Instant,
    ticks: u64,
}

impl CpuClock {
    pub fn now() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        Some(Self {
            at: Instant::now(),
            ticks: ticks(&stat)?,
        })
    }

    /// Percent of one processor since `earlier`; above 100 when several were busy.
    pub fn usage_since(&self, earlier: &Self) -> f64 {
        let wall = self.at.duration_since(earlier.at).as_secs_f64();
        let busy = self.ticks.saturating_sub(earlier.ticks) as f64 / TICKS_PER_SECOND;
        if wall > 0.0 { busy / wall * 100.0 } else { 0.0 }
    }
}

/// User and system time: fields 14 and 15. The second field is the name of the program, which may
/// hold anything, so counting begins behind its bracket.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn memory_is_in_bytes() {
        let memory = Memory::parse("Name:\tx\nVmSize:\t  2048 kB\nVmRSS:\t     12 kB\n");
        assert_eq!(memory.resident, Some(12_288));
        assert_eq!(memory.virtual_size, Some(2_097_152));
        assert_eq!(Memory::parse("VmRSS: many kB"), Memory::default());
    }

    #[test]
    fn usage_is_of_one_processor() {
        let stat = "1 (a ) b) S 1 1 1 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 1 1 1";
        let earlier = CpuClock {
            at: Instant::now(),
            ticks: 0,
        };
        let later = CpuClock {
            at: earlier.at + Duration::from_secs(2),
            ticks: ticks(stat).unwrap(),
        };
        assert_eq!(later.usage_since(&earlier), 150.0);
        assert_eq!(earlier.usage_since(&earlier), 0.0);
        assert_eq!(ticks("1 (x) S 1"), None);
    }
}

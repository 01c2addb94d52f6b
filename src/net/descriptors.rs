//! How many files and sockets the process may have open at once.

use std::fmt;
use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets the process use all that it is allowed (`RLIMIT_NOFILE`): the soft limit, which is low for the
/// sake of programs that call `select`, becomes the hard one. Returns what holds from now on; `None` is
/// no limit.
///
/// # Errors
/// The system refuses; what held goes on to hold.
pub fn raise_limit() -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let limit = Rlimit {
            current: maximum,
            maximum,
        };
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(maximum)
}

/// An error as it is told: where descriptors have run out, with whose limit that is.
#[derive(Debug)]
pub struct Told<'e>(pub &'e io::Error);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        match Errno::from_io_error(self.0) {
            Some(Errno::MFILE) => {
                let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
                write!(
                    f,
                    ": all {limit} descriptors are in use that this process may have (RLIMIT_NOFILE: \
                     LimitNOFILE= of systemd, ulimit -n)"
                )
            }
            Some(Errno::NFILE) => write!(f, ": so many the whole system may have (fs.file-max)"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = raise_limit().unwrap();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!((current, maximum), (raised, raised));
    }

    #[test]
    fn the_limit_is_named_where_it_was_reached_and_only_there() {
        let told = |errno: Errno| Told(&errno.into()).to_string();
        assert!(told(Errno::MFILE).contains("RLIMIT_NOFILE"));
        assert!(told(Errno::NFILE).contains("fs.file-max"));
        assert_eq!(
            told(Errno::ACCESS),
            io::Error::from(Errno::ACCESS).to_string()
        );
    }
}

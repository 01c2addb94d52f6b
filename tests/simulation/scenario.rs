//! What happens to the servers, and what stands against it.

use serde_json::{Value, json};

use crate::fleet::Fleet;
use crate::server::{Micros, SECOND, SERVICE, State};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    RoundRobin,
    LeastRequest,
    FullScan,
    Random,
    RingHash,
    Maglev,
}

impl Policy {
    pub const ALL: [Self; 6] = [
        Self::RoundRobin,
        Self::LeastRequest,
        Self::FullScan,
        Self::Random,
        Self::RingHash,
        Self::Maglev,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round robin",
            Self::LeastRequest => "least request, 2 drawn",
            Self::FullScan => "least request, full scan",
            Self::Random => "random",
            Self::RingHash => "ring hash, bounded 150 %",
            Self::Maglev => "Maglev, bounded 150 %",
        }
    }

    /// The cluster, without its endpoints.
    pub fn cluster(self, name: &str, watch: Watch, slow_start: bool) -> Value {
        let slow = match slow_start {
            true => json!({"slow_start_config": {"slow_start_window": "10s"}}),
            false => json!({}),
        };
        let mut cluster = json!({
            "name": name, "type": "EDS",
            "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
            "common_lb_config": {"healthy_panic_threshold": {"value": 30}},
        });
        let bounded = json!({"hash_balance_factor": 150});
        match self {
            Self::RoundRobin => {
                cluster["lb_policy"] = json!("ROUND_ROBIN");
                cluster["round_robin_lb_config"] = slow;
            }
            Self::LeastRequest => {
                cluster["lb_policy"] = json!("LEAST_REQUEST");
                cluster["least_request_lb_config"] = slow;
            }
            Self::FullScan => {
                let kind = "type.googleapis.com/envoy.extensions.load_balancing_policies.\
                            least_request.v3.LeastRequest";
                let config = json!({"@type": kind, "selection_method": "FULL_SCAN"});
                let policy =
                    json!({"typed_extension_config": {"name": "l", "typed_config": config}});
                cluster["load_balancing_policy"] = json!({"policies": [policy]});
            }
            Self::Random => cluster["lb_policy"] = json!("RANDOM"),
            Self::RingHash => {
                cluster["lb_policy"] = json!("RING_HASH");
                cluster["ring_hash_lb_config"] = json!({"minimum_ring_size": 20_000});
                cluster["common_lb_config"]["consistent_hashing_lb_config"] = bounded;
            }
            Self::Maglev => {
                cluster["lb_policy"] = json!("MAGLEV");
                cluster["maglev_lb_config"] = json!({"table_size": 20_011});
                cluster["common_lb_config"]["consistent_hashing_lb_config"] = bounded;
            }
        }
        if watch.checks() {
            cluster["health_checks"] = json!([{
                "timeout": "1s", "interval": "2s", "unhealthy_threshold": 2,
                "healthy_threshold": 1, "tcp_health_check": {}}]);
        }
        if watch.detects() {
            cluster["outlier_detection"] = json!({
                "consecutive_5xx": 5, "max_ejection_percent": 30, "base_ejection_time": "5s",
                "interval": "2s", "enforcing_success_rate": 0});
        }
        cluster
    }
}

/// What finds out that a server is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    Nothing,
    Checks,
    Outliers,
    Both,
}

impl Watch {
    pub const ALL: [Self; 4] = [Self::Nothing, Self::Checks, Self::Outliers, Self::Both];

    pub fn checks(self) -> bool {
        matches!(self, Self::Checks | Self::Both)
    }

    pub fn detects(self) -> bool {
        matches!(self, Self::Outliers | Self::Both)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Checks => "health checks",
            Self::Outliers => "outlier detection",
            Self::Both => "both",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Calm,
    /// A tenth of the servers dies.
    Deaths,
    /// A twentieth does not answer any more, connections included.
    Silence,
    /// A twentieth is ten times slower.
    Slowness,
    /// A tenth dies and comes back, again and again.
    Flapping,
    /// A twentieth answers 500, and fast.
    BadAnswers,
    /// All are replaced, a tenth at a time.
    Redeploy,
    /// One and a half times what all of them can do, for two seconds.
    Herd,
}

impl Trouble {
    pub const ALL: [Self; 8] = [
        Self::Calm,
        Self::Deaths,
        Self::Silence,
        Self::Slowness,
        Self::Flapping,
        Self::BadAnswers,
        Self::Redeploy,
        Self::Herd,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "nothing happens",
            Self::Deaths => "10 % die",
            Self::Silence => "5 % fall silent",
            Self::Slowness => "5 % are ten times slower",
            Self::Flapping => "10 % die and return, every 4 s",
            Self::BadAnswers => "5 % answer 500 at once",
            Self::Redeploy => "all are replaced, 10 % each 2 s",
            Self::Herd => "150 % load for 2 s",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub trouble: Trouble,
    pub servers: usize,
    pub length: Micros,
    /// Of what all servers can do.
    pub load: f64,
    pub slow_start: bool,
}

/// When trouble begins.
const BEGIN: Micros = 2 * SECOND;

impl Scenario {
    pub fn new(trouble: Trouble, servers: usize, seconds: u64) -> Self {
        Self {
            trouble,
            servers,
            length: seconds * SECOND,
            // Half of the servers are cold at one time, and can do less.
            load: if trouble == Trouble::Redeploy {
                0.4
            } else {
                0.6
            },
            slow_start: false,
        }
    }

    /// Mean time between two requests.
    pub fn gap(&self, now: Micros) -> f64 {
        let herd = self.trouble == Trouble::Herd && (BEGIN..BEGIN + 2 * SECOND).contains(&now);
        let load = if herd { 1.5 } else { self.load };
        SERVICE as f64 / (self.servers as f64 * load)
    }

    pub fn acts(&self) -> usize {
        match self.trouble {
            Trouble::Calm | Trouble::Herd => 0,
            Trouble::Flapping | Trouble::Redeploy => {
                usize::try_from(self.length.saturating_sub(BEGIN) / (2 * SECOND)).unwrap()
            }
            _ => 1,
        }
    }

    pub fn when(&self, act: usize) -> Micros {
        BEGIN + 2 * SECOND * u64::try_from(act).unwrap()
    }

    pub fn act(&self, act: usize, fleet: &mut Fleet) {
        let size = fleet.size();
        match self.trouble {
            Trouble::Calm | Trouble::Herd => {}
            Trouble::Deaths => fleet.set(0..size / 10, State::Dead),
            Trouble::Silence => fleet.set(0..size / 20, State::Silent),
            Trouble::Slowness => fleet.set(0..size / 20, State::Slow(10.0)),
            Trouble::BadAnswers => fleet.set(0..size / 20, State::Failing),
            Trouble::Flapping => {
                let state = if act.is_multiple_of(2) {
                    State::Dead
                } else {
                    State::Up
                };
                fleet.set(0..size / 10, state);
            }
            Trouble::Redeploy => {
                let part = size / 10;
                if act < 10 {
                    fleet.replace(act * part..(act + 1) * part);
                }
            }
        }
    }
}

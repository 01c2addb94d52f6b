use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_xds::resource::Address;
use causeway_xds::resource::cluster::{
    Enforcing, FailurePercentage, OutlierDetection, SuccessRate,
};
use causeway_xds::resource::load_assignment::Endpoint as Model;

use super::*;
use crate::config::bootstrap::{Runtime, RuntimeLayer};
use crate::runtime::layers::Layers;
use crate::telemetry::stats::OutlierStats;
use crate::upstream::endpoint::{Attributes, Availability};

fn model() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 3,
        consecutive_gateway_failure: 2,
        consecutive_local_origin_failure: 2,
        split_local_origin: false,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_secs(100),
        max_ejection_time_jitter: Duration::ZERO,
        max_ejection_percent: 100,
        always_eject_one: false,
        uneject_after_check: true,
        enforcing: Enforcing {
            consecutive_5xx: 100,
            consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: 100,
            success_rate: 100,
            local_origin_success_rate: 100,
            failure_percentage: 0,
            local_origin_failure_percentage: 0,
        },
        success_rate: SuccessRate {
            minimum_hosts: 5,
            request_volume: 100,
            stdev_factor: 1900,
        },
        failure_percentage: FailurePercentage {
            threshold: 85,
            minimum_hosts: 5,
            request_volume: 50,
        },
    }
}

/// A cluster, and time as the test has it.
struct World {
    detector: Detector,
    endpoints: Vec<Arc<Endpoint>>,
    received: Received,
    reports: Reports,
    stats: Arc<OutlierStats>,
    layers: Layers,
    now: Instant,
    random: fastrand::Rng,
}

impl World {
    fn new(count: u16, change: impl FnOnce(&mut OutlierDetection)) -> Self {
        let mut model = model();
        change(&mut model);
        let layer = RuntimeLayer {
            name: "admin".into(),
            admin: true,
            values: Default::default(),
        };
        let layers = Layers::new(Runtime {
            layers: vec![layer],
        });
        let (reports, received) = reports();
        let keys = Arc::new(Keys::new(&layers));
        let detection = Detection::new("c".into(), model, keys, reports.clone());
        let stats = Arc::<OutlierStats>::default();
        Self {
            detector: Detector::new(Arc::new(detection), Arc::clone(&stats)),
            endpoints: (0..count).map(endpoint).collect(),
            received,
            reports,
            stats,
            layers,
            now: Instant::now(),
            random: fastrand::Rng::with_seed(7),
        }
    }

    fn note(&mut self, place: usize, outcome: Outcome) {
        self.detector
            .detection
            .note(&self.endpoints[place], outcome);
        self.receive();
    }

    fn answers(&mut self, place: usize, statuses: &[u16]) {
        for status in statuses {
            self.note(place, Outcome::Answered(*status));
        }
    }

    fn receive(&mut self) {
        while let Ok(report) = self.received.try_recv() {
            let (all, random) = (&self.endpoints, &mut self.random);
            self.detector
                .report(report.endpoint, report.what, all, self.now, random);
        }
    }

    /// One interval goes by.
    fn tick(&mut self) {
        self.now += self.detector.interval();
        let (all, random) = (&self.endpoints, &mut self.random);
        self.detector.tick(all, self.now, random);
    }

    fn ejected(&self) -> Vec<usize> {
        let all = self.endpoints.iter().enumerate();
        let ejected = all.filter(|(_, e)| e.availability() == Availability::Unhealthy);
        ejected.map(|(place, _)| place).collect()
    }

    /// Intervals until the endpoint is back.
    fn lasts(&mut self, place: usize) -> u32 {
        for ticks in 1..100 {
            self.tick();
            if !self.ejected().contains(&place) {
                return ticks;
            }
        }
        panic!("never back");
    }
}

fn endpoint(port: u16) -> Arc<Endpoint> {
    let address = Address::Socket(([127, 0, 0, 1], port + 1).into());
    let attributes = Attributes::plain(Model::at(address));
    Arc::new(Endpoint::new(attributes))
}

#[test]
fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
    let mut world = World::new(2, |_| {});
    world.answers(0, &[500, 500, 200, 500, 500, 404]);
    assert_eq!(world.ejected(), [0_usize; 0]);
    world.answers(0, &[500, 503, 500]);
    assert_eq!(world.ejected(), [0]);
    assert_eq!(world.stats.ejections_active.value(), 1);
    assert_eq!(world.stats.ejections_enforced_consecutive_5xx.value(), 1);
    assert_eq!(world.stats.ejections_total.value(), 1);
    // Those that it still gets change nothing.
    world.answers(0, &[500; 9]);
    assert_eq!(world.stats.ejections_detected_consecutive_5xx.value(), 1);
}

#[test]
fn what_is_not_enforced_is_counted() {
    let mut world = World::new(1, |m| m.consecutive_5xx = 0);
    world.answers(0, &[502, 500, 502, 503]);
    assert_eq!(world.ejected(), [0_usize; 0]);
    let stats = &world.stats;
    assert_eq!(
        stats.ejections_detected_consecutive_gateway_failure.value(),
        1
    );
    assert_eq!(stats.ejections_enforced_total.value(), 0);
    let set = |key: &str, value: &str| {
        let name = format!("outlier_detection.{key}");
        world.layers.modify([(name, value.to_owned())]).unwrap();
    };
    set("enforcing_consecutive_gateway_failure", "100");
    set("consecutive_gateway_failure", "1");
    world.answers(0, &[504]);
    assert_eq!(world.ejected(), [0]);
}

#[test]
fn not_more_are_ejected_than_may_be() {
    let mut world = World::new(5, |m| m.max_ejection_percent = 30);
    for place in 0..5 {
        world.answers(place, &[500; 3]);
    }
    assert_eq!(world.ejected(), [0]);
    assert_eq!(world.stats.ejections_overflow.value(), 4);
    let mut few = World::new(5, |m| m.max_ejection_percent = 10);
    few.answers(0, &[500; 3]);
    assert_eq!(few.ejected(), [0_usize; 0]);
    let mut one = World::new(5, |m| {
        m.max_ejection_percent = 10;
        m.always_eject_one = true;
    });
    one.answers(3, &[500; 3]);
    one.answers(4, &[500; 3]);
    assert_eq!(one.ejected(), [3]);
}

#[test]
fn an_ejection_lasts_longer_each_time_and_less_after_good_intervals() {
    let mut world = World::new(1, |_| {});
    for expected in [3, 6, 9, 10, 10] {
        world.answers(0, &[500; 3]);
        assert_eq!(world.ejected(), [0]);
        assert_eq!(world.lasts(0), expected);
        assert_eq!(world.stats.ejections_active.value(), 0);
    }
    for _ in 0..3 {
        world.tick();
    }
    world.answers(0, &[500; 3]);
    assert_eq!(world.lasts(0), 9);
}

#[test]
fn jitter_makes_an_ejection_longer_within_its_bound() {
    let mut all = Vec::new();
    let mut world = World::new(1, |m| {
        m.max_ejection_time = m.base_ejection_time;
        m.max_ejection_time_jitter = Duration::from_secs(50);
    });
    for _ in 0..50 {
        world.answers(0, &[500; 3]);
        all.push(world.lasts(0));
    }
    assert!(all.iter().all(|ticks| (3..=8).contains(ticks)), "{all:?}");
    assert!(all.iter().any(|ticks| *ticks != all[0]), "{all:?}");
}

#[test]
fn a_health_check_that_succeeds_ends_an_ejection() {
    let mut world = World::new(1, |_| {});
    world.answers(0, &[500; 3]);
    world.detector.detection.check_passed(&world.endpoints[0]);
    world.receive();
    assert_eq!(world.ejected(), [0_usize; 0]);
    let mut other = World::new(1, |m| m.uneject_after_check = false);
    other.answers(0, &[500; 3]);
    other.detector.detection.check_passed(&other.endpoints[0]);
    other.receive();
    assert_eq!(other.ejected(), [0]);
}

#[test]
fn our_own_failures_are_answers_unless_they_are_told_apart() {
    let mut world = World::new(1, |_| {});
    world.note(0, Outcome::Unreachable);
    world.note(0, Outcome::TimedOut(504, true));
    world.note(0, Outcome::Reset);
    assert_eq!(world.stats.ejections_enforced_consecutive_5xx.value(), 1);
    let mut split = World::new(1, |m| m.split_local_origin = true);
    // A connection ends the row of failures to connect.
    for _ in 0..5 {
        split.note(0, Outcome::Reset);
    }
    split.note(0, Outcome::Connected);
    split.note(0, Outcome::Unreachable);
    assert_eq!(split.ejected(), [0_usize; 0]);
    split.note(0, Outcome::TimedOut(504, false));
    assert_eq!(split.ejected(), [0]);
    let stats = &split.stats;
    assert_eq!(
        stats
            .ejections_enforced_consecutive_local_origin_failure
            .value(),
        1
    );
    assert_eq!(stats.ejections_detected_consecutive_5xx.value(), 0);
}

#[test]
fn one_that_succeeds_less_often_than_the_others_is_ejected() {
    let mut world = World::new(5, |m| m.consecutive_5xx = 1000);
    for place in 0..5 {
        let good = if place == 4 { 40 } else { 100 };
        world.answers(place, &[200].repeat(good));
        world.answers(place, &[500].repeat(100 - good));
    }
    world.tick();
    assert_eq!(world.ejected(), [4]);
    assert_eq!(world.stats.ejections_enforced_success_rate.value(), 1);
    let average = &world.detector.detection.external;
    assert_eq!(average.mean.get(), Some(88.0));
    assert!((average.threshold.get().unwrap() - 42.4).abs() < 1e-9);
    assert_eq!(world.endpoints[4].outcomes().external.shown(), Some(40.0));
    assert_eq!(world.endpoints[4].outcomes().local_origin.shown(), None);
    // Of an interval without requests nothing is known.
    world.tick();
    assert_eq!(world.detector.detection.external.mean.get(), None);
    assert_eq!(world.endpoints[0].outcomes().external.shown(), None);
}

#[test]
fn too_few_requests_or_endpoints_say_nothing() {
    let mut world = World::new(4, |m| m.consecutive_5xx = 1000);
    for place in 0..4 {
        world.answers(place, &[if place == 0 { 500 } else { 200 }; 200]);
    }
    world.tick();
    assert_eq!(world.ejected(), [0_usize; 0]);
    let mut few = World::new(5, |m| m.consecutive_5xx = 1000);
    for place in 0..5 {
        few.answers(place, &[if place == 0 { 500 } else { 200 }; 99]);
    }
    few.tick();
    assert_eq!(few.ejected(), [0_usize; 0]);
    assert_eq!(few.stats.ejections_detected_failure_percentage.value(), 1);
}

#[test]
fn one_that_fails_often_is_ejected_where_that_is_enforced() {
    let mut world = World::new(5, |m| {
        m.split_local_origin = true;
        m.consecutive_local_origin_failure = 1000;
        m.enforcing.local_origin_failure_percentage = 100;
        m.enforcing.local_origin_success_rate = 0;
    });
    for place in 0..5 {
        for number in 0..50 {
            let failed = place < 2 && number >= 7;
            world.note(
                place,
                if failed {
                    Outcome::Unreachable
                } else {
                    Outcome::Connected
                },
            );
        }
    }
    world.tick();
    assert_eq!(world.ejected(), [0, 1]);
    let stats = &world.stats;
    assert_eq!(
        stats
            .ejections_enforced_local_origin_failure_percentage
            .value(),
        2
    );
}

#[test]
fn a_report_that_finds_no_room_is_made_again() {
    let world = World::new(1, |_| {});
    let detection = &world.detector.detection;
    let filler = Report {
        cluster: "c".into(),
        endpoint: 0,
        what: Event::CheckPassed,
    };
    while world.reports.0.try_send(filler.clone()).is_ok() {}
    let note = || detection.note(&world.endpoints[0], Outcome::Answered(500));
    (0..3).for_each(|_| note());
    let mut world = world;
    world.receive();
    assert_eq!(world.ejected(), [0_usize; 0]);
    world.answers(0, &[500; 3]);
    assert_eq!(world.ejected(), [0]);
}

#[test]
fn the_count_of_the_ejected_goes_with_those_that_are_gone() {
    let mut world = World::new(3, |_| {});
    for place in 0..3 {
        world.answers(place, &[500; 3]);
    }
    assert_eq!(world.stats.ejections_active.value(), 3);
    world.endpoints.remove(0);
    world.detector.follow(&world.endpoints);
    assert_eq!(world.stats.ejections_active.value(), 2);
    assert!(world.detector.uneject_all(&world.endpoints[..1]));
    assert_eq!(world.ejected(), [1]);
    drop(world.detector);
    assert_eq!(world.stats.ejections_active.value(), 0);
}

use std::sync::Arc;

use causeway_xds::resource::Address;
use causeway_xds::resource::cluster::Selector;
use causeway_xds::resource::load_assignment::{
    Endpoint as Model, EndpointHealth, LocalityEndpoints,
};

use super::*;
use crate::cluster::{EndpointSet, Recipe};

fn labels(of: &[(&str, &str)]) -> Labels {
    let labels = of.iter();
    let labels = labels.map(|(key, value)| ((*key).to_owned(), Label::text(value)));
    labels.collect()
}

fn endpoint(port: u16, labels: Labels) -> Model {
    Model {
        health: EndpointHealth::Healthy,
        labels,
        ..Model::at(Address::Socket(([127, 0, 0, 1], port).into()))
    }
}

fn locality(weight: u32, endpoints: Vec<Model>) -> LocalityEndpoints {
    LocalityEndpoints {
        locality: Default::default(),
        priority: 0,
        weight,
        socket_labels: Labels::new(),
        endpoints: endpoints.into_iter().map(Arc::new).collect(),
    }
}

fn keys(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|key| (*key).to_owned()).collect()
}

fn selector(of: &[&str], fallback: Option<SelectorFallback>) -> Selector {
    Selector {
        keys: keys(of),
        single_host: false,
        fallback,
    }
}

fn model(selectors: Vec<Selector>) -> super::Model {
    super::Model {
        selectors,
        fallback: Fallback::Nobody,
        default_subset: Labels::new(),
        locality_weight_aware: false,
        scale_locality_weight: false,
        panic_mode_any: false,
        list_as_any: false,
    }
}

struct Cluster {
    set: EndpointSet,
    stats: ClusterStats,
}

impl Cluster {
    fn of(localities: Vec<LocalityEndpoints>, subsets: super::Model, by_locality: bool) -> Self {
        let assignment = LoadAssignment {
            localities,
            ..LoadAssignment::empty("c")
        };
        let balancing = Balancing {
            subsets: Some(subsets),
            by_locality,
            ..Balancing::default()
        };
        Self {
            set: EndpointSet::build(
                &assignment,
                &Recipe::plain(&balancing),
                &EndpointSet::default(),
            ),
            stats: ClusterStats::default(),
        }
    }

    /// Version 1 at port 1, version 2 at ports 2 and 3; who of them has no stage, 4 has nothing.
    fn new(subsets: super::Model) -> Self {
        let endpoints = vec![
            endpoint(1, labels(&[("v", "1"), ("stage", "prod")])),
            endpoint(2, labels(&[("v", "2"), ("stage", "prod")])),
            endpoint(3, labels(&[("v", "2")])),
            endpoint(4, Labels::new()),
        ];
        Self::of(vec![locality(0, endpoints)], subsets, false)
    }

    /// The ports that come up, each once.
    fn ports(&self, wanted: &[(&str, &str)]) -> Vec<usize> {
        let wanted = labels(wanted);
        let subsets = self.set.subsets().unwrap();
        let one = |_| {
            let all = self.set.all();
            let policy = &Policy::RoundRobin;
            let chosen = subsets.choose(all, policy, None, Some(&wanted), &self.stats);
            chosen.place.map(|place| place as usize + 1)
        };
        let ports: BTreeSet<usize> = (0..40).filter_map(one).collect();
        ports.into_iter().collect()
    }
}

#[test]
fn a_request_gets_an_endpoint_with_the_labels_that_it_asks_for() {
    let both = model(vec![
        selector(&["v"], None),
        selector(&["stage", "v"], None),
    ]);
    let cluster = Cluster::new(both);
    assert_eq!(cluster.ports(&[("v", "1")]), [1]);
    assert_eq!(cluster.stats.lb_subsets_selected.value(), 40);
    assert_eq!(cluster.ports(&[("v", "2")]), [2, 3]);
    assert_eq!(cluster.ports(&[("v", "2"), ("stage", "prod")]), [2]);
    // Nobody has it, or no selector has exactly these keys.
    for wanted in [
        &[("v", "3")][..],
        &[("stage", "prod")],
        &[("v", "1"), ("stage", "prod"), ("x", "y")],
        &[],
    ] {
        assert_eq!(cluster.ports(wanted), [0_usize; 0], "{wanted:?}");
    }
    assert_eq!(cluster.set.subsets().unwrap().count(), 4);
}

#[test]
fn what_no_subset_serves_goes_where_the_fallback_says() {
    let with = |fallback, default: &[(&str, &str)], panic| {
        let mut model = model(vec![selector(&["v"], None)]);
        model.fallback = fallback;
        model.default_subset = labels(default);
        model.panic_mode_any = panic;
        Cluster::new(model)
    };
    let any = with(Fallback::Any, &[], false);
    assert_eq!(any.ports(&[("v", "9")]), [1, 2, 3, 4]);
    assert_eq!(any.ports(&[]), [1, 2, 3, 4]);
    assert_eq!(any.stats.lb_subsets_fallback.value(), 80);
    let default = with(Fallback::Default, &[("stage", "prod")], false);
    assert_eq!(default.ports(&[("v", "9")]), [1, 2]);
    let empty = with(Fallback::Default, &[("stage", "no")], false);
    assert_eq!(empty.ports(&[("v", "9")]), [0_usize; 0]);
    let panic = with(Fallback::Default, &[("stage", "no")], true);
    assert_eq!(panic.ports(&[("v", "9")]), [1, 2, 3, 4]);
    assert_eq!(panic.stats.lb_subsets_fallback_panic.value(), 40);
    assert_eq!(panic.stats.lb_subsets_fallback.value(), 0);
}

#[test]
fn a_selector_may_have_a_fallback_of_its_own() {
    let to = |fallback| Some(SelectorFallback::To(fallback));
    let mut model = model(vec![
        selector(&["v"], to(Fallback::Any)),
        selector(&["v", "stage"], Some(SelectorFallback::Keys(keys(&["v"])))),
        selector(&["stage"], to(Fallback::Default)),
        selector(&["x"], to(Fallback::Nobody)),
    ]);
    model.fallback = Fallback::Any;
    model.default_subset = labels(&[("v", "1")]);
    let cluster = Cluster::new(model);
    assert_eq!(cluster.ports(&[("v", "2"), ("stage", "no")]), [2, 3]);
    assert_eq!(cluster.ports(&[("v", "9"), ("stage", "no")]), [1, 2, 3, 4]);
    assert_eq!(cluster.ports(&[("stage", "no")]), [1]);
    assert_eq!(cluster.ports(&[("x", "1")]), [0_usize; 0]);
    assert_eq!(cluster.ports(&[("y", "1")]), [1, 2, 3, 4]);
    assert_eq!(cluster.stats.lb_subsets_fallback.value(), 40);
}

#[test]
fn a_list_stands_for_each_of_its_elements_where_that_is_asked_for() {
    let list = Label::List(vec![Label::text("1"), Label::text("2"), Label::text("1")]);
    let several = Labels::from([("v".to_owned(), list)]);
    let with = |list_as_any| {
        let mut model = model(vec![selector(&["v"], None)]);
        model.list_as_any = list_as_any;
        model.fallback = Fallback::Default;
        model.default_subset = labels(&[("v", "2")]);
        let endpoints = vec![
            endpoint(1, several.clone()),
            endpoint(2, labels(&[("v", "1")])),
        ];
        Cluster::of(vec![locality(0, endpoints)], model, false)
    };
    assert_eq!(with(true).ports(&[("v", "1")]), [1, 2]);
    assert_eq!(with(true).ports(&[("v", "2")]), [1]);
    assert_eq!(with(true).ports(&[("v", "3")]), [1], "the default subset");
    assert_eq!(with(false).ports(&[("v", "1")]), [2]);
    assert_eq!(with(false).ports(&[("v", "2")]), [0_usize; 0]);
}

#[test]
fn a_subset_of_one_is_its_first_endpoint_whatever_its_health() {
    let mut single = selector(&["id"], None);
    single.single_host = true;
    let mut sick = endpoint(1, labels(&[("id", "a")]));
    sick.health = EndpointHealth::Unhealthy;
    let endpoints = vec![
        sick,
        endpoint(2, labels(&[("id", "a")])),
        endpoint(3, labels(&[("id", "b")])),
    ];
    let cluster = Cluster::of(vec![locality(0, endpoints)], model(vec![single]), false);
    assert_eq!(cluster.ports(&[("id", "a")]), [1]);
    assert_eq!(cluster.ports(&[("id", "b")]), [3]);
    assert_eq!(cluster.set.subsets().unwrap().duplicates, 1);
}

#[test]
fn weights_of_localities_count_in_subsets_where_that_is_asked_for() {
    let version = |port| endpoint(port, labels(&[("v", "1")]));
    let other = |port| endpoint(port, Labels::new());
    let share = |aware, scaled| {
        let mut model = model(vec![selector(&["v"], None)]);
        model.locality_weight_aware = aware;
        model.scale_locality_weight = scaled;
        let localities = vec![
            locality(50, vec![version(1), other(2)]),
            locality(50, vec![version(3), version(4)]),
        ];
        let cluster = Cluster::of(localities, model, true);
        let subsets = cluster.set.subsets().unwrap();
        let wanted = labels(&[("v", "1")]);
        let all = cluster.set.all();
        let one = |_: &u32| {
            let policy = &Policy::RoundRobin;
            let chosen = subsets.choose(all, policy, None, Some(&wanted), &cluster.stats);
            chosen.place == Some(0)
        };
        (0..600).filter(one).count()
    };
    assert_eq!(share(false, false), 200);
    assert_eq!(share(true, false), 300);
    assert_eq!(share(true, true), 200);
}

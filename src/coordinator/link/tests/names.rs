//! Kernels that are announced by name.

use serde_json::json;

use super::double::{Coordinator, Rig, circuit, config};
use super::{SECOND, model};
use crate::coordinator::event::Notice;
use crate::coordinator::resolve::tests::Service;

#[tokio::test(start_paused = true)]
async fn kernels_are_followed_by_name() {
    let named = |n: u8, label: &str| {
        let mut value = circuit(n, label);
        value["route_info"][0]["kernel_host"] = json!("node7");
        value
    };
    let names = Service::default();
    let coordinator = Coordinator::default();
    coordinator.lists(&[named(1, "a")]);
    let mut rig = Rig::resolving(coordinator, config(), true, names.resolver());
    rig.tell(Notice::Subscribed).await;
    rig.listings(1).await;
    let kernel = async |rig: &Rig, n: u8| {
        let circuit = rig.circuits.get(model::circuit(n, "x").id).await.unwrap();
        circuit.routes[0].address.map(|at| at.ip().to_string())
    };
    assert_eq!(rig.served().await, ["a"], "without a kernel");
    assert_eq!(kernel(&rig, 1).await, None);

    // It is tried again soon, and what is found is a change of kernels.
    names.says("node7", &["10.0.0.7"]);
    rig.listings(2).await;
    let times = rig.coordinator.times("circuits");
    assert!(times[1] - times[0] <= SECOND * 11, "{times:?}");
    assert_eq!(kernel(&rig, 1).await.unwrap(), "10.0.0.7");
    let generation = rig.generation();
    rig.listings(3).await;
    let times = rig.coordinator.times("circuits");
    assert!(times[2] - times[1] > SECOND * 59, "in turn again");
    assert_eq!(rig.generation(), generation, "the same resolution");

    // The name service is away: the last answer counts, for events as well.
    names.forgets("node7");
    rig.created(&[named(2, "b")]).await;
    assert_eq!(kernel(&rig, 2).await.unwrap(), "10.0.0.7");
    assert!(rig.reply().is_some());
    names.says("node7", &["10.0.0.8"]);
    rig.coordinator.lists(&[named(1, "a"), named(2, "b")]);
    rig.listings(4).await;
    assert_eq!(kernel(&rig, 1).await.unwrap(), "10.0.0.8", "moved");

    while rig.reply().is_some() {}
    // One that is not known at all does not hold up the reply, nor the kernel beside it.
    let mut half = circuit(3, "c");
    half["route_info"] = json!([{"kernel_host": "nowhere", "kernel_port": 1}, {"kernel_port": 2}]);
    rig.created(std::slice::from_ref(&half)).await;
    assert_eq!(rig.reply(), Some(vec![half]));
    let half = rig.circuits.get(model::circuit(3, "x").id).await.unwrap();
    let reached: Vec<bool> = half.routes.iter().map(|r| r.address.is_some()).collect();
    assert_eq!(reached, [false, true]);
}

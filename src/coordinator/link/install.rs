//! From circuits as they came to circuits in force. One that cannot be used never takes another
//! with it: what is bad is sorted out before, and what the control plane does not want after.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use tracing::warn;
use uuid::Uuid;

use super::super::model::{Circuit, Slot};
use super::super::registry::Owner;
use super::super::resolve::names_of;
use super::super::wire::WireCircuit;
use super::super::{Applied, Circuits, PushError};
use crate::util::time::parse_timestamp;

/// How often a refused batch is tried again without whom the refusal names. Every try names all
/// that are refused at the time, so one is the rule.
const TRIES: usize = 8;

/// Refusals that are logged one by one; of the rest the number is.
const LOGGED: usize = 20;

/// Circuits of one message.
#[derive(Debug, Default)]
pub struct Sorted {
    pub good: Vec<Circuit>,
    pub bad: Vec<Bad>,
}

/// A circuit that cannot be installed.
#[derive(Clone, Debug)]
pub struct Bad {
    /// If not even that can be read, `None`.
    pub id: Option<Uuid>,
    pub reason: String,
    /// As it came.
    pub value: Value,
}

/// What the kernels of circuits are called, as far as that can be read. Too much does no harm.
pub fn names(circuits: &[Value]) -> BTreeSet<String> {
    let routes = circuits
        .iter()
        .filter_map(|c| c.get("route_info")?.as_array());
    let hosts = routes.flatten().map(|route| {
        let host = route
            .get("kernel_host")
            .or_else(|| route.get("kernel-host"));
        host.and_then(Value::as_str)
    });
    names_of(hosts)
}

pub fn id_of(circuit: &Value) -> Option<Uuid> {
    circuit.get("id")?.as_str()?.parse().ok()
}

/// Sorts what can be installed from what cannot. Of several with the same id the last counts, of
/// several in one slot the youngest.
pub fn sort(circuits: &Circuits, values: &[Value]) -> Sorted {
    let mut sorted = Sorted::default();
    let mut ids: HashMap<Uuid, usize> = HashMap::with_capacity(values.len());
    let mut slots: HashMap<Slot, usize> = HashMap::with_capacity(values.len());
    let mut good: Vec<Option<(Circuit, &Value)>> = Vec::with_capacity(values.len());
    for value in values {
        let circuit = match read(circuits, value) {
            Ok(circuit) => circuit,
            Err(reason) => {
                sorted.bad.push(Bad::new(value, reason));
                continue;
            }
        };
        if let Some(at) = ids.remove(&circuit.id)
            && let Some((earlier, _)) = good[at].take()
        {
            slots.remove(&earlier.slot);
        }
        if let Some(at) = slots.get(&circuit.slot).copied()
            && let Some((rival, theirs)) = good[at].take()
        {
            let lost = |to: &Circuit| format!("{} belongs to the younger {}", to.slot, to.id);
            if created(&rival) > created(&circuit) {
                sorted.bad.push(Bad::new(value, lost(&rival)));
                good[at] = Some((rival, theirs));
                continue;
            }
            sorted.bad.push(Bad::new(theirs, lost(&circuit)));
            ids.remove(&rival.id);
        }
        slots.insert(circuit.slot.clone(), good.len());
        ids.insert(circuit.id, good.len());
        good.push(Some((circuit, value)));
    }
    sorted.good = good.into_iter().flatten().map(|(c, _)| c).collect();
    sorted
}

fn created(circuit: &Circuit) -> Option<std::time::SystemTime> {
    parse_timestamp(circuit.created_at.as_ref()?.as_str()?)
}

fn read(circuits: &Circuits, value: &Value) -> Result<Circuit, String> {
    let filtered = without_unhealthy(value);
    let wire = WireCircuit::deserialize(filtered.as_ref().unwrap_or(value));
    let circuit = Circuit::try_from(wire.map_err(|e| e.to_string())?).map_err(|f| f.to_string())?;
    circuits.serves(&circuit).map_err(|f| f.to_string())?;
    Ok(circuit)
}

/// A 25.x Coordinator probes the replicas of model services and sends events with healthy routes
/// only, yet lists all of them, with their health. Once one has a health, all are probed, and those
/// that are not healthy take no traffic. `None`: nothing to leave out.
fn without_unhealthy(circuit: &Value) -> Option<Value> {
    if circuit.get("app_mode")?.as_str()? != "inference" {
        return None;
    }
    let routes = circuit.get("route_info")?.as_array()?;
    let health = |route: &Value| {
        route
            .get("health_status")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    if routes.iter().all(|route| health(route).is_none()) {
        return None;
    }
    let healthy = |route: &&Value| health(route).as_deref() == Some("healthy");
    let kept: Vec<Value> = routes.iter().filter(healthy).cloned().collect();
    let mut circuit = circuit.clone();
    circuit["route_info"] = Value::Array(kept);
    Some(circuit)
}

impl Bad {
    fn new(value: &Value, reason: String) -> Self {
        Self {
            id: id_of(value),
            reason,
            value: value.clone(),
        }
    }

    /// Whether an earlier version may go on being served. Not if the refused one says otherwise
    /// about who may come in: better closed than open to the wrong people.
    pub fn may_stay(&self, known: &Circuit) -> bool {
        let text = |name: &str| self.value.get(name).and_then(Value::as_str);
        let open = self.value.get("open_to_public").and_then(Value::as_bool);
        let user = known.user_id.map(|id| id.to_string());
        open.unwrap_or(false) == known.open_to_public
            && text("allowed_client_ips") == known.allowed_client_ips.as_deref()
            && text("user_id") == user.as_deref()
    }
}

/// Says once for each circuit why it is not installed, within bounds.
pub fn log(bad: &[Bad]) {
    for Bad { id, reason, value } in bad.iter().take(LOGGED) {
        let app = value.get("app").and_then(Value::as_str).unwrap_or_default();
        match id {
            Some(circuit) => warn!(%circuit, app, reason, "circuit not installed"),
            None => warn!(app, reason, "circuit without a usable id not installed"),
        }
    }
    if bad.len() > LOGGED {
        warn!(more = bad.len() - LOGGED, "more circuits not installed");
    }
}

/// What became of a batch.
#[derive(Debug)]
pub struct Installed {
    pub applied: Applied,
    /// Whom the control plane did not want.
    pub refused: Vec<Bad>,
}

/// Adds `good`, or, with `keep`, makes it the whole set but for those named there.
///
/// # Errors
/// The control plane is gone, or refuses without saying whom.
pub async fn install(
    circuits: &Arc<Circuits>,
    mut good: Vec<Circuit>,
    mut keep: Option<HashSet<Uuid>>,
) -> Result<Installed, PushError> {
    let mut refused = Vec::new();
    let mut tries = TRIES;
    loop {
        tries -= 1;
        let batch = good.clone();
        let result = match &keep {
            None => circuits.announce(Owner::Coordinator, batch).await,
            Some(keep) => {
                let keep = keep.clone();
                circuits.replace_all(Owner::Coordinator, batch, keep).await
            }
        };
        let (fault, culprits) = match result {
            Ok(applied) => return Ok(Installed { applied, refused }),
            Err(PushError::Refused { fault, circuits }) if tries > 0 => (fault, circuits),
            Err(other) => return Err(other),
        };
        let (out, rest): (Vec<_>, Vec<_>) =
            good.into_iter().partition(|c| culprits.contains(&c.id));
        if out.is_empty() {
            let circuits = culprits;
            return Err(PushError::Refused { fault, circuits });
        }
        good = rest;
        for circuit in out {
            let id = circuit.id;
            let bad = Bad {
                id: Some(id),
                reason: format!("refused by the control plane: {fault}"),
                value: serde_json::to_value(&circuit).unwrap_or_default(),
            };
            // Its earlier version stays, if it may.
            let known = circuits.get(id).await;
            if let Some(keep) = &mut keep
                && known.is_some_and(|known| bad.may_stay(&known))
            {
                keep.insert(id);
            }
            refused.push(bad);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::double::circuits_without_control;
    use super::*;

    fn circuit(n: u8, subdomain: &str) -> Value {
        json!(crate::coordinator::testing::circuit(n, subdomain))
    }

    fn ids(circuits: &[Circuit]) -> Vec<Option<Uuid>> {
        circuits.iter().map(|c| Some(c.id)).collect()
    }

    #[test]
    fn bad_circuits_are_sorted_out_with_their_reasons() {
        let circuits = circuits_without_control();
        let mut private = circuit(2, "b");
        private["open_to_public"] = json!(false);
        let mut misnamed = circuit(3, "c");
        misnamed["subdomain"] = json!("no label");
        let values = [
            circuit(1, "a"),
            private,
            json!({"id": "nonsense"}),
            json!(5),
            misnamed,
            circuit(4, "d"),
        ];
        let sorted = sort(&circuits, &values);
        assert_eq!(ids(&sorted.good), [id_of(&values[0]), id_of(&values[5])]);
        let bad: Vec<_> = sorted.bad.iter().map(|bad| bad.id).collect();
        assert_eq!(bad, [id_of(&values[1]), None, None, id_of(&values[4])]);
        assert!(sorted.bad[0].reason.starts_with("open_to_public: "));
    }

    #[test]
    fn of_two_in_one_place_the_younger_counts() {
        let circuits = circuits_without_control();
        let dated = |n, date: &str| {
            let mut value = circuit(n, "a");
            value["created_at"] = json!(date);
            value
        };
        let (old, young) = (
            dated(1, "2026-01-01T00:00:00Z"),
            dated(2, "2026-01-02T00:00:00Z"),
        );
        for order in [[&old, &young], [&young, &old]] {
            let sorted = sort(&circuits, &order.map(Clone::clone));
            assert_eq!(ids(&sorted.good), [id_of(&young)]);
            assert_eq!(sorted.bad[0].id, id_of(&old));
        }
        let undated = sort(&circuits, &[circuit(1, "a"), circuit(2, "a")]);
        assert_eq!(ids(&undated.good), [id_of(&young)], "else the later");
        let moved = sort(
            &circuits,
            &[circuit(1, "a"), circuit(1, "b"), circuit(2, "a")],
        );
        assert_eq!(moved.good.len(), 2, "of two with one id the last");
        assert!(moved.bad.is_empty());
    }

    #[test]
    fn unhealthy_replicas_take_no_traffic() {
        let mut service = circuit(1, "a");
        let route =
            |port: u16, health: Value| json!({"kernel_port": port, "health_status": health});
        let read = |service: &Value| {
            let routes = sort(&circuits_without_control(), std::slice::from_ref(service));
            let routes = routes.good[0].routes.iter();
            routes.map(|r| r.kernel_port).collect::<Vec<_>>()
        };
        service["route_info"] = json!([
            route(1, json!("healthy")),
            route(2, json!("unhealthy")),
            route(3, json!(null)),
        ]);
        assert_eq!(
            read(&service),
            [1, 2, 3],
            "an interactive app has no probes"
        );
        service["app_mode"] = json!("inference");
        assert_eq!(read(&service), [1]);
        service["route_info"] = json!([route(1, json!(null)), route(2, json!(null))]);
        assert_eq!(read(&service), [1, 2], "not probed");
    }

    #[test]
    fn an_earlier_version_stays_unless_access_changed() {
        let known = crate::coordinator::testing::circuit(1, "a");
        let stays = |field: &str, value: Value| {
            let mut changed = json!(known);
            changed[field] = value;
            Bad::new(&changed, String::new()).may_stay(&known)
        };
        assert!(stays("app", json!("x")));
        assert!(!stays("open_to_public", json!(false)));
        assert!(!stays("allowed_client_ips", json!("10.0.0.0/8")));
        assert!(!stays("user_id", json!(Uuid::from_u128(5))));
    }
}

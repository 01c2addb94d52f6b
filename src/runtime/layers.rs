//! Values by key that override what configuration says (Envoy calls these the runtime).
//!
//! Who needs a value asks for its [`Key`] once, when a snapshot is compiled. Reading a key is one
//! atomic load; whoever changes a value writes it into the keys that are out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use causeway_xds::resource::fraction::Fraction;

use crate::config::bootstrap::Runtime;

/// Most keys that an operator can set, so that the management port cannot fill the memory.
const MAX_KEYS: usize = 1000;

/// The layers of the process.
#[derive(Debug, Default)]
pub struct Layers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    layers: Runtime,
    keys: HashMap<String, Weak<AtomicU64>>,
}

/// The value of one key, as it is now.
#[derive(Clone, Debug)]
pub struct Key(Arc<AtomicU64>);

/// Why a value was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unchanged {
    #[error("No admin layer specified")]
    NoAdminLayer,
    #[error("Too many keys")]
    TooMany,
}

impl Layers {
    pub fn new(layers: Runtime) -> Self {
        let state = State {
            layers,
            keys: HashMap::new(),
        };
        Self {
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of `name`, which may be set later.
    pub fn key(&self, name: &str) -> Key {
        let mut state = self.lock();
        if let Some(cell) = state.keys.get(name).and_then(Weak::upgrade) {
            return Key(cell);
        }
        // Keys of snapshots that are gone.
        state.keys.retain(|_, cell| cell.strong_count() > 0);
        let cell = Arc::new(AtomicU64::new(packed(state.layers.value(name))));
        state.keys.insert(name.to_owned(), Arc::downgrade(&cell));
        Key(cell)
    }

    /// Sets values in the layer that is there for it; an empty value removes one.
    ///
    /// # Errors
    /// There is no such layer, or it would get too large. Nothing is changed then.
    pub fn modify(
        &self,
        values: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), Unchanged> {
        let mut state = self.lock();
        let State { layers, keys } = &mut *state;
        let admin = layers.layers.iter_mut().rev().find(|layer| layer.admin);
        let admin = admin.ok_or(Unchanged::NoAdminLayer)?;
        let mut changed = admin.values.clone();
        let mut names = Vec::new();
        for (name, value) in values {
            if value.is_empty() {
                changed.remove(&name);
            } else {
                changed.insert(name.clone(), value);
            }
            names.push(name);
        }
        if changed.len() > MAX_KEYS {
            return Err(Unchanged::TooMany);
        }
        admin.values = changed;
        for name in names {
            if let Some(cell) = keys.get(&name).and_then(Weak::upgrade) {
                cell.store(packed(layers.value(&name)), Relaxed);
            }
        }
        Ok(())
    }

    /// The layers as they are now.
    pub fn current(&self) -> Runtime {
        self.lock().layers.clone()
    }
}

/// There is a value.
const SET: u64 = 1 << 63;
/// It is a share, with the index of its denominator.
const SHARE: u64 = 1 << 62;
/// It is true or false.
const FLAG: u64 = 1 << 61;
const DENOMINATORS: [u32; 3] = [100, 10_000, 1_000_000];
const DENOMINATOR_AT: u32 = 32;
const NUMBER: u64 = 0xffff_ffff;

fn packed(value: Option<&str>) -> u64 {
    let Some(value) = value else { return 0 };
    if let Ok(number) = value.trim().parse::<u64>() {
        return SET | number.min(NUMBER);
    }
    if let Ok(flag) = value.trim().parse::<bool>() {
        return SET | FLAG | u64::from(flag);
    }
    match share(value) {
        Some((numerator, denominator)) => {
            SET | SHARE | (denominator as u64) << DENOMINATOR_AT | u64::from(numerator)
        }
        None => 0,
    }
}

/// `{numerator: 5, denominator: TEN_THOUSAND}`, as bootstraps and operators write it.
fn share(text: &str) -> Option<(u32, usize)> {
    let inner = text.trim().trim_start_matches('{').trim_end_matches('}');
    let mut numerator = None;
    let mut denominator = 0;
    for field in inner.split([',', '\n']).filter(|f| !f.trim().is_empty()) {
        let (name, value) = field.split_once(':')?;
        let value = value.trim().trim_matches('"');
        match name.trim().trim_matches('"') {
            "numerator" => numerator = Some(value.parse().ok()?),
            "denominator" => {
                denominator = match value {
                    "HUNDRED" | "0" => 0,
                    "TEN_THOUSAND" | "1" => 1,
                    "MILLION" | "2" => 2,
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
    numerator.map(|numerator| (numerator, denominator))
}

impl Key {
    /// The number, if the value is one.
    pub fn number(&self) -> Option<u32> {
        let packed = self.0.load(Relaxed);
        (packed & SET != 0 && packed & (SHARE | FLAG) == 0)
            .then(|| u32::try_from(packed & NUMBER).unwrap_or(u32::MAX))
    }

    /// True or false, if the value is one.
    pub fn flag(&self) -> Option<bool> {
        let packed = self.0.load(Relaxed);
        (packed & SET != 0 && packed & FLAG != 0).then_some(packed & 1 != 0)
    }

    /// True or false, or a number, of which zero is false: what turns a feature on or off.
    pub fn switch(&self) -> Option<bool> {
        self.flag()
            .or_else(|| self.number().map(|number| number != 0))
    }

    /// The share, if the value is one; a number counts as per cent.
    pub fn fraction(&self) -> Option<Fraction> {
        let packed = self.0.load(Relaxed);
        if packed & SET == 0 || packed & FLAG != 0 {
            return None;
        }
        let index = (packed >> DENOMINATOR_AT & 3) as usize;
        let denominator = if packed & SHARE == 0 {
            100
        } else {
            DENOMINATORS[index]
        };
        Some(Fraction {
            numerator: u32::try_from(packed & NUMBER).unwrap_or(u32::MAX),
            denominator,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::bootstrap::RuntimeLayer;

    fn layers() -> Layers {
        let layer = |name: &str, admin, values: &[(&str, &str)]| RuntimeLayer {
            name: name.into(),
            admin,
            values: values
                .iter()
                .map(|(k, v)| ((*k).into(), (*v).into()))
                .collect(),
        };
        Layers::new(Runtime {
            layers: vec![
                layer(
                    "base",
                    false,
                    &[("a", "5"), ("b", "{denominator: MILLION, numerator: 7}")],
                ),
                layer("admin", true, &[]),
            ],
        })
    }

    fn fraction(numerator: u32, denominator: u32) -> Option<Fraction> {
        Some(Fraction {
            numerator,
            denominator,
        })
    }

    #[test]
    fn a_flag_is_no_number() {
        let layers = layers();
        let key = layers.key("flag");
        assert_eq!((key.flag(), key.number()), (None, None));
        let set = |value: &str| layers.modify([("flag".to_owned(), value.to_owned())]);
        set("true").unwrap();
        assert_eq!((key.flag(), key.number()), (Some(true), None));
        assert_eq!(key.fraction(), None);
        set("false").unwrap();
        assert_eq!(key.flag(), Some(false));
        set("1").unwrap();
        assert_eq!((key.flag(), key.number()), (None, Some(1)));
    }

    #[test]
    fn a_key_shows_what_an_operator_sets_and_takes_back() {
        let layers = layers();
        let (a, b, c) = (layers.key("a"), layers.key("b"), layers.key("c"));
        assert_eq!((a.number(), a.fraction()), (Some(5), fraction(5, 100)));
        assert_eq!((b.number(), b.fraction()), (None, fraction(7, 1_000_000)));
        assert_eq!((c.number(), c.fraction()), (None, None));
        let set = |name: &str, value: &str| layers.modify([(name.to_owned(), value.to_owned())]);
        set("a", "9").unwrap();
        set("c", "{\"numerator\": 1, \"denominator\": \"TEN_THOUSAND\"}").unwrap();
        assert_eq!(a.number(), Some(9));
        assert_eq!(c.fraction(), fraction(1, 10_000));
        set("a", "").unwrap();
        assert_eq!(a.number(), Some(5), "the layer below shows again");
        set("a", "word").unwrap();
        assert_eq!(a.fraction(), None);
    }

    #[test]
    fn nothing_is_set_without_a_layer_for_it() {
        let set = [("a".to_owned(), "1".to_owned())];
        assert_eq!(Layers::default().modify(set), Err(Unchanged::NoAdminLayer));
    }

    #[test]
    fn the_layer_of_the_operator_is_bounded() {
        let many = (0..=MAX_KEYS).map(|n| (n.to_string(), "1".to_owned()));
        assert_eq!(layers().modify(many), Err(Unchanged::TooMany));
    }
}

//! What filters have counted, and what outlives the configuration that it belongs to: whoever says
//! the same in the same place goes on with it.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use causeway_xds::extension::TypedExtension;

/// Below so many nobody looks for what is gone.
const FEW: usize = 64;

/// Whose it is: the place, and what is said there.
#[derive(PartialEq, Eq, Hash)]
struct Whose {
    place: String,
    type_url: String,
    config: Bytes,
}

/// By place and configuration, for as long as somebody holds it.
#[derive(Default)]
pub struct Kept(Mutex<Known>);

#[derive(Default)]
struct Known {
    all: HashMap<Whose, Weak<dyn Any + Send + Sync>>,
    /// How many there have to be before what is gone is forgotten.
    enough: usize,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Kept {
    /// What is there for this configuration in this place, or is made now.
    pub fn get<T: Any + Send + Sync>(
        &self,
        place: &str,
        config: &TypedExtension,
        make: impl FnOnce() -> T,
    ) -> Arc<T> {
        let whose = Whose {
            place: place.to_owned(),
            type_url: config.type_url.clone(),
            config: config.value.clone(),
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.all.get(&whose).and_then(Weak::upgrade);
        if let Some(found) = found.and_then(|found| found.downcast().ok()) {
            return found;
        }
        let made = Arc::new(make());
        if known.all.len() >= known.enough.max(FEW) {
            known.all.retain(|_, held| held.strong_count() > 0);
            known.enough = 2 * known.all.len();
        }
        let held: Arc<dyn Any + Send + Sync> = made.clone();
        known.all.insert(whose, Arc::downgrade(&held));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(value: &'static str) -> TypedExtension {
        TypedExtension {
            name: "n".to_owned(),
            type_url: "t".to_owned(),
            value: value.into(),
        }
    }

    #[test]
    fn the_same_word_in_the_same_place_is_the_same_for_as_long_as_it_is_held() {
        let kept = Kept::default();
        let one = kept.get("a", &config("x"), || 1);
        assert!(Arc::ptr_eq(&one, &kept.get("a", &config("x"), || 2)));
        assert_eq!(*kept.get("b", &config("x"), || 3), 3, "another place");
        assert_eq!(*kept.get("a", &config("y"), || 4), 4, "another word");
        drop(one);
        assert_eq!(*kept.get("a", &config("x"), || 5), 5, "nobody held it");
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let kept = Kept::default();
        let held = kept.get("held", &config(""), || 0);
        for i in 0..10 * FEW {
            kept.get(&i.to_string(), &config(""), || i);
        }
        assert!(kept.0.lock().unwrap().all.len() <= FEW + 1);
        assert!(Arc::ptr_eq(&held, &kept.get("held", &config(""), || 1)));
    }
}

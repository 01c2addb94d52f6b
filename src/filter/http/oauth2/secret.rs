//! The secrets of a configuration, and when they are too short to be any.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::filter::secrets::NamedSecret;

/// One that anybody can guess counts as one that is not there.
pub struct Secret {
    name: String,
    named: NamedSecret,
    /// Bytes.
    least: usize,
    /// The last one that was too short, which has been told of.
    short: ArcSwapOption<Vec<u8>>,
}

/// Not a short one either.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Secret {
    pub fn new(name: String, named: NamedSecret, least: usize) -> Self {
        Self {
            name,
            named,
            least,
            short: ArcSwapOption::empty(),
        }
    }

    pub fn get(&self) -> Option<Arc<Vec<u8>>> {
        let secret = self.named.get()?;
        // Of a file that is empty a line may be left.
        if secret.len() >= self.least && !secret.trim_ascii_end().is_empty() {
            return Some(secret);
        }
        if self.is_news(&secret) {
            tracing::warn!(
                secret = %self.name,
                least = self.least,
                "a secret that is too short counts as none"
            );
        }
        None
    }

    /// True once for each that comes.
    fn is_news(&self, secret: &Arc<Vec<u8>>) -> bool {
        let last = self.short.swap(Some(Arc::clone(secret)));
        last.is_none_or(|last| !Arc::ptr_eq(&last, secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_too_short_is_none_and_told_of_once() {
        let of = |text: &str| Secret::new("x".to_owned(), NamedSecret::of(text.as_bytes()), 16);
        assert!(of("sixteen bytes it").get().is_some());
        assert!(of(&"\n".repeat(16)).get().is_none());
        let short = of("fifteen bytes!!");
        assert!(short.get().is_none());
        let seen = short.named.get().unwrap();
        assert!(!short.is_news(&seen), "told of already");
        assert!(short.is_news(&Arc::new(seen.to_vec())), "another one");
        assert!(!format!("{short:?}").contains("bytes"));
    }
}

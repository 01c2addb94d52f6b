//! Limits of this process.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Makes sure that `count` files can be open at once, on top of what other tests have open.
pub fn allow_open_files(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= count) {
        return;
    }
    let wanted = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, wanted).unwrap();
    let now = getrlimit(Resource::Nofile).current;
    assert!(
        now.is_none_or(|now| now >= count),
        "{count} open files are needed, {now:?} allowed"
    );
}

//! Where the worker's file is when nobody says so.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Name of the worker's file.
pub const FILE: &str = "app-proxy-worker.toml";

/// Names a file outright, before any place is searched.
pub const VARIABLE: &str = "BACKEND_CONFIG_FILE";

/// A directory with a file of this name is the top of a source tree.
const MARK: &str = "BUILD_ROOT";

/// The first file there is.
///
/// # Errors
/// There is none; the places that were tried.
pub fn find() -> Result<PathBuf, Vec<PathBuf>> {
    let current = std::env::current_dir().unwrap_or_default();
    let home = std::env::home_dir();
    first(std::env::var_os(VARIABLE), &current, home.as_deref())
}

fn first(
    named: Option<OsString>,
    current: &Path,
    home: Option<&Path>,
) -> Result<PathBuf, Vec<PathBuf>> {
    // A file that somebody named and that is not there is an error, not a reason to take another.
    if let Some(named) = named.filter(|name| !name.is_empty()) {
        return Ok(PathBuf::from(named));
    }
    let places = places(current, home);
    match places.iter().position(|place| place.is_file()) {
        Some(index) => Ok(places[index].clone()),
        None => Err(places),
    }
}

fn places(current: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let mut places = vec![current.join(FILE)];
    if let Some(home) = home {
        let parents = current
            .ancestors()
            .skip(1)
            .take_while(|parent| parent.starts_with(home));
        places.extend(
            parents
                .filter(|parent| parent.join(MARK).is_file())
                .map(|parent| parent.join(FILE)),
        );
        places.push(home.join(".config/backend.ai").join(FILE));
    }
    places.push(Path::new("/etc/backend.ai").join(FILE));
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_that_has_the_file_wins() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        let (top, deep) = (home.join("src"), home.join("src/a/b"));
        let user = home.join(".config/backend.ai");
        for directory in [&deep, &user] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let found = |named: Option<&str>| first(named.map(Into::into), &deep, Some(home));
        let tried = found(None).unwrap_err();
        assert_eq!(tried.len(), 3, "no directory is marked: {tried:?}");
        assert_eq!(tried[2], Path::new("/etc/backend.ai/app-proxy-worker.toml"));

        // From the last place to the first: each one hides those before it.
        std::fs::write(top.join(MARK), "").unwrap();
        for directory in [&user, &top, &deep] {
            let file = directory.join(FILE);
            std::fs::write(&file, "").unwrap();
            assert_eq!(found(None), Ok(file));
        }
        assert_eq!(found(Some("/else/where")), Ok("/else/where".into()));
        assert_eq!(found(Some("")), Ok(deep.join(FILE)), "empty is not set");
    }

    #[test]
    fn a_mark_outside_the_home_directory_is_not_looked_at() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join(MARK), "").unwrap();
        let places = places(&outside.path().join("x"), Some(Path::new("/home/nobody")));
        assert!(!places.contains(&outside.path().join(FILE)), "{places:?}");
    }
}

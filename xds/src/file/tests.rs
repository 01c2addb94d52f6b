use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::timeout;

use super::*;
use crate::extension::Unchecked;
use crate::proto::Cluster;
use crate::store::ResourceStore;
use crate::type_url::{pack, pack_as};

fn clusters(names: &[&str]) -> String {
    let items = names.iter().map(|name| {
        format!(
            "- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: {name}\n"
        )
    });
    format!("resources:\n{}", items.collect::<String>())
}

fn start(path: &Path, watched: Option<PathBuf>) -> Receiver<Batch> {
    let (sender, receiver) = mpsc::channel(4);
    let source = FileSource::new(path, watched, ResourceType::Cluster);
    tokio::spawn(Box::new(source).run(sender));
    receiver
}

async fn names(batches: &mut Receiver<Batch>) -> Vec<String> {
    let batch = timeout(Duration::from_secs(10), batches.recv())
        .await
        .unwrap()
        .unwrap();
    let update = &batch.updates[0];
    assert_eq!(
        (update.kind, update.extent),
        (ResourceType::Cluster, Extent::StateOfTheWorld)
    );
    let name = |any: &Any| Cluster::decode(any.value.as_slice()).unwrap().name;
    update.upserts.iter().map(name).collect()
}

/// As an editor or a controller does it: a new file renamed over the old one.
fn replace(path: &Path, content: &str) {
    let next = path.with_extension("next");
    fs::write(&next, content).unwrap();
    fs::rename(next, path).unwrap();
}

#[test]
fn resources_are_unwrapped_and_versioned() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("cds.yaml");
    let wrapped = "resources:\n- \"@type\": type.googleapis.com/envoy.service.discovery.v3.Resource\n  \
                   name: a\n  resource:\n    \
                   \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n    name: a\n";
    fs::write(&path, wrapped).unwrap();
    let file = read_resources(&path, &Options::default()).unwrap();
    assert_eq!(
        file.resources,
        [pack(&Cluster {
            name: "a".into(),
            ..Default::default()
        })]
    );
    assert_eq!(file.version.len(), 16);

    fs::write(&path, format!("version_info: '7'\n{}", clusters(&["a"]))).unwrap();
    assert_eq!(
        read_resources(&path, &Options::default()).unwrap().version,
        "7"
    );
}

#[test]
fn binary_form_goes_by_suffix() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("cds.pb");
    let resources = vec![pack(&Cluster {
        name: "a".into(),
        ..Default::default()
    })];
    let response = DiscoveryResponse {
        resources: resources.clone(),
        ..Default::default()
    };
    fs::write(&path, response.encode_to_vec()).unwrap();
    assert_eq!(
        read_resources(&path, &Options::default())
            .unwrap()
            .resources,
        resources
    );
    fs::write(&path, "resources: []").unwrap();
    let error = read_resources(&path, &Options::default()).unwrap_err();
    assert!(matches!(error, FileError::Binary(_)), "{error}");
}

#[test]
fn bad_files_tell_why() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.yaml");
    let read = || read_resources(&path, &Options::default()).unwrap_err();
    assert!(matches!(read(), FileError::Read(_)));
    fs::write(&path, "\n").unwrap();
    assert!(matches!(read(), FileError::Empty));
    let wrapper =
        "resources:\n- \"@type\": type.googleapis.com/envoy.service.discovery.v3.Resource\n";
    fs::write(&path, wrapper).unwrap();
    assert_eq!(
        read().to_string(),
        "line 2, column 3: resources[0]: not a wrapped resource: it holds no resource"
    );
    fs::write(&path, "resources:\n- name: a\n").unwrap();
    assert_eq!(
        read().to_string(),
        "line 2, column 3: resources[0]: \"@type\" is missing"
    );
}

#[test]
fn what_is_refused_is_found_in_the_text() {
    let source = FileSource::new("x.yaml", None, ResourceType::Cluster);
    let mut store = ResourceStore::new();
    let mut refused = |text: &str| {
        let update = source.update(text.as_bytes()).unwrap();
        let applied = store.apply(
            &mut Batch::new(vec![update]),
            &Unchecked,
            SystemTime::UNIX_EPOCH,
        );
        let rejected: Vec<_> = applied.rejected.iter().map(ToString::to_string).collect();
        let entry = store.entry(ResourceType::Cluster, "a").unwrap();
        let kept = entry
            .rejected()
            .and_then(|refusal| refusal.location.clone());
        let passage = entry.accepted.as_ref().and_then(|a| a.passage().cloned());
        (rejected, kept, passage.map(|passage| passage.index))
    };
    let good = clusters(&["a"]);
    assert_eq!(refused(&good), (vec![], None, Some(0)));

    let bad = clusters(&["b", "a", ""]) + "  connect_timeout: -1s\n";
    let bad = bad.replace("name: a\n", "name: a\n  connect_timeout: -1s\n");
    let (rejected, kept, passage) = refused(&bad);
    assert_eq!(
        rejected,
        [
            "x.yaml: line 8, column 3: cluster \"\": name: must not be empty",
            "x.yaml: line 6, column 3: cluster \"a\": connect_timeout: must not be negative",
        ]
    );
    assert_eq!(kept.unwrap().to_string(), "x.yaml: line 6, column 3");
    assert_eq!(passage, Some(0), "that of the version in force");

    // Equal, and elsewhere in another text.
    assert_eq!(refused(&clusters(&["b", "a"])), (vec![], None, Some(1)));
}

#[test]
fn other_types_are_refused() {
    let source = FileSource::new("x.yaml", None, ResourceType::Listener);
    let any = pack_as(&Cluster::default(), ResourceType::Cluster.message_name());
    let file = ResourceFile {
        version: String::new(),
        resources: vec![any],
        listing: Some(Listing::new(
            Document::new(Some("x.yaml"), "resources:\n- {}\n"),
            LIST,
        )),
    };
    let error = source.check_types(&file).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2, column 3: resources[0]: expected envoy.config.listener.v3.Listener, \
         found envoy.config.cluster.v3.Cluster"
    );
    let source = FileSource::new("x.yaml", None, ResourceType::Secret);
    assert_eq!(source.extent, Extent::Incremental);
    assert_eq!(source.watched, Path::new("."));
}

#[tokio::test]
async fn follows_renames_and_writes_and_keeps_quiet_about_equal_content() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("cds.yaml");
    fs::write(&path, clusters(&["a"])).unwrap();
    let mut batches = start(&path, None);
    assert_eq!(names(&mut batches).await, ["a"]);

    replace(&path, &clusters(&["a", "b"]));
    assert_eq!(names(&mut batches).await, ["a", "b"]);

    replace(&path, &clusters(&["a", "b"])); // equal: nothing is sent
    replace(&path, "resources: {"); // broken: nothing is sent
    fs::write(&path, clusters(&["c"])).unwrap();
    assert_eq!(names(&mut batches).await, ["c"]);
    assert!(batches.try_recv().is_err());
}

#[tokio::test]
async fn follows_swapped_links() {
    let dir = TempDir::new().unwrap();
    for (version, name) in [("v1", "a"), ("v2", "b")] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("cds.yaml"), clusters(&[name])).unwrap();
    }
    symlink("v1", dir.path().join("..data")).unwrap();
    symlink("..data/cds.yaml", dir.path().join("cds.yaml")).unwrap();
    let mut batches = start(&dir.path().join("cds.yaml"), None);
    assert_eq!(names(&mut batches).await, ["a"]);

    symlink("v2", dir.path().join("..data_tmp")).unwrap();
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    assert_eq!(names(&mut batches).await, ["b"]);
}

#[tokio::test]
async fn waits_for_a_file_and_for_a_directory() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("later/cds.yaml");
    let mut late = start(&path, None);
    let mut early = start(&dir.path().join("cds.yaml"), None);
    fs::write(dir.path().join("cds.yaml"), clusters(&["a"])).unwrap();
    assert_eq!(names(&mut early).await, ["a"]);

    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, clusters(&["b"])).unwrap();
    assert_eq!(names(&mut late).await, ["b"]);
}

#[tokio::test]
async fn a_replaced_directory_is_watched_again() {
    let dir = TempDir::new().unwrap();
    let inner = dir.path().join("conf");
    let path = inner.join("cds.yaml");
    fs::create_dir(&inner).unwrap();
    fs::write(&path, clusters(&["a"])).unwrap();
    let mut batches = start(&path, None);
    assert_eq!(names(&mut batches).await, ["a"]);

    fs::rename(&inner, dir.path().join("old")).unwrap();
    fs::create_dir(&inner).unwrap();
    fs::write(&path, clusters(&["b"])).unwrap();
    assert_eq!(names(&mut batches).await, ["b"]);
    replace(&path, &clusters(&["c"]));
    assert_eq!(names(&mut batches).await, ["c"]);
}

//! How urgent the threads of the real program are.

use std::fs;

use rustix::process::getpriority_process;

use crate::support::client::get;
use crate::support::process::Program;

/// Name and niceness of each thread of a process: fields 2 and 19 of its `stat` (proc(5)).
fn threads(id: u32) -> Vec<(String, i32)> {
    let all = fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let stat = |entry: fs::DirEntry| {
        // One that has ended meanwhile is none.
        let text = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, named) = text.split_once('(')?;
        // A name may have anything in it.
        let (name, rest) = named.rsplit_once(") ")?;
        let nice = rest.split(' ').nth(16)?.parse().ok()?;
        Some((name.to_owned(), nice))
    };
    all.filter_map(|entry| stat(entry.unwrap())).collect()
}

#[tokio::test]
async fn data_threads_are_more_urgent_than_the_rest() {
    let own = getpriority_process(None).unwrap();
    let text = "node: {id: a, cluster: b}\n\
                admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}";
    let mut program = Program::start(&["--config-yaml", text, "--concurrency", "2"]);
    let management = program.management().await;
    // Something that the control thread leaves to a thread for work that blocks.
    let dump = get(management, "localhost", "/config_dump").await;
    assert_eq!(dump.status, 200);
    let threads = threads(program.id());
    let nices = |wanted: &str| -> Vec<i32> {
        let named = threads.iter().filter(|(name, _)| name.starts_with(wanted));
        named.map(|(_, nice)| *nice).collect()
    };
    assert_eq!(nices("data-"), [own; 2], "{threads:?}");
    let control = nices("control");
    assert!(control.len() > 1, "{threads:?}");
    let less = (own + 5).min(19);
    assert!(control.iter().all(|nice| *nice == less), "{threads:?}");
}

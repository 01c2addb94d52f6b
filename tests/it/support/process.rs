//! Processes: the limits of this one, and the real program as a child.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

pub use rustix::process::Signal;
use rustix::process::{Pid, Resource, getrlimit, kill_process, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::within;

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

/// The real program as a child. Killed when dropped.
pub struct Program {
    child: Child,
    output: Arc<Mutex<String>>,
}

/// How a program that has ended said goodbye.
pub struct Finished {
    /// `None`: a signal killed it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The program, for a test that sets more than its arguments.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
    command
        .args(arguments)
        .env("NO_COLOR", "1")
        .env_remove("RUST_LOG")
        .kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the program to its end.
pub async fn run(arguments: &[&str]) -> Finished {
    run_command(command(arguments)).await
}

pub async fn run_command(mut command: Command) -> Finished {
    let output = within("the end of a program", command.output())
        .await
        .unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Program {
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = command(arguments).spawn().unwrap();
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().unwrap(), Arc::clone(&output));
        collect(child.stderr.take().unwrap(), Arc::clone(&output));
        Self { child, output }
    }

    /// Everything it has said so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits until it has said `text`; the whole output.
    pub async fn said(&mut self, text: &str) -> String {
        let start = std::time::Instant::now();
        loop {
            let output = self.output();
            if output.contains(text) {
                return output;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "ended ({ended:?}) without {text:?}: {output}"
            );
            assert!(
                start.elapsed() < super::DEADLINE,
                "never said {text:?}: {output}"
            );
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// The management address, from the line that says that it serves.
    pub async fn management(&mut self) -> SocketAddr {
        let output = self.said("listeners=").await;
        let (_, rest) = output
            .split_once("management=Some(")
            .expect("a management port");
        rest.split(')').next().unwrap().parse().unwrap()
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id())
            .ok()
            .and_then(Pid::from_raw)
            .unwrap();
        kill_process(id, signal).unwrap();
    }

    /// Waits for its end; the exit code, `None` when a signal killed it.
    pub async fn ended(&mut self) -> Option<i32> {
        within("the end of a program", self.child.wait())
            .await
            .unwrap()
            .code()
    }
}

fn collect(mut from: impl AsyncRead + Unpin + Send + 'static, into: Arc<Mutex<String>>) {
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            into.lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
}

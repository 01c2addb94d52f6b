//! A connection for commands that is opened when needed and given up at the first doubt.

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use tracing::debug;

use super::{Address, Outage, RedisConfig, Server, within};

/// One database, one owner, one connection at most.
#[derive(Debug)]
pub struct Link {
    config: RedisConfig,
    db: i64,
    open: Option<(Address, MultiplexedConnection)>,
}

/// Codes with which a server refuses everything for the time being, or for this connection.
const NOT_NOW: [&str; 6] = [
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "NOAUTH",
    "MISCONF",
    "OOM",
];

impl Link {
    pub fn new(config: RedisConfig, db: i64) -> Self {
        Self {
            config,
            db,
            open: None,
        }
    }

    /// Sends the commands as one batch; the answers come in their order, refusals of a single one
    /// among them as [`Value::ServerError`]. On an outage it is unknown which of them were done.
    ///
    /// A connection that turns out to be closed when it is used is opened anew once: servers close
    /// connections that were idle for long.
    pub async fn run(&mut self, commands: &Pipeline) -> Result<Vec<Value>, Outage> {
        let reused = self.open.is_some();
        match self.attempt(commands).await {
            Err((outage, true)) if reused => {
                debug!(%outage, "redis connection was stale");
                self.attempt(commands).await.map_err(|(outage, _)| outage)
            }
            done => done.map_err(|(outage, _)| outage),
        }
    }

    /// Opens the connection if there is none, and makes sure that it stands and, behind sentinels,
    /// that it leads to the master.
    pub async fn check(&mut self) -> Result<(), Outage> {
        self.run(redis::pipe().cmd("PING")).await?;
        let (Server::Sentinel { .. }, Some((server, connection))) =
            (&self.config.server, &mut self.open)
        else {
            return Ok(());
        };
        let confirmed = self.config.confirm_role(connection, server).await;
        let confirmed = match confirmed {
            Ok(()) => match self.config.moved_from(server).await {
                None => Ok(()),
                Some(master) => Err(Outage::new(
                    "redis role",
                    server,
                    format!("the sentinels name {master} as master"),
                )),
            },
            failed => failed,
        };
        if confirmed.is_err() {
            self.open = None;
        }
        confirmed
    }

    /// The flag of a failure: whether the connection was closed, and not just silent.
    async fn attempt(&mut self, commands: &Pipeline) -> Result<Vec<Value>, (Outage, bool)> {
        let (server, mut connection) = match self.open.take() {
            Some(open) => open,
            None => {
                let opened = self.config.connect(self.db).await;
                opened.map_err(|outage| (outage, false))?
            }
        };
        let mut closed = false;
        let sending = async {
            let sent = connection
                .send_packed_commands(commands, 0, commands.len())
                .await;
            closed = sent.is_err();
            sent
        };
        let limit = self.config.response_timeout;
        let answers = within("redis command", &server, limit, sending).await;
        let answers = answers.map_err(|outage| (outage, closed))?;
        if let Some(refusal) = answers.iter().find_map(not_now) {
            return Err((Outage::new("redis command", &server, refusal), false));
        }
        // Kept only now: whatever went wrong before, the next attempt begins afresh.
        self.open = Some((server, connection));
        Ok(answers)
    }
}

/// What is in the way if a server does not serve at all, rather than refuse one command.
fn not_now(answer: &Value) -> Option<String> {
    let Value::ServerError(error) = answer else {
        return None;
    };
    let known = NOT_NOW.contains(&error.code());
    known.then(|| format!("{} {}", error.code(), error.details().unwrap_or("")))
}

/// The first command that was refused for what it is.
pub(in crate::coordinator) fn refused(answers: &[Value]) -> Option<String> {
    answers.iter().find_map(|answer| match answer {
        Value::ServerError(error) => Some(format!(
            "{} {}",
            error.code(),
            error.details().unwrap_or("")
        )),
        _ => None,
    })
}

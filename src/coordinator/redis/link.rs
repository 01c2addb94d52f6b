//! A connection for commands that is opened when needed and given up at the first doubt.

use std::time::Instant;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use tracing::{debug, info};

use super::{Address, Outage, RedisConfig, Server, within};

/// One database, one owner, one connection at most.
#[derive(Debug)]
pub struct Link {
    config: RedisConfig,
    db: i64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    server: Address,
    connection: MultiplexedConnection,
    /// When it was last known to lead to the master.
    confirmed: Instant,
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
        // A master that was replaced may go on taking commands for a while, and all of that is
        // lost. So it is not enough to look when there is nothing else to do.
        let due = |open: &Open| open.confirmed.elapsed() >= self.config.ping_every;
        if self.open.as_ref().is_some_and(due)
            && let Err(outage) = self.confirm().await
        {
            info!(%outage, "redis connection is left");
        }
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
        self.run(redis::pipe().cmd("PING")).await.map(drop)
    }

    /// Behind sentinels, gives up the connection if it does not lead to the master any more.
    async fn confirm(&mut self) -> Result<(), Outage> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        if let Server::Sentinel { .. } = self.config.server {
            let (server, connection) = (&open.server, &mut open.connection);
            self.config.confirm_role(connection, server).await?;
            if let Some(master) = self.config.moved_from(server).await {
                let reason = format!("the sentinels name {master} as master");
                return Err(Outage::new("redis role", server, reason));
            }
        }
        open.confirmed = Instant::now();
        self.open = Some(open);
        Ok(())
    }

    /// The flag of a failure: whether the connection was closed, and not just silent.
    async fn attempt(&mut self, commands: &Pipeline) -> Result<Vec<Value>, (Outage, bool)> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let opened = self.config.connect(self.db).await;
                let (server, connection) = opened.map_err(|outage| (outage, false))?;
                Open {
                    server,
                    connection,
                    confirmed: Instant::now(),
                }
            }
        };
        let mut closed = false;
        let sending = async {
            let sending = open
                .connection
                .send_packed_commands(commands, 0, commands.len());
            let sent = sending.await;
            closed = sent.is_err();
            sent
        };
        let limit = self.config.response_timeout;
        let answers = within("redis command", &open.server, limit, sending).await;
        let answers = answers.map_err(|outage| (outage, closed))?;
        if let Some(refusal) = answers.iter().find_map(not_now) {
            return Err((Outage::new("redis command", &open.server, refusal), false));
        }
        // Kept only now: whatever went wrong before, the next attempt begins afresh.
        self.open = Some(open);
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

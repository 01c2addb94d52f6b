//! Finding the master by asking sentinels.
//!
//! A sentinel's word is not enough: one that was cut off from the others may still name the master
//! of yesterday. So the server it names has to call itself master too, and while a connection is
//! in use the sentinels are asked again from time to time.

use redis::Value;
use redis::aio::MultiplexedConnection;
use tracing::debug;

use super::{Address, Outage, RedisConfig, Server, login, open, start, within};
use crate::util::Secret;

impl RedisConfig {
    /// Asks one sentinel after the other until one names a server that is master and can be
    /// reached.
    pub(super) async fn connect_to_master(
        &self,
        db: i64,
    ) -> Result<(Address, MultiplexedConnection), Outage> {
        let mut failed: Vec<(Address, Outage)> = Vec::new();
        let mut silent = Vec::new();
        for sentinel in self.sentinels() {
            let master = match self.ask(sentinel).await {
                Ok(master) => master,
                Err(outage) => {
                    silent.push(outage.to_string());
                    continue;
                }
            };
            if failed.iter().any(|(address, _)| *address == master) {
                continue;
            }
            match self.connect_as_master(&master, db).await {
                Ok(connection) => return Ok((master, connection)),
                Err(outage) => failed.push((master, outage)),
            }
        }
        // The most telling of them: a master that was named but does not serve.
        if let Some((_, outage)) = failed.pop() {
            return Err(outage);
        }
        let name = self.service_name();
        let reason = match silent.is_empty() {
            true => "there are no sentinels to ask".to_owned(),
            false => silent.join("; "),
        };
        Err(Outage::new("finding the redis master", &name, reason))
    }

    /// Where the master is now, if the sentinels name another server than `here`. None of them
    /// answering is no reason to leave a connection that works.
    pub(in crate::coordinator) async fn moved_from(&self, here: &Address) -> Option<Address> {
        for sentinel in self.sentinels() {
            match self.ask(sentinel).await {
                Ok(master) => return (master != *here).then_some(master),
                Err(outage) => debug!(%outage, "a sentinel does not answer"),
            }
        }
        None
    }

    async fn connect_as_master(
        &self,
        master: &Address,
        db: i64,
    ) -> Result<MultiplexedConnection, Outage> {
        let mut connection = self.connect_to(master, db).await?;
        self.confirm_role(&mut connection, master).await?;
        Ok(connection)
    }

    /// Fails if the server says that it is no master (any more). One that will not speak of its
    /// role is taken at the sentinels' word.
    pub(super) async fn confirm_role(
        &self,
        connection: &mut MultiplexedConnection,
        server: &Address,
    ) -> Result<(), Outage> {
        let mut pipe = redis::pipe();
        pipe.cmd("ROLE");
        let asking = connection.send_packed_commands(&pipe, 0, 1);
        let answers = within("redis role", server, self.response_timeout, asking).await?;
        match answers.first().and_then(role) {
            Some(b"master") | None => Ok(()),
            Some(other) => {
                let reason = format!("is no master but {}", String::from_utf8_lossy(other));
                Err(Outage::new("redis role", server, reason))
            }
        }
    }

    async fn ask(&self, sentinel: &Address) -> Result<Address, Outage> {
        let Server::Sentinel {
            sentinel_password, ..
        } = &self.server
        else {
            return Err(Outage::new("redis sentinel", sentinel, "is none"));
        };
        let answer = self.query(sentinel, sentinel_password.as_ref()).await?;
        // Older workers knew one password for everything.
        let spare = self
            .password
            .as_ref()
            .filter(|_| sentinel_password.is_none());
        let answer = match (&answer, spare) {
            (Value::ServerError(error), Some(_)) if error.code() == "NOAUTH" => {
                self.query(sentinel, spare).await?
            }
            _ => answer,
        };
        named(&answer).map_err(|reason| Outage::new("redis sentinel", sentinel, reason))
    }

    async fn query(&self, sentinel: &Address, password: Option<&Secret>) -> Result<Value, Outage> {
        let stream = open(sentinel, self.sentinel_timeout).await?;
        // Database 0 is where every connection begins; sentinels have no other.
        let login = login(password, 0);
        let mut connection = start(stream, sentinel, &login, self.sentinel_timeout).await?;
        let mut pipe = redis::pipe();
        pipe.cmd("SENTINEL")
            .arg("get-master-addr-by-name")
            .arg(self.service_name());
        let asking = connection.send_packed_commands(&pipe, 0, 1);
        let answers = within("redis sentinel", sentinel, self.sentinel_timeout, asking).await?;
        Ok(answers.into_iter().next().unwrap_or(Value::Nil))
    }

    fn sentinels(&self) -> &[Address] {
        match &self.server {
            Server::Sentinel { sentinels, .. } => sentinels,
            Server::StandAlone(_) => &[],
        }
    }

    fn service_name(&self) -> &str {
        match &self.server {
            Server::Sentinel { service_name, .. } => service_name,
            Server::StandAlone(_) => "",
        }
    }
}

/// The first word of the answer to `ROLE`.
fn role(answer: &Value) -> Option<&[u8]> {
    match answer {
        Value::Array(items) => match items.first() {
            Some(Value::BulkString(role)) => Some(role),
            _ => None,
        },
        _ => None,
    }
}

/// The master in a sentinel's answer.
fn named(answer: &Value) -> Result<Address, String> {
    match answer {
        Value::Array(items) => match items.as_slice() {
            [Value::BulkString(host), Value::BulkString(port)] => {
                let host = String::from_utf8_lossy(host).into_owned();
                let port = String::from_utf8_lossy(port);
                let port = port.parse().map_err(|_| format!("`{port}` is no port"))?;
                Ok(Address::new(host, port))
            }
            _ => Err("does not answer with a host and a port".to_owned()),
        },
        Value::Nil => Err("knows no master of this name".to_owned()),
        Value::ServerError(error) => Err(format!(
            "{} {}",
            error.code(),
            error.details().unwrap_or("")
        )),
        _ => Err("does not answer with a host and a port".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn answers_of_sentinels_are_read_or_refused() {
        let good = Value::Array(vec![text("10.0.0.1"), text("6379")]);
        assert_eq!(named(&good), Ok(Address::new("10.0.0.1", 6379)));
        for bad in [
            Value::Nil,
            Value::Okay,
            Value::Array(vec![]),
            Value::Array(vec![text("10.0.0.1"), text("70000")]),
            Value::Array(vec![text("10.0.0.1"), text("6379"), text("more")]),
        ] {
            assert!(named(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn roles_are_read_where_there_is_one() {
        assert_eq!(
            role(&Value::Array(vec![text("slave")])),
            Some(b"slave".as_slice())
        );
        assert_eq!(role(&Value::Array(vec![])), None);
        assert_eq!(role(&Value::Okay), None);
    }
}

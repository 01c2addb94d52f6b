//! `health check` and `dependencies verify`: looks at a worker and its neighbours from outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use causeway_xds::resource::tls::{TlsParameters, UpstreamTls, Validation};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::app;
use crate::config::{HostPort, WorkerConfig};
use crate::coordinator::check::{self, ProbeCoordinator, ProbeRedis, Subject};
use crate::tls::{ClientTls, PerRequest};
use crate::util::time::timestamp;

/// How long one check may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Of an answer, as much as is read.
const ENOUGH: usize = 64 * 1024;

/// Asks the worker of this file how it is.
pub async fn health(config: &WorkerConfig, stamps: bool) -> Result<()> {
    let (address, tls) = match &config.coordinator {
        Some(link) => (link.api_bind_addr, config.tls.listen.is_some()),
        None => (config.causeway.management, false),
    };
    let address = reachable(address);
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{address}/health");
    let host = address.ip().to_string();
    let result = within(ask(&host, address.port(), tls, "/health")).await;
    let result = result.and_then(|body| well(&body).map(|()| body));
    match result {
        Ok(body) => {
            say(stamps, &format!("OK      {url}"));
            println!("{body}");
            Ok(())
        }
        Err(error) => {
            say(stamps, &format!("FAILED  {url}: {error:#}"));
            bail!("the worker is not healthy")
        }
    }
}

/// Asks everything that a worker of this file depends on.
pub async fn everything(config: &WorkerConfig) -> Result<()> {
    crate::tls::install_provider();
    let (client, redis) = match &config.coordinator {
        None => (None, None),
        Some(link) => (
            Some(app::coordinator::client(config, link)?),
            Some(app::coordinator::redis(link)),
        ),
    };
    let subject = Subject::of(
        config,
        client.as_ref().map(|c| c as &dyn ProbeCoordinator),
        redis.as_ref().map(|r| r as &dyn ProbeRedis),
    );
    let checks = check::run(subject).await;
    print!("{}", check::print(&checks));
    if check::exit_code(&checks) != 0 {
        bail!("not everything that the worker needs is there");
    }
    Ok(())
}

/// Sees whether what the worker needs can be reached.
pub async fn dependencies(config: &WorkerConfig, stamps: bool) -> Result<()> {
    let Some(link) = &config.coordinator else {
        say(
            stamps,
            "OK      no Coordinator configured: nothing to depend on",
        );
        return Ok(());
    };
    let mut redis = Err(anyhow!("no address"));
    for at in link.redis.server.addresses() {
        let result = within(connect(&at.host, at.port)).await.map(drop);
        tell(stamps, &format!("redis {at}"), &result);
        // Of several Sentinels one is enough.
        redis = if redis.is_ok() { redis } else { result };
    }
    let tls = link.endpoint.scheme_str() == Some("https");
    let host = link.endpoint.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = link
        .endpoint
        .port_u16()
        .unwrap_or(if tls { 443 } else { 80 });
    let base = link.endpoint.path().trim_end_matches('/');
    let asked = within(ask(host, port, tls, &format!("{base}/status"))).await;
    tell(stamps, &format!("coordinator {}", link.endpoint), &asked);
    match (redis, asked) {
        (Ok(()), Ok(_)) => Ok(()),
        _ => bail!("a dependency cannot be reached"),
    }
}

fn tell<T>(stamps: bool, what: &str, result: &Result<T>) {
    match result {
        Ok(_) => say(stamps, &format!("OK      {what}")),
        Err(error) => say(stamps, &format!("FAILED  {what}: {error:#}")),
    }
}

fn say(stamps: bool, line: &str) {
    if stamps {
        println!("{}  {line}", timestamp(SystemTime::now()));
    } else {
        println!("{line}");
    }
}

/// An address that listens on everything is asked on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn within<T>(check: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, check)
        .await
        .map_err(|_| anyhow!("no answer within {PATIENCE:?}"))?
}

async fn connect(host: &str, port: u16) -> Result<TcpStream> {
    TcpStream::connect((host, port))
        .await
        .context("cannot connect")
}

/// GET; the body of a 200.
///
/// Certificates are not checked: this asks whether somebody is there, and tells no secret.
async fn ask(host: &str, port: u16, tls: bool, path: &str) -> Result<String> {
    let tcp = connect(host, port).await?;
    let host_port = HostPort {
        host: host.to_owned(),
        port,
    };
    let request = http::Request::get(path)
        .header(http::header::HOST, host_port.to_string())
        .header(http::header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())?;
    if !tls {
        return exchange(tcp, request).await;
    }
    let model = UpstreamTls {
        sni: String::new(),
        host_sni: false,
        sni_validation: false,
        alpn: Vec::new(),
        validation: Validation::default(),
        validation_secret: None,
        client_certificate: None,
        parameters: TlsParameters::default(),
    };
    let client = ClientTls::build(&model, &[], PerRequest::default(), &|_| None)?;
    let name = ServerName::try_from(host.to_owned())?;
    let stream = client.connector.connect(name, tcp).await?;
    exchange(stream, request).await
}

async fn exchange<S>(stream: S, request: http::Request<Empty<Bytes>>) -> Result<String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the sender; what is wrong with it is told by the request.
    tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ENOUGH).collect().await;
    let body = body.map_err(|e| anyhow!("broken answer: {e}"))?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    if status == http::StatusCode::OK {
        Ok(body)
    } else {
        bail!("{status}: {body}")
    }
}

/// Whether a health object says so. The legacy worker sends it as JSON in a JSON string.
fn well(body: &str) -> Result<()> {
    let mut value: serde_json::Value = serde_json::from_str(body).context("no health object")?;
    if let Some(inner) = value.as_str() {
        value = serde_json::from_str(inner).context("no health object")?;
    }
    match value["status"].as_str() {
        Some("error") | None => bail!("{value}"),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_health_object_are_understood() {
        assert!(well(r#"{"status":"ok"}"#).is_ok());
        assert!(well(r#""{\"status\":\"degraded\"}""#).is_ok());
        assert!(well(r#""{\"status\":\"error\"}""#).is_err());
        assert!(well(r#"{"status":"error"}"#).is_err());
        assert!(well("hello").is_err());
    }

    #[test]
    fn an_address_for_everybody_is_asked_on_loopback() {
        let asked = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(asked("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(asked("[::]:1"), "[::1]:1");
        assert_eq!(asked("10.0.0.1:1"), "10.0.0.1:1");
    }
}

//! What the system knows without asking: `/etc/resolv.conf` and `/etc/hosts`. Both are read again
//! for each lookup, as they change while programs run; a container's are written after its start.

use std::net::{IpAddr, SocketAddr};

use hickory_resolver::Hosts;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;

/// Of DNS.
const PORT: u16 = 53;

/// Both files as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text {
    pub resolv: Vec<u8>,
    pub hosts: Vec<u8>,
}

/// What is in them.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// The servers of the system, in their order.
    pub servers: Vec<SocketAddr>,
    /// What is put behind names that are not complete.
    search: Vec<Name>,
    /// A name with so many dots is tried as it is before it is searched for.
    dots: usize,
    hosts: Hosts,
}

impl Text {
    /// A file that is not there says nothing.
    pub async fn read() -> Self {
        Self {
            resolv: tokio::fs::read("/etc/resolv.conf")
                .await
                .unwrap_or_default(),
            hosts: tokio::fs::read("/etc/hosts").await.unwrap_or_default(),
        }
    }
}

impl Files {
    pub fn parse(text: &Text) -> Self {
        let mut hosts = Hosts::default();
        // What was read before a line that is no text counts.
        hosts.read_hosts_conf(text.hosts.as_slice()).ok();
        let mut files = Self {
            hosts,
            dots: 1,
            ..Self::default()
        };
        let read = match parse_resolv_conf(&text.resolv) {
            Ok((config, options)) => {
                let servers = config.name_servers().iter();
                files.servers = servers.map(|s| SocketAddr::new(s.ip, PORT)).collect();
                Some((config, options))
            }
            // The parser wants a server; what else is there counts without one.
            Err(_) => {
                let more = [&text.resolv[..], b"\nnameserver 127.0.0.1\n"].concat();
                parse_resolv_conf(more).ok()
            }
        };
        if let Some((config, options)) = read {
            files.search = config.search().to_vec();
            files.dots = options.ndots;
        }
        files
    }

    /// The addresses that the hosts file has for a complete name.
    pub fn addresses(&self, name: &Name, kind: RecordType) -> Option<Vec<IpAddr>> {
        let found = self
            .hosts
            .lookup_static_host(&Query::query(name.clone(), kind))?;
        let found = found.answers().iter();
        Some(found.filter_map(|record| record.data.ip_addr()).collect())
    }

    /// The complete names that a name may stand for, in the order in which they are tried.
    pub fn candidates(&self, name: &Name, search: bool) -> Vec<Name> {
        let mut own = name.clone();
        own.set_fqdn(true);
        // A name for this machine alone is never searched for (RFC 6761, section 6.3).
        if name.is_fqdn() || !search || own.is_localhost() {
            return vec![own];
        }
        let domains = self.search.iter();
        let searched = domains.filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut names: Vec<Name> = searched.collect();
        let dots = usize::from(name.num_labels()).saturating_sub(1);
        let place = if dots >= self.dots { 0 } else { names.len() };
        names.insert(place, own);
        names
    }
}

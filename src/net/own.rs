//! The address of this machine.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

/// The first address of this machine that others can reach, as it was when first asked for. IPv4,
/// because that is what Envoy tells in its place; `None` on a machine that has none.
pub fn own_address() -> Option<IpAddr> {
    static ADDRESS: OnceLock<Option<IpAddr>> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let interfaces = nix::ifaddrs::getifaddrs().ok()?;
        let addresses = interfaces.filter_map(|interface| interface.address);
        let mut addresses = addresses.filter_map(|a| Some(a.as_sockaddr_in()?.ip()));
        addresses
            .find(|ip: &Ipv4Addr| !ip.is_loopback())
            .map(IpAddr::V4)
    })
}

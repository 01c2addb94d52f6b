//! Connecting from an address that is the client's and not ours.

use std::io;
use std::net::SocketAddr;

use socket2::SockRef;
use tokio::net::TcpSocket;

/// Whom connections to endpoints seem to come from (`envoy.filters.listener.original_src`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// With port 0 the system chooses one.
    pub address: SocketAddr,
    /// `SO_MARK`, by which the system leads answers back to this machine; zero is none.
    pub mark: u32,
}

impl Source {
    /// A client's address. One of IPv4 in IPv6 clothes is the same address.
    pub fn new(client: SocketAddr, with_port: bool, mark: u32) -> Self {
        let port = if with_port { client.port() } else { 0 };
        let address = SocketAddr::new(client.ip().to_canonical(), port);
        Self { address, mark }
    }

    /// A socket that connects to an endpoint from there.
    ///
    /// # Errors
    /// The process may not take addresses that are not its own (`CAP_NET_ADMIN`), the port is taken,
    /// or the endpoint's address is of the other family.
    pub fn socket(self, endpoint: SocketAddr) -> io::Result<TcpSocket> {
        let address = self.address;
        if address.is_ipv4() != endpoint.is_ipv4() {
            let reason = format!("{address} is of another family than the endpoint's address");
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, reason));
        }
        let socket = new_socket(endpoint)?;
        let options = SockRef::from(&socket);
        match address {
            SocketAddr::V4(_) => options.set_ip_transparent_v4(true)?,
            SocketAddr::V6(_) => options.set_ip_transparent_v6(true)?,
        }
        set_freebind(&options, address)?;
        if self.mark != 0 {
            options.set_mark(self.mark)?;
        }
        // Another connection of the same port may go to another endpoint.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    }
}

/// One that connects to this address.
///
/// # Errors
/// The system has no more.
pub fn new_socket(to: SocketAddr) -> io::Result<TcpSocket> {
    match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// Lets a socket be bound to an address of this family that is not there (`IP_FREEBIND`).
///
/// # Errors
/// The system does not want to.
pub fn set_freebind(socket: &socket2::Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true),
        SocketAddr::V6(_) => socket.set_freebind_v6(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_the_other_family_is_told_apart() {
        let source = Source::new("[::ffff:192.0.2.1]:5".parse().unwrap(), true, 0);
        assert_eq!(source.address, "192.0.2.1:5".parse().unwrap());
        let error = source.socket("[2001:db8::1]:80".parse().unwrap());
        assert!(error.unwrap_err().to_string().contains("another family"));
        let source = Source::new("[::1]:5".parse().unwrap(), false, 0);
        assert_eq!(source.address, "[::1]:0".parse().unwrap());
    }
}

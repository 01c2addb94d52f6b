//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::source::set_freebind;

/// Connections the kernel keeps for us between two accepts.
const BACKLOG: i32 = 4096;
/// A client that has vanished without a word, as a sleeping notebook does, is noticed after this
/// silence and a few unanswered probes. Nothing else ends a tunnel without an idle timeout.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(300))
    .with_interval(Duration::from_secs(30))
    .with_retries(5);

/// What a listening socket may do that others may not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options {
    /// Take connections for addresses that are not those of this machine (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// Be bound to an address that is not there (`IP_FREEBIND`).
    pub freebind: bool,
}

/// Sockets that share one address, one per data thread; the kernel spreads connections over them.
///
/// A port of 0 is chosen once, by the first socket.
///
/// # Errors
/// The address is in use, not ours, or not permitted.
pub fn bind(
    address: SocketAddr,
    count: usize,
    options: Options,
) -> io::Result<Vec<std::net::TcpListener>> {
    if count > 1 || address.port() == 0 {
        return bind_shared(address, count, options);
    }
    Ok(vec![bind_one(address, false, options)?])
}

fn bind_shared(
    address: SocketAddr,
    count: usize,
    options: Options,
) -> io::Result<Vec<std::net::TcpListener>> {
    // SO_REUSEPORT would also let a second process of ours in, silently taking half of the
    // connections. A first, exclusive bind finds out whether the port is free.
    let address = if address.port() == 0 {
        address
    } else {
        bind_one(address, false, options).map(|_| address)?
    };
    let first = bind_one(address, true, options)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind_one(address, true, options)?);
    }
    Ok(sockets)
}

fn bind_one(
    address: SocketAddr,
    shared: bool,
    options: Options,
) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Accepted connections inherit it.
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_nonblocking(true)?;
    if options.transparent {
        match address {
            SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
            SocketAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
        }
    }
    if options.freebind {
        set_freebind(&socket, address)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_connections_are_probed() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), 1, Options::default())
            .unwrap()
            .remove(0);
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(socket2::SockRef::from(&accepted).keepalive().unwrap());
    }

    #[test]
    fn an_address_that_is_not_there_can_be_listened_at_where_that_is_wanted() {
        let nowhere = "192.0.2.77:0".parse().unwrap();
        assert!(bind(nowhere, 1, Options::default()).is_err());
        let options = Options {
            freebind: true,
            ..Options::default()
        };
        assert!(bind(nowhere, 2, options).is_ok());
    }

    #[test]
    fn a_port_in_use_is_an_error_even_when_shared() {
        let taken = bind("127.0.0.1:0".parse().unwrap(), 2, Options::default()).unwrap();
        let address = taken[0].local_addr().unwrap();
        assert_eq!(address, taken[1].local_addr().unwrap());
        assert!(bind(address, 1, Options::default()).is_err());
        assert!(bind(address, 2, Options::default()).is_err());
    }
}

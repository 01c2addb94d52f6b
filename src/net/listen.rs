//! Listening sockets.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// Connections the kernel keeps for us between two accepts.
const BACKLOG: i32 = 4096;
/// A client that has vanished without a word, as a sleeping notebook does, is noticed after this
/// silence and a few unanswered probes. Nothing else ends a tunnel without an idle timeout.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(300))
    .with_interval(Duration::from_secs(30))
    .with_retries(5);

/// Sockets that share one address, one per data thread; the kernel spreads connections over them.
///
/// A port of 0 is chosen once, by the first socket.
///
/// # Errors
/// The address is in use, not ours, or not permitted.
pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    if count > 1 || address.port() == 0 {
        return bind_shared(address, count);
    }
    Ok(vec![bind_one(address, false)?])
}

fn bind_shared(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    // SO_REUSEPORT would also let a second process of ours in, silently taking half of the
    // connections. A first, exclusive bind finds out whether the port is free.
    let address = if address.port() == 0 {
        address
    } else {
        exclusive(address)?
    };
    let first = bind_one(address, true)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(bind_one(address, true)?);
    }
    Ok(sockets)
}

fn exclusive(address: SocketAddr) -> io::Result<SocketAddr> {
    bind_one(address, false).map(|_| address)
}

fn bind_one(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
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
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_connections_are_probed() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        listener.set_nonblocking(false).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(socket2::SockRef::from(&accepted).keepalive().unwrap());
    }

    #[test]
    fn a_port_in_use_is_an_error_even_when_shared() {
        let taken = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let address = taken[0].local_addr().unwrap();
        assert_eq!(address, taken[1].local_addr().unwrap());
        assert!(bind(address, 1).is_err());
        assert!(bind(address, 2).is_err());
    }
}

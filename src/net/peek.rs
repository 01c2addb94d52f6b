//! Looking at what a client has sent without taking it.

use std::io;
use std::os::fd::AsFd;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;

use super::Io;

/// Waits until more than `seen` bytes have arrived, and copies what fits of all that have.
///
/// # Errors
/// The connection broke off, or its client will send no more ([`io::ErrorKind::UnexpectedEof`]).
/// A TLS connection cannot be looked into ([`io::ErrorKind::Unsupported`]).
pub async fn more(io: &Io, buffer: &mut [u8], seen: usize) -> io::Result<usize> {
    loop {
        let (ready, peeked) = match io {
            Io::Tcp(tcp) => {
                let ready = tcp.ready(Interest::READABLE).await?;
                let look = || look(tcp, buffer, seen);
                (ready, tcp.try_io(Interest::READABLE, look))
            }
            Io::Unix(unix) => {
                let ready = unix.ready(Interest::READABLE).await?;
                let look = || look(unix, buffer, seen);
                (ready, unix.try_io(Interest::READABLE, look))
            }
            Io::ServerTls(_) | Io::ClientTls(_) | Io::Body(_) | Io::Tunnel(_) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
        };
        match peeked {
            // The end of the stream stands behind what was seen already.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

/// Nothing new is the same as nothing: the runtime then waits for the next byte.
fn look(socket: &impl AsFd, buffer: &mut [u8], seen: usize) -> io::Result<usize> {
    let (count, _) = recv(socket, buffer, RecvFlags::PEEK)?;
    match count {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count if count > seen => Ok(count),
        _ => Err(io::ErrorKind::WouldBlock.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    use super::*;

    #[tokio::test]
    async fn what_was_looked_at_is_still_there_and_each_look_waits_for_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (tcp, accepted) = (client.await.unwrap(), listener.accept().await.unwrap().0);
        let (unix, other) = UnixStream::pair().unwrap();
        for (mut client, mut io) in [
            (Io::Tcp(tcp), Io::Tcp(accepted)),
            (Io::Unix(unix), Io::Unix(other)),
        ] {
            let mut buffer = [0; 8];
            client.write_all(b"ab").await.unwrap();
            assert_eq!(more(&io, &mut buffer, 0).await.unwrap(), 2);
            {
                let mut waiting = std::pin::pin!(more(&io, &mut buffer, 2));
                tokio::select! {
                    biased;
                    _ = &mut waiting => panic!("there is nothing new"),
                    () = tokio::task::yield_now() => {}
                }
                client.write_all(b"cd").await.unwrap();
                assert_eq!(waiting.await.unwrap(), 4);
            }
            client.write_all(b"efghij").await.unwrap();
            assert_eq!(more(&io, &mut buffer, 7).await.unwrap(), 8, "what fits");
            assert_eq!(&buffer, b"abcdefgh");
            client.shutdown().await.unwrap();
            let ended = more(&io, &mut [0; 64], 10).await.unwrap_err();
            assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
            let mut all = Vec::new();
            io.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"abcdefghij");
            let ended = more(&io, &mut buffer, 0).await.unwrap_err();
            assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}

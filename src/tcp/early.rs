//! What a client says before an endpoint is connected to (`upstream_connect_mode:
//! ON_DOWNSTREAM_DATA`).

use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead as _, ReadBuf};

use crate::net::Io;
use crate::runtime::timer::Deadline;

/// What one read may bring; nothing is held for a client that waits.
const PIECE: usize = 4096;

/// What came of waiting.
pub enum Early {
    /// Never empty.
    Data(Bytes),
    /// The client has closed its side.
    End,
    /// It said nothing for as long as is allowed.
    Idle,
    /// The longest that a connection may last has passed.
    Lasted,
    Broken(io::Error),
}

/// Waits for the first bytes of a client, up to `room` of them (one, if that is zero: there is no
/// other way to know of them). A limit that is zero is none.
pub async fn first(io: &mut Io, room: u32, idle: Duration, longest: Duration) -> Early {
    let room = usize::try_from(room).unwrap_or(PIECE).clamp(1, PIECE);
    let read = std::future::poll_fn(|cx| {
        let mut piece = [0; PIECE];
        let mut space = ReadBuf::new(&mut piece[..room]);
        let read = ready!(Pin::new(&mut *io).poll_read(cx, &mut space));
        let data = || Bytes::copy_from_slice(space.filled());
        Poll::Ready(read.map(|()| data()))
    });
    tokio::select! {
        biased;
        read = read => match read {
            Ok(data) if data.is_empty() => Early::End,
            Ok(data) => Early::Data(data),
            Err(error) => Early::Broken(error),
        },
        () = Deadline::after(longest) => Early::Lasted,
        () = Deadline::after(idle) => Early::Idle,
    }
}

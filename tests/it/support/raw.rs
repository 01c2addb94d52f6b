//! A client that sends bytes and looks at bytes.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// An answer as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in the order in which they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    /// The value of a field; empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, v)| v)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// An orderly end of the stream.
    Closed,
    Reset,
}

/// The connection ended before the answer did; what had come of its body.
#[derive(Debug)]
pub struct Broken {
    pub body: Vec<u8>,
}

impl Raw {
    pub async fn connect(at: SocketAddr) -> Self {
        Self::over(TcpStream::connect(at).await.unwrap())
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// For when the other side may have closed already.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within("sending", self.stream.write_all(bytes.as_ref())).await
    }

    /// Half-closes.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Closes with a reset, as a killed process with unread data does.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// More bytes into the buffer.
    async fn fill(&mut self) -> Result<(), End> {
        match within("more bytes", self.stream.read_buf(&mut self.buffer)).await {
            Ok(0) => Err(End::Closed),
            Ok(_) => Ok(()),
            Err(_) => Err(End::Reset),
        }
    }

    /// Exactly `count` bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            self.fill().await.unwrap_or_else(|end| {
                panic!("{end:?} after {:?}", String::from_utf8_lossy(&self.buffer))
            });
        }
        self.buffer.drain(..count).collect()
    }

    /// Everything until the connection ends.
    pub async fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.fill().await {
                return (std::mem::take(&mut self.buffer), end);
            }
        }
    }

    /// Waits for an end without another byte.
    #[track_caller]
    pub fn ended(&mut self) -> impl Future<Output = End> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            let (rest, end) = self.rest().await;
            assert!(
                rest.is_empty(),
                "{caller}: {:?}",
                String::from_utf8_lossy(&rest)
            );
            end
        }
    }

    async fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.fill().await?;
        }
    }

    async fn fields(&mut self) -> Result<Vec<(String, String)>, End> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').expect("a field");
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Status and fields, without the body.
    pub async fn head(&mut self) -> Result<Answer, End> {
        let line = self.line().await?;
        // An answer to HTTP/1.0 says HTTP/1.0.
        let rest = line
            .strip_prefix("HTTP/1.1 ")
            .or(line.strip_prefix("HTTP/1.0 "));
        let status = rest.and_then(|l| l.get(..3)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {line:?}"));
        Ok(Answer {
            status,
            headers: self.fields().await?,
            ..Answer::default()
        })
    }

    /// A whole answer to anything but HEAD.
    pub async fn try_answer(&mut self) -> Result<Answer, Broken> {
        let broken = |_| Broken { body: Vec::new() };
        let mut answer = self.head().await.map_err(broken)?;
        if matches!(answer.status, 100..200 | 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == "chunked" {
            if self.chunks(&mut answer).await.is_err() {
                answer.body.append(&mut self.buffer);
                return Err(Broken { body: answer.body });
            }
            return Ok(answer);
        }
        let length = match answer.header("content-length") {
            // Ends with the connection; a reset says that it is not whole.
            "" => {
                let (body, end) = self.rest().await;
                answer.body = body;
                return match end {
                    End::Closed => Ok(answer),
                    End::Reset => Err(Broken { body: answer.body }),
                };
            }
            text => text.parse::<usize>().unwrap(),
        };
        while self.buffer.len() < length {
            if self.fill().await.is_err() {
                return Err(Broken {
                    body: std::mem::take(&mut self.buffer),
                });
            }
        }
        answer.body = self.buffer.drain(..length).collect();
        Ok(answer)
    }

    pub async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("a whole answer")
    }

    async fn chunks(&mut self, answer: &mut Answer) -> Result<(), End> {
        loop {
            let size = self.line().await?;
            let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
            if size == 0 {
                answer.trailers = self.fields().await?;
                return Ok(());
            }
            while self.buffer.len() < size + 2 {
                self.fill().await?;
            }
            answer.body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
        }
    }
}

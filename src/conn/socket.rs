//! The socket under a connection, watched by its [`Pace`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::pace::Pace;

/// An accepted socket on its shard.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket that tells the connection's clocks what moves.
#[derive(Debug)]
pub(super) struct Paced {
    stream: Stream,
    pace: Rc<Pace>,
    /// Bytes that were read to find out the protocol and not yet given out.
    sniffed: [u8; PREFACE.len()],
    sniffed_from: usize,
    sniffed_to: usize,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sniffed {
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// The peer closed before it sent anything.
    Closed,
}

impl Paced {
    pub(super) fn new(stream: Stream, pace: Rc<Pace>) -> Self {
        Self {
            stream,
            pace,
            sniffed: [0; PREFACE.len()],
            sniffed_from: 0,
            sniffed_to: 0,
        }
    }

    /// Reads until it is clear whether the peer speaks HTTP/2; what was read is read again later.
    pub(super) async fn sniff(&mut self) -> Sniffed {
        let mut first = [0; PREFACE.len()];
        let mut have = 0;
        while let Some(rest) = first.get_mut(have..).filter(|rest| !rest.is_empty()) {
            match self.read(rest).await {
                Ok(0) | Err(_) if have == 0 => return Sniffed::Closed,
                // HTTP/1 will find out what this is.
                Ok(0) | Err(_) => break,
                Ok(count) => have += count,
            }
            if first.get(..have) != PREFACE.get(..have) {
                break;
            }
        }
        self.sniffed = first;
        self.sniffed_to = have;
        if first == *PREFACE {
            Sniffed::Http2
        } else {
            Sniffed::Http1
        }
    }

    /// Reads and discards until the peer closes or the connection is cut: a socket that is closed
    /// with unread bytes resets the connection and takes the last reply with it.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [0; 16 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut scratch);
            ready!(self.stream.poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.sniffed_from < self.sniffed_to {
            let end = self.sniffed_to.min(self.sniffed_from + buffer.remaining());
            let piece = self.sniffed.get(self.sniffed_from..end).unwrap_or_default();
            buffer.put_slice(piece);
            self.sniffed_from = end;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = self.stream.poll_read(cx, buffer);
        self.pace.note_read(buffer.filled().len() - before);
        polled
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        note_write(&self.pace, &polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        };
        note_write(&self.pace, &polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        })?;
        if self.pace.lingers() {
            return self.poll_linger(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

fn note_write(pace: &Pace, polled: &Poll<io::Result<usize>>) {
    match polled {
        Poll::Pending => pace.note_write(Poll::Pending),
        Poll::Ready(Ok(bytes)) => pace.note_write(Poll::Ready(*bytes)),
        Poll::Ready(Err(_)) => {}
    }
}

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

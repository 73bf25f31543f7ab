//! Sealed objects between the verbs and the engine: bytes are sealed on their way in and opened on
//! their way out, and sizes are those of the plain bytes.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::block::{Key, Opener, Plan, Sealer, plain_size, sealed_size};
use super::{CustomerKey, check};
use crate::clock::Entropy;
use crate::engine::{ByteStream, EngineError, Entry, Part, Range, Reader, Seal, Writer};
use crate::s3::error::S3Error;

/// A pinned entry whose bytes can be read: they are plain, or the request has the key.
#[derive(Debug)]
pub(in crate::s3) struct Opened {
    reader: Reader,
    /// As clients see it.
    entry: Arc<Entry>,
    key: Option<Key>,
}

impl Opened {
    /// Errors: a key is missing, is the wrong one, or is one too many.
    pub(in crate::s3) fn new(reader: Reader, key: Option<&CustomerKey>) -> Result<Self, S3Error> {
        check(reader.entry().seal.as_deref(), key)?;
        Ok(Self {
            entry: shown(reader.entry()),
            key: key.map(|key| key.key.clone()),
            reader,
        })
    }

    pub(in crate::s3) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// Whether what is read is verified on the way.
    pub(in crate::s3) fn verifies(&self) -> bool {
        self.key.is_some() || self.reader.verifies()
    }

    /// The entry as it is stored.
    pub(in crate::s3) fn stored(&self) -> &Arc<Entry> {
        self.reader.entry()
    }

    /// The reader of the bytes as they are stored.
    pub(in crate::s3) fn into_stored(self) -> Reader {
        self.reader
    }

    /// The plain bytes of `range`, which lies within the entry, in order.
    pub(in crate::s3) async fn read(self, range: Range) -> Result<ObjectBytes, EngineError> {
        let stored = Arc::clone(self.reader.entry());
        let (Some(seal), Some(key)) = (&stored.seal, &self.key) else {
            return Ok(ObjectBytes::Plain(self.reader.read(range)));
        };
        let plan = Plan::new(&stored, seal, range, key).map_err(|_| DAMAGED)?;
        let mut opener = plan.opener;
        if let Some(range) = plan.header {
            let mut header = Vec::new();
            let mut stream = self.reader.clone().read(range);
            while let Some(piece) = stream.next().await {
                header.extend_from_slice(&piece?);
            }
            opener.begin(&header);
        }
        Ok(ObjectBytes::Sealed(Box::new(Opening {
            stream: self.reader.read(plan.sealed),
            opener,
        })))
    }

    /// Whether nobody cut or changed an object that has no bytes to read.
    pub(in crate::s3) async fn check_empty(self) -> Result<(), EngineError> {
        if self.key.is_none() {
            return Ok(());
        }
        let mut bytes = self.read(NOTHING).await?;
        while let Some(piece) = bytes.next().await {
            piece?;
        }
        Ok(())
    }
}

/// Plain bytes of one entry, piece by piece.
#[derive(Debug)]
pub(in crate::s3) enum ObjectBytes {
    Plain(ByteStream),
    Sealed(Box<Opening>),
}

impl ObjectBytes {
    /// See [`ByteStream::set_window`].
    pub(in crate::s3) fn set_window(&mut self, bytes: usize) {
        match self {
            Self::Plain(stream) => stream.set_window(bytes),
            Self::Sealed(opening) => opening.stream.set_window(bytes),
        }
    }

    /// See [`ByteStream::poll_next`]: the same holds here.
    pub(in crate::s3) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, EngineError>>> {
        match self {
            Self::Plain(stream) => stream.poll_next(cx),
            Self::Sealed(opening) => opening.poll_next(cx),
        }
    }

    pub(in crate::s3) async fn next(&mut self) -> Option<Result<Bytes, EngineError>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

/// Sealed bytes that are opened as they come.
#[derive(Debug)]
pub(in crate::s3) struct Opening {
    stream: ByteStream,
    opener: Opener,
}

impl Opening {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, EngineError>>> {
        loop {
            match self.opener.open() {
                Ok(None) => {}
                Ok(Some(plain)) => return Poll::Ready(Some(Ok(plain))),
                Err(_) => return Poll::Ready(Some(Err(DAMAGED))),
            }
            match self.stream.poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(sealed))) => self.opener.push(&sealed),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) if self.opener.is_done() => return Poll::Ready(None),
                Poll::Ready(None) => return Poll::Ready(Some(Err(DAMAGED))),
            }
        }
    }
}

/// A writer that seals what it is given, if it has a key.
#[derive(Debug)]
pub(in crate::s3) struct Sink {
    writer: Writer,
    sealer: Option<Sealer>,
    plain_bytes: u64,
}

impl Sink {
    /// `number`: of the part, 0 for an object of one request. `seal` is of this key.
    pub(in crate::s3) fn new(
        writer: Writer,
        lock: Option<(&CustomerKey, &Seal)>,
        number: u32,
        entropy: &Entropy,
    ) -> Self {
        let sealer = lock.map(|(key, seal)| Sealer::new(&key.key, seal, number, entropy));
        Self {
            writer,
            sealer,
            plain_bytes: 0,
        }
    }

    pub(in crate::s3) async fn append(&mut self, plain: Bytes) -> Result<(), EngineError> {
        self.plain_bytes += plain.len() as u64;
        let Some(sealer) = &mut self.sealer else {
            return self.writer.append(plain).await;
        };
        let sealed = sealer.push(&plain);
        match sealed.is_empty() {
            true => Ok(()),
            false => self.writer.append(sealed).await,
        }
    }

    /// Everything was appended: the writer, to be committed, and how many plain bytes went in.
    pub(in crate::s3) async fn finish(self) -> Result<(Writer, u64), EngineError> {
        let mut writer = self.writer;
        if let Some(sealer) = self.sealer {
            writer.append(sealer.finish()).await?;
        }
        Ok((writer, self.plain_bytes))
    }
}

/// The size that the engine is to expect.
pub(in crate::s3) fn stored_size(plain_bytes: u64, is_sealed: bool) -> u64 {
    match is_sealed {
        true => sealed_size(plain_bytes),
        false => plain_bytes,
    }
}

/// An entry as clients see it: its sizes are those of the plain bytes.
pub(in crate::s3) fn shown(entry: &Arc<Entry>) -> Arc<Entry> {
    if entry.seal.is_none() {
        return Arc::clone(entry);
    }
    let mut shown = Entry::clone(entry);
    shown.size_bytes = entry.plain_bytes();
    let parts = entry.parts.iter().map(|part| Part {
        size_bytes: part_size(part, true),
        ..part.clone()
    });
    shown.parts = parts.collect();
    Arc::new(shown)
}

/// The size of a part as clients see it. A size that no part can have is shown as it is; such a
/// part cannot be read.
pub(in crate::s3) fn part_size(part: &Part, is_sealed: bool) -> u64 {
    match is_sealed {
        true => plain_size(part.size_bytes).unwrap_or(part.size_bytes),
        false => part.size_bytes,
    }
}

const NOTHING: Range = Range {
    start_bytes: 0,
    size_bytes: 0,
};
const DAMAGED: EngineError = EngineError::Corrupt {
    what: "sealed bytes of the object are not what was sealed",
};

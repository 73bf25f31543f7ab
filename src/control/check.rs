//! The check of all that is stored: every object is counted first, then read to its end. The
//! engines compare the bytes with their own checksums where they keep some; here they are compared
//! with the ETags that are an MD5 and with the checksums that clients gave.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{Stream, stream};
use md5::{Digest as _, Md5};
use tokio::sync::watch;
use tonic::Status;

use super::buckets::{on_engine, parse};
use super::proto::{self, CheckProgress, CheckState, DamagedObject};
use super::service::Service;
use crate::engine::{
    Bucket, BucketName, Checksum, ChecksumKind, ETag, EngineError, Entry, Everything, Range, Stored,
};
use crate::s3::S3;
use crate::s3::checksum::Hasher;

/// The newest check of the process; one goes on at a time.
#[derive(Debug, Default)]
pub(super) struct Checks {
    newest: Mutex<Option<Check>>,
}

#[derive(Debug)]
struct Check {
    id: u64,
    progress: watch::Receiver<CheckProgress>,
    stop: Arc<AtomicBool>,
}

impl Check {
    fn goes_on(&self) -> bool {
        // One that panicked has dropped the other end.
        is_open(self.progress.borrow().state()) && self.progress.has_changed().is_ok()
    }
}

fn is_open(state: CheckState) -> bool {
    matches!(state, CheckState::Counting | CheckState::Reading)
}

/// Begins a check of one bucket, or of all if `bucket` is empty.
pub(super) async fn start(
    service: &Service,
    bucket: &str,
) -> Result<proto::StartCheckResponse, Status> {
    let only = match bucket {
        "" => None,
        bucket => Some(parse(bucket)?),
    };
    if let Some(name) = only.clone() {
        on_engine(service, bucket, async move |s3| {
            s3.engines().bucket(&name).await
        })
        .await?;
    }
    let newest = &service.checks.newest;
    let mut newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(check) = newest.as_ref().filter(|check| check.goes_on()) {
        let id = check.id;
        return Err(Status::already_exists(format!(
            "check {id} goes on; watch it, or stop it"
        )));
    }
    let id = newest.as_ref().map_or(1, |check| check.id + 1);
    let now = CheckProgress {
        id,
        state: CheckState::Counting.into(),
        ..CheckProgress::default()
    };
    let (tell, progress) = watch::channel(now.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let work = Work {
        s3: Arc::clone(&service.s3),
        now,
        damages: Vec::new(),
        tell,
        told: Instant::now(),
        stop: Arc::clone(&stop),
    };
    tokio::task::spawn_local(work.run(only));
    *newest = Some(Check { id, progress, stop });
    Ok(proto::StartCheckResponse { id })
}

/// Ends the check that goes on.
pub(super) fn stop(service: &Service) -> Result<proto::StopCheckResponse, Status> {
    let newest = &service.checks.newest;
    let newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(check) = newest.as_ref().filter(|check| check.goes_on()) else {
        return Err(Status::not_found("no check goes on"));
    };
    check.stop.store(true, Ordering::Relaxed);
    Ok(proto::StopCheckResponse { id: check.id })
}

type ProgressStream = Pin<Box<dyn Stream<Item = Result<CheckProgress, Status>> + Send>>;

/// The progress now, and each that is newer, until the check has ended.
pub(super) fn watch(service: &Service, id: u64) -> Result<ProgressStream, Status> {
    let progress = {
        let newest = &service.checks.newest;
        let newest = newest.lock().unwrap_or_else(PoisonError::into_inner);
        let check = newest.as_ref().filter(|check| id == 0 || id == check.id);
        check.map(|check| check.progress.clone())
    };
    let Some(mut progress) = progress else {
        return Err(Status::not_found(
            "no such check was started, or a newer one was",
        ));
    };
    progress.mark_changed();
    Ok(Box::pin(stream::unfold(Some(progress), async |progress| {
        let mut progress = progress?;
        if progress.changed().await.is_err() {
            let status = Status::internal("a panic ended the check; please report it");
            return Some((Err(status), None));
        }
        let now = progress.borrow_and_update().clone();
        let rest = is_open(now.state()).then_some(progress);
        Some((Ok(now), rest))
    })))
}

/// One check as it goes on.
struct Work {
    s3: Arc<S3>,
    now: CheckProgress,
    damages: Vec<DamagedObject>,
    tell: watch::Sender<CheckProgress>,
    told: Instant,
    stop: Arc<AtomicBool>,
}

/// Why a check ends before its end.
enum End {
    Stopped,
    Failed(EngineError),
}

impl From<EngineError> for End {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

impl Work {
    async fn run(mut self, only: Option<BucketName>) {
        let ended = self.check(only).await;
        let state = match ended {
            Ok(()) => CheckState::Done,
            Err(End::Stopped) => CheckState::Stopped,
            Err(End::Failed(error)) => {
                self.now.failure = format!("the bucket `{}`: {error}", self.now.bucket);
                CheckState::Failed
            }
        };
        self.now.damages = std::mem::take(&mut self.damages);
        self.now.set_state(state);
        self.tell.send_replace(self.now);
    }

    async fn check(&mut self, only: Option<BucketName>) -> Result<(), End> {
        let mut names = Vec::from_iter(only);
        if names.is_empty() {
            let listed = self.s3.engines().list_buckets().await?;
            names.extend(listed.into_iter().map(|info| info.name));
        }
        for name in &names {
            self.now.bucket = name.to_string();
            self.count(name).await?;
        }
        self.now.set_state(CheckState::Reading);
        for name in &names {
            self.now.bucket = name.to_string();
            self.read(name).await?;
        }
        Ok(())
    }

    async fn count(&mut self, name: &BucketName) -> Result<(), End> {
        let Some(bucket) = self.open(name).await? else {
            return Ok(());
        };
        let mut all = Everything::of(bucket).await?;
        while let Some(page) = all.next_page().await? {
            for (_, entry) in page {
                self.now.objects_total += 1;
                self.now.bytes_total += entry.size_bytes;
            }
            self.step().await?;
        }
        Ok(())
    }

    async fn read(&mut self, name: &BucketName) -> Result<(), End> {
        let Some(bucket) = self.open(name).await? else {
            return Ok(());
        };
        let mut all = Everything::of(bucket).await?;
        while let Some(page) = all.next_page().await? {
            for stored in &page {
                self.object(&all, stored).await?;
                self.step().await?;
            }
        }
        Ok(())
    }

    /// A bucket that went away meanwhile is no longer there.
    async fn open(&self, name: &BucketName) -> Result<Option<Bucket>, EngineError> {
        match self.s3.engines().bucket(name).await {
            Ok(bucket) => Ok(Some(bucket)),
            Err(EngineError::NoSuchBucket) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tells how far it is, lets others have the thread, and ends if that is wanted.
    async fn step(&mut self) -> Result<(), End> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(End::Stopped);
        }
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            self.tell.send_replace(self.now.clone());
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Reads one object. One that others change meanwhile is read again, a few times.
    async fn object(&mut self, all: &Everything, stored: &Stored) -> Result<(), End> {
        self.now.objects += 1;
        let bytes_before = self.now.bytes;
        for _ in 0..TRIES {
            self.now.bytes = bytes_before;
            match self.compare(all, stored).await {
                Ok(None) => return Ok(()),
                Ok(Some(what)) => {
                    self.damaged(stored, what.to_owned());
                    return Ok(());
                }
                Err(End::Failed(EngineError::Changed)) => {}
                Err(End::Failed(
                    EngineError::NoSuchKey
                    | EngineError::NoSuchVersion
                    | EngineError::DeleteMarker { .. }
                    | EngineError::NoSuchBucket,
                )) => break,
                Err(End::Failed(error)) => {
                    self.damaged(stored, error.to_string());
                    return Ok(());
                }
                Err(End::Stopped) => return Err(End::Stopped),
            }
        }
        self.now.skipped += 1;
        Ok(())
    }

    /// What is wrong with the object, if something is.
    async fn compare(
        &mut self,
        all: &Everything,
        stored: &Stored,
    ) -> Result<Option<&'static str>, End> {
        let reader = all.open(stored).await?;
        let mut expected = Expected::of(reader.entry());
        let size_bytes = reader.entry().size_bytes;
        if size_bytes > 0 {
            let mut bytes = reader.read(Range {
                start_bytes: 0,
                size_bytes,
            });
            while let Some(piece) = bytes.next().await {
                let piece = piece?;
                self.now.bytes += piece.len() as u64;
                expected.update(&piece);
                self.step().await?;
            }
        }
        Ok(expected.verdict())
    }

    fn damaged(&mut self, (key, entry): &Stored, what: String) {
        self.now.damaged += 1;
        if self.damages.len() < DAMAGES_MAX {
            self.damages.push(DamagedObject {
                bucket: self.now.bucket.clone(),
                key: key.to_string(),
                version: entry.version.to_string(),
                what,
            });
        }
    }
}

/// What the bytes of an object must give.
struct Expected {
    /// Pieces one after the other: bytes that are left of each, and its MD5 where that is known.
    pieces: std::vec::IntoIter<(u64, Option<ETag>)>,
    piece: Option<(u64, Option<ETag>)>,
    md5: Md5,
    checksum: Option<(Hasher, Checksum)>,
    wrong: Option<&'static str>,
}

impl Expected {
    fn of(entry: &Entry) -> Self {
        let md5 = |etag: &ETag| Some(etag.clone()).filter(is_md5);
        let pieces: Vec<_> = match &*entry.parts {
            [] => vec![(entry.size_bytes, md5(&entry.etag))],
            parts => {
                let of = |part: &crate::engine::Part| (part.size_bytes, md5(&part.etag));
                parts.iter().map(of).collect()
            }
        };
        // That of sealed bytes is about what nobody can read here.
        let whole = entry.checksum.clone().filter(|_| entry.seal.is_none());
        let whole = whole.filter(|sum| sum.kind == ChecksumKind::FullObject);
        let mut pieces = pieces.into_iter();
        let mut expected = Self {
            piece: pieces.next(),
            pieces,
            md5: Md5::new(),
            checksum: whole.map(|sum| (Hasher::new(sum.algorithm), sum)),
            wrong: None,
        };
        expected.turn();
        expected
    }

    fn update(&mut self, mut bytes: &[u8]) {
        if let Some((hasher, _)) = &mut self.checksum {
            hasher.update(bytes);
        }
        while let Some((left, etag)) = &mut self.piece
            && !bytes.is_empty()
        {
            let count = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (now, later) = bytes.split_at(count);
            if etag.is_some() {
                self.md5.update(now);
            }
            *left -= count as u64;
            bytes = later;
            self.turn();
        }
    }

    /// Goes on to the next piece, past those that are complete.
    fn turn(&mut self) {
        while let Some((0, etag)) = &self.piece {
            let digest = std::mem::take(&mut self.md5).finalize();
            let is_other = |etag: &ETag| *etag != ETag::from_md5(digest.into());
            if etag.as_ref().is_some_and(is_other) {
                self.wrong = Some("the bytes do not have the MD5 of the ETag");
            }
            self.piece = self.pieces.next();
        }
    }

    fn verdict(self) -> Option<&'static str> {
        if self.piece.is_some() {
            return Some("there are fewer bytes than the parts have");
        }
        let is_other = |(hasher, sum): (Hasher, Checksum)| hasher.finalize() != sum.digest;
        let wrong = self.checksum.is_some_and(is_other);
        self.wrong
            .or(wrong.then_some("the bytes do not have the checksum that came with them"))
    }
}

/// Only such an ETag is an MD5: others have a dash.
fn is_md5(etag: &ETag) -> bool {
    let text = etag.as_str();
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

const TELL_EVERY: Duration = Duration::from_millis(200);
const TRIES: usize = 3;
const DAMAGES_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ChecksumAlgorithm, Metadata, Part, VersionId};

    fn entry(etag: ETag, parts: &[(&[u8], ETag)], size_bytes: u64) -> Entry {
        let part = |(number, (bytes, etag)): (u32, &(&[u8], ETag))| Part {
            number,
            size_bytes: bytes.len() as u64,
            etag: etag.clone(),
            modified: crate::clock::Timestamp::default(),
            checksum: None,
        };
        Entry {
            size_bytes,
            etag,
            modified: crate::clock::Timestamp::default(),
            checksum: None,
            metadata: Metadata::default(),
            parts: (1..).zip(parts).map(part).collect(),
            version: VersionId::Null,
            seal: None,
        }
    }

    fn md5(bytes: &[u8]) -> ETag {
        ETag::from_md5(Md5::digest(bytes).into())
    }

    fn verdict(entry: &Entry, pieces: &[&[u8]]) -> Option<&'static str> {
        let mut expected = Expected::of(entry);
        pieces.iter().for_each(|piece| expected.update(piece));
        expected.verdict()
    }

    #[test]
    fn the_bytes_of_one_put_have_the_md5_of_the_etag() {
        let whole = entry(md5(b"abcdef"), &[], 6);
        assert_eq!(verdict(&whole, &[b"abc", b"def"]), None);
        assert!(verdict(&whole, &[b"abc", b"deF"]).is_some());
        assert!(verdict(&whole, &[b"abc"]).is_some());
        assert_eq!(verdict(&entry(md5(b""), &[], 0), &[]), None);
        assert!(verdict(&entry(md5(b"x"), &[], 0), &[]).is_some());
        let fast = entry(ETag::new("0".repeat(32) + "-10002"), &[], 3);
        assert_eq!(verdict(&fast, &[b"any"]), None, "no MD5 is known");
    }

    #[test]
    fn each_part_has_the_md5_of_its_own_etag_however_the_bytes_come() {
        let parts: [(&[u8], ETag); 3] =
            [(b"ab", md5(b"ab")), (b"", md5(b"")), (b"cde", md5(b"cde"))];
        let whole = entry(ETag::new("x-3"), &parts, 5);
        for pieces in [&[&b"abcde"[..]][..], &[b"a", b"bc", b"de"]] {
            assert_eq!(verdict(&whole, pieces), None);
        }
        assert!(verdict(&whole, &[b"abcdE"]).is_some());
        assert!(verdict(&whole, &[b"Abcde"]).is_some());
    }

    #[test]
    fn the_checksum_of_the_client_is_compared_too() {
        let mut hasher = Hasher::new(ChecksumAlgorithm::Crc32c);
        hasher.update(b"abc");
        let sum = Checksum {
            algorithm: ChecksumAlgorithm::Crc32c,
            kind: ChecksumKind::FullObject,
            digest: hasher.finalize(),
        };
        let mut whole = entry(ETag::new("0".repeat(32) + "-10002"), &[], 3);
        whole.checksum = Some(sum);
        assert_eq!(verdict(&whole, &[b"abc"]), None);
        assert!(verdict(&whole, &[b"abd"]).is_some());
    }
}

//! The engine's own rules, on real directories; `tests/engine_contract.rs` has what holds for
//! every engine.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{FsBucket, FsEngine, FsSettings};
use crate::clock::{Clock, Entropy, Timestamp};
use crate::engine::{
    BucketConfig, BucketName, Commit, Condition, Deleted, ETag, EngineError, Entry, Metadata,
    ObjectKey, Precondition, Range, Versioning,
};

fn engine(directory: &Path, change: impl FnOnce(&mut FsSettings)) -> FsEngine {
    let mut settings = FsSettings {
        buckets: vec![(name("demo"), directory.to_owned())],
        ..FsSettings::default()
    };
    change(&mut settings);
    FsEngine::open(settings, Clock::system(), Entropy::system()).unwrap()
}

async fn bucket(directory: &Path) -> Arc<FsBucket> {
    engine(directory, |_| {})
        .bucket(&name("demo"))
        .await
        .unwrap()
}

fn name(raw: &str) -> BucketName {
    BucketName::parse(raw).unwrap()
}

fn key(raw: &str) -> ObjectKey {
    ObjectKey::parse(raw).unwrap()
}

fn etag(number: u8) -> ETag {
    ETag::from_md5([number; 16])
}

async fn put_as(
    bucket: &Arc<FsBucket>,
    raw: &str,
    body: &[u8],
    commit: Commit,
) -> Result<Arc<Entry>, EngineError> {
    let mut writer = bucket.begin(&key(raw), Some(body.len() as u64)).await?;
    for piece in body.chunks(100_000) {
        writer.append(Bytes::copy_from_slice(piece)).await?;
    }
    writer.commit(commit).await
}

fn plain(number: u8) -> Commit {
    Commit {
        etag: etag(number),
        checksum: None,
        metadata: Metadata {
            content_type: Some("text/x-test".into()),
            user: vec![("color".into(), "blue".into())],
            ..Metadata::default()
        },
        precondition: Precondition::default(),
        seal: None,
    }
}

async fn put(bucket: &Arc<FsBucket>, raw: &str, body: &[u8]) -> Arc<Entry> {
    put_as(bucket, raw, body, plain(7)).await.unwrap()
}

async fn get(bucket: &Arc<FsBucket>, raw: &str) -> Result<(Arc<Entry>, Vec<u8>), EngineError> {
    let reader = bucket.open(&key(raw)).await?;
    let entry = Arc::clone(reader.entry());
    let mut stream = crate::engine::ByteStream::Fs(reader.read(Range {
        start_bytes: 0,
        size_bytes: entry.size_bytes,
    }));
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok((entry, bytes))
}

async fn delete(bucket: &Arc<FsBucket>, raw: &str) -> Deleted {
    bucket
        .delete(&key(raw), &Precondition::default())
        .await
        .unwrap()
}

#[tokio::test]
async fn what_was_put_is_a_plain_file_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    let large: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    for (raw, body) in [
        ("a/b/c.txt", &b"hello"[..]),
        ("big", &large),
        ("empty", b""),
    ] {
        let put = put(&bucket, raw, body).await;
        assert_eq!(fs::read(dir.path().join(raw)).unwrap(), body);
        let (entry, bytes) = get(&bucket, raw).await.unwrap();
        assert_eq!(bytes, body);
        assert_eq!(entry, put);
        assert_eq!(entry.etag, etag(7));
        assert_eq!(entry.metadata.user, plain(7).metadata.user);
        assert_eq!(bucket.head(&key(raw)).await.unwrap(), put);
    }
}

#[tokio::test]
async fn keys_that_a_tree_cannot_express_are_objects_too() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    let long = "x".repeat(300);
    let keys = [
        "a",
        "a/b",
        "a//b",
        "/",
        "//",
        "a/",
        ".",
        "..",
        "a/../b",
        ".lobos",
        ".lobos/config",
        "x/.lobos/y",
        &long,
        "A",
        "ä",
    ];
    for raw in keys {
        put(&bucket, raw, raw.as_bytes()).await;
    }
    for raw in keys {
        assert_eq!(get(&bucket, raw).await.unwrap().1, raw.as_bytes(), "{raw}");
    }
    for raw in keys {
        assert_eq!(delete(&bucket, raw).await, Deleted::Removed, "{raw}");
        assert!(matches!(
            bucket.head(&key(raw)).await,
            Err(EngineError::NoSuchKey)
        ));
        assert_eq!(delete(&bucket, raw).await, Deleted::Absent, "{raw}");
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only .lobos: {left:?}");
    let overlaid = fs::read_dir(dir.path().join(".lobos/overlay")).unwrap();
    assert_eq!(overlaid.count(), 0);
}

#[tokio::test]
async fn a_file_of_the_tree_hides_the_overlay_until_it_is_put_or_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    put(&bucket, "a/b", b"tree").await;
    put(&bucket, "a", b"overlaid").await;
    fs::remove_dir_all(dir.path().join("a")).unwrap();
    assert_eq!(get(&bucket, "a").await.unwrap().1, b"overlaid");
    fs::write(dir.path().join("a"), b"by hand").unwrap();
    assert_eq!(get(&bucket, "a").await.unwrap().1, b"by hand");
    assert_eq!(delete(&bucket, "a").await, Deleted::Removed);
    assert!(get(&bucket, "a").await.is_err());
}

#[tokio::test]
async fn conditions_are_checked_against_the_current_entry() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    let absent = Precondition {
        if_none_match: Some(Condition::Any),
        ..Precondition::default()
    };
    let commit = |number| Commit {
        precondition: absent.clone(),
        seal: None,
        ..plain(number)
    };
    put_as(&bucket, "k", b"one", commit(1)).await.unwrap();
    assert!(matches!(
        put_as(&bucket, "k", b"two", commit(2)).await,
        Err(EngineError::PreconditionFailed)
    ));
    let matching = Commit {
        precondition: Precondition {
            if_match: Some(Condition::OneOf(vec![etag(1)])),
            ..Precondition::default()
        },
        ..plain(3)
    };
    put_as(&bucket, "k", b"three", matching.clone())
        .await
        .unwrap();
    assert!(put_as(&bucket, "k", b"four", matching).await.is_err());
    assert_eq!(get(&bucket, "k").await.unwrap().1, b"three");
}

/// The ETag of a file that nobody uploaded.
async fn etag_of(bucket: &Arc<FsBucket>, raw: &str) -> String {
    get(bucket, raw).await.unwrap().0.etag.as_str().to_owned()
}

fn write_at(path: &Path, content: &[u8], time: SystemTime) {
    fs::write(path, content).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

#[tokio::test]
async fn p5_plain_files_of_one_size_and_time_have_etags_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let path = |name: &str| dir.path().join(name);
    write_at(&path("a"), b"one", at);
    write_at(&path("b"), b"two", at);
    let (a, b) = (etag_of(&bucket, "a").await, etag_of(&bucket, "b").await);
    assert_ne!(a, b);
    let (digits, number) = a.split_once('-').unwrap();
    assert!(digits.len() == 32 && number == "10001", "{a}");
    fs::set_permissions(path("a"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(etag_of(&bucket, "a").await, a, "a change of mode is none");
    fs::rename(path("b"), path("a")).unwrap();
    let replaced = etag_of(&bucket, "a").await;
    assert_ne!(replaced, a, "another file lies there now");
    assert_eq!(replaced, b, "and a rename alone is no change of a file");
}

/// Opens the key and reads its first piece; then the rest, after `meanwhile`.
async fn read_around(
    bucket: &Arc<FsBucket>,
    raw: &str,
    meanwhile: impl AsyncFnOnce(),
) -> Result<Vec<u8>, EngineError> {
    let reader = bucket.open(&key(raw)).await?;
    let range = Range {
        start_bytes: 0,
        size_bytes: reader.entry().size_bytes,
    };
    let mut stream = crate::engine::ByteStream::Fs(reader.read(range));
    let mut bytes = stream.next().await.unwrap()?.to_vec();
    meanwhile().await;
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn p2_changes_of_metadata_alone_abort_no_reader() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    let large = vec![7; 3 << 20];
    put(&bucket, "d/k", &large).await;
    let path = dir.path().join("d/k");
    let other = dir.path().join("other");
    let described = async || {
        for color in ["red", "green"] {
            let user = vec![("color".into(), color.into())];
            let metadata = Metadata {
                user,
                ..Metadata::default()
            };
            let any = Precondition::default();
            bucket
                .set_metadata(&key("d/k"), metadata, &any)
                .await
                .unwrap();
        }
    };
    assert!(
        read_around(&bucket, "d/k", described).await.unwrap() == large,
        "described"
    );
    let mode = async || fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(
        read_around(&bucket, "d/k", mode).await.unwrap() == large,
        "chmod"
    );
    let link = async || fs::hard_link(&path, &other).unwrap();
    assert!(
        read_around(&bucket, "d/k", link).await.unwrap() == large,
        "ln"
    );
    let moved = async || fs::rename(&path, dir.path().join("moved")).unwrap();
    assert!(
        read_around(&bucket, "d/k", moved).await.unwrap() == large,
        "mv"
    );
    fs::remove_file(&other).unwrap();
    fs::rename(dir.path().join("moved"), &path).unwrap();
    let gone = async || fs::remove_file(&path).unwrap();
    assert!(
        read_around(&bucket, "d/k", gone).await.unwrap() == large,
        "rm"
    );
}

#[tokio::test]
async fn p2_what_is_rewritten_in_place_aborts_its_readers() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    put(&bucket, "k", &vec![7; 3 << 20]).await;
    let path = dir.path().join("k");
    let rewrite = |restores: bool| {
        let file = fs::File::options().write(true).open(&path).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(&[8; 10], 2 << 20).unwrap();
        if restores {
            file.set_modified(time).unwrap();
        }
    };
    for restores in [false, true] {
        // Times move in steps.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let read = read_around(&bucket, "k", async || rewrite(restores)).await;
        assert!(
            matches!(read, Err(EngineError::Changed)),
            "time restored: {restores}"
        );
    }
    // What happened before a change of metadata is not covered by it.
    tokio::time::sleep(Duration::from_millis(20)).await;
    let both = async || {
        rewrite(true);
        let any = Precondition::default();
        bucket
            .set_metadata(&key("k"), Metadata::default(), &any)
            .await
            .unwrap();
    };
    let read = read_around(&bucket, "k", both).await;
    assert!(matches!(read, Err(EngineError::Changed)));
}

#[tokio::test]
async fn p2_a_new_version_aborts_no_reader_of_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path()).await;
    let enable = |config: &mut BucketConfig| {
        config.versioning = Some(Versioning::Enabled);
        Ok::<_, EngineError>(())
    };
    bucket.change_config(enable).await.unwrap();
    let large = vec![7; 3 << 20];
    put(&bucket, "k", &large).await;
    let replaced = async || drop(put(&bucket, "k", b"new").await);
    assert!(read_around(&bucket, "k", replaced).await.unwrap() == large);
}

#[tokio::test]
async fn p18_a_directory_that_replaces_the_buckets_is_noticed_by_readers() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("bucket"), dir.path().join("old"));
    let seconds = Arc::new(AtomicI64::new(1_800_000_000));
    let clock = Clock::from_fn({
        let seconds = Arc::clone(&seconds);
        move || Timestamp::from_unix_nanos(seconds.load(Ordering::Relaxed) * 1_000_000_000)
    });
    let name = BucketName::parse("bucket").unwrap();
    let settings = FsSettings {
        buckets: vec![(name.clone(), path.clone())],
        ..FsSettings::default()
    };
    let engine = FsEngine::open(settings, clock, Entropy::system()).unwrap();
    put(&engine.bucket(&name).await.unwrap(), "k", b"old").await;
    fs::rename(&path, &old).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("k"), "new").unwrap();
    seconds.fetch_add(2, Ordering::Relaxed);
    for _ in 0..2 {
        let replaced = engine.bucket(&name).await;
        assert!(matches!(replaced, Err(EngineError::Unavailable { .. })));
    }
    assert_eq!(engine.list_buckets().await.unwrap().len(), 1);
    fs::remove_dir_all(&path).unwrap();
    fs::rename(&old, &path).unwrap();
    let bucket = engine.bucket(&name).await.unwrap();
    assert_eq!(get(&bucket, "k").await.unwrap().1, b"old");
}

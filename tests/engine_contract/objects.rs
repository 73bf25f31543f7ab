//! Put, get, head, delete and metadata of single objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lobos::engine::{
    Checksum, ChecksumAlgorithm, ChecksumKind, Commit, Condition, Deleted, ETag, EngineError,
    Entry, Lock, Metadata, Precondition, Range, RenamePlan, Seal, Tags,
};

use crate::fixture::*;

pub(crate) async fn what_was_put_is_got_whatever_its_size_and_pieces(f: Fixture) {
    let mib = 1 << 20;
    let sizes = [
        0,
        1,
        511,
        4095,
        4096,
        4097,
        65535,
        65536,
        65537,
        mib - 1,
        mib,
        mib + 1,
        5 * mib,
    ];
    for (seed, size) in sizes.into_iter().enumerate() {
        let bytes = pattern(seed as u64, size);
        for piece in [1 << 30, 100_000, 65_536] {
            for hint in [Some(size as u64), None] {
                let mut writer = f.bucket.begin(&key("k"), hint).await.unwrap();
                for start in (0..size).step_by(piece) {
                    let end = size.min(start + piece);
                    writer.append(bytes.slice(start..end)).await.unwrap();
                }
                let entry = writer.commit(plain(&bytes)).await.unwrap();
                assert_eq!(entry.size_bytes, size as u64);
                assert_eq!(head(&f.bucket, "k").await.unwrap(), entry);
                assert_holds(&f.bucket, "k", &bytes).await;
            }
        }
    }
}

pub(crate) async fn a_range_gives_exactly_its_bytes(f: Fixture) {
    for size in [1, 10, 4096, 65_537, 3 << 20] {
        let bytes = pattern(3, size);
        put(&f.bucket, "k", &bytes).await;
        let ranges = [
            (0, 0),
            (0, 1),
            (0, size),
            (size - 1, 1),
            (size / 2, size - size / 2),
            (size / 3, size / 3),
        ];
        for (start, length) in ranges {
            let reader = f.bucket.open(&key("k")).await.unwrap();
            let range = Range {
                start_bytes: start as u64,
                size_bytes: length as u64,
            };
            let got = collect(reader.read(range)).await.unwrap();
            assert!(got == bytes[start..start + length], "{start}+{length}");
        }
    }
}

pub(crate) async fn an_absent_key_is_no_such_key(f: Fixture) {
    put(&f.bucket, "dir/present", &pattern(0, 3)).await;
    for name in ["absent", "dir", "dir/", "dir/absent", "dir/present/below"] {
        assert_absent(&f.bucket, name).await;
        let changed = f
            .bucket
            .set_metadata(&key(name), Metadata::default(), &Precondition::default())
            .await;
        assert!(matches!(changed, Err(EngineError::NoSuchKey)), "{name}");
        assert_eq!(delete(&f.bucket, name).await, Deleted::Absent);
    }
    assert_eq!(keys(&f.bucket).await, ["dir/present"]);
}

pub(crate) async fn an_entry_keeps_everything_the_commit_gave_it(f: Fixture) {
    let bytes = pattern(1, 1000);
    let commit = Commit {
        checksum: Some(crc32(1)),
        metadata: full_metadata(),
        ..plain(&bytes)
    };
    let before = unix_now();
    let entry = put_with(&f.bucket, "k", &bytes, commit.clone())
        .await
        .unwrap();
    let after = unix_now();
    assert_eq!(entry.etag, commit.etag);
    assert_eq!(entry.checksum, commit.checksum);
    assert_eq!(entry.metadata, commit.metadata);
    assert!(entry.parts.is_empty());
    // The kernel stamps files with a clock that lags by up to one tick.
    let modified = entry.modified.to_system_time();
    assert!(modified + Duration::from_millis(50) >= before && modified <= after);
    assert_eq!(head(&f.bucket, "k").await.unwrap(), entry);
    let f = f.reopen().await;
    assert_eq!(head(&f.bucket, "k").await.unwrap(), entry);
}

pub(crate) async fn large_metadata_is_kept(f: Fixture) {
    let user = (0..40).map(|i| {
        let value = format!("{i:02}").repeat(24);
        (format!("n{i:02}").into(), value.into())
    });
    let metadata = Metadata {
        user: user.collect(),
        cache_control: Some("x".repeat(3000).into()),
        content_disposition: Some("y".repeat(3000).into()),
        ..full_metadata()
    };
    let bytes = pattern(1, 10);
    let commit = Commit {
        metadata: metadata.clone(),
        ..plain(&bytes)
    };
    let entry = put_with(&f.bucket, "large", &bytes, commit).await.unwrap();
    assert_eq!(entry.metadata, metadata);
    put(&f.bucket, "small", &bytes).await;
    let changed = f
        .bucket
        .set_metadata(&key("small"), metadata.clone(), &Precondition::default())
        .await
        .unwrap();
    assert_eq!(changed.metadata, metadata);
    let f = f.reopen().await;
    assert_eq!(head(&f.bucket, "large").await.unwrap(), entry);
    assert_eq!(head(&f.bucket, "small").await.unwrap(), changed);
    assert_holds(&f.bucket, "large", &bytes).await;
    // Back to little, and gone.
    put(&f.bucket, "large", &bytes).await;
    let entry = head(&f.bucket, "large").await.unwrap();
    assert_eq!(entry.metadata, Metadata::default());
    assert_eq!(delete(&f.bucket, "small").await, Deleted::Removed);
    assert_absent(&f.bucket, "small").await;
}

pub(crate) async fn every_kind_of_checksum_is_kept(f: Fixture) {
    let kinds = [
        (ChecksumAlgorithm::Crc32, 4),
        (ChecksumAlgorithm::Crc32c, 4),
        (ChecksumAlgorithm::Crc64nvme, 8),
        (ChecksumAlgorithm::Sha1, 20),
        (ChecksumAlgorithm::Sha256, 32),
        (ChecksumAlgorithm::Sha512, 64),
        (ChecksumAlgorithm::Md5, 16),
        (ChecksumAlgorithm::Xxhash64, 8),
        (ChecksumAlgorithm::Xxhash3, 8),
        (ChecksumAlgorithm::Xxhash128, 16),
    ];
    let bytes = pattern(1, 100);
    for (algorithm, size) in kinds {
        for kind in [ChecksumKind::FullObject, ChecksumKind::Composite] {
            let checksum = Checksum {
                algorithm,
                kind,
                digest: pattern(9, size).to_vec().into(),
            };
            let commit = Commit {
                checksum: Some(checksum.clone()),
                ..plain(&bytes)
            };
            let entry = put_with(&f.bucket, "k", &bytes, commit).await.unwrap();
            assert_eq!(entry.checksum.as_ref(), Some(&checksum));
            let read = head(&f.bucket, "k").await.unwrap();
            assert_eq!(read.checksum.as_ref(), Some(&checksum));
        }
    }
}

pub(crate) async fn an_overwrite_replaces_bytes_and_metadata_together(f: Fixture) {
    let first = pattern(1, 5000);
    let commit = Commit {
        checksum: Some(crc32(1)),
        metadata: full_metadata(),
        ..plain(&first)
    };
    put_with(&f.bucket, "k", &first, commit).await.unwrap();
    for (seed, size) in [(2, 5000), (3, 0), (4, 100_000), (5, 1)] {
        let bytes = pattern(seed, size);
        put(&f.bucket, "k", &bytes).await;
        assert_holds(&f.bucket, "k", &bytes).await;
        let entry = head(&f.bucket, "k").await.unwrap();
        assert_eq!(entry.metadata, Metadata::default());
        assert_eq!(entry.checksum, None);
    }
    assert_eq!(keys(&f.bucket).await, ["k"]);
}

pub(crate) async fn a_reader_gives_the_bytes_that_were_current_when_it_was_opened(f: Fixture) {
    for size in [1, 4096, 3 << 20] {
        let old = pattern(1, size);
        put(&f.bucket, "k", &old).await;
        let before_overwrite = f.bucket.open(&key("k")).await.unwrap();
        let mut half_read = f.bucket.open(&key("k")).await.unwrap().read(Range {
            start_bytes: 0,
            size_bytes: size as u64,
        });
        let mut got = half_read.next().await.unwrap().unwrap().to_vec();
        let new = pattern(2, size + 1);
        put(&f.bucket, "k", &new).await;
        got.extend(collect(half_read).await.unwrap());
        assert!(got == old, "half read, {size} bytes");
        let entry = Arc::clone(before_overwrite.entry());
        assert_eq!(entry.etag, etag(&old));
        let got = collect(before_overwrite.read(whole(&entry))).await.unwrap();
        assert!(got == old, "opened before the overwrite, {size} bytes");

        let before_delete = f.bucket.open(&key("k")).await.unwrap();
        delete(&f.bucket, "k").await;
        let entry = Arc::clone(before_delete.entry());
        let got = collect(before_delete.read(whole(&entry))).await.unwrap();
        assert!(got == new, "opened before the delete, {size} bytes");
    }
}

pub(crate) async fn a_reader_sees_one_version_whole_while_others_overwrite(f: Fixture) {
    let versions: Vec<_> = (0..8)
        .map(|seed| pattern(seed, 10_000 + 30_000 * seed as usize))
        .collect();
    put(&f.bucket, "dir/k", &versions[0]).await;
    let done = Arc::new(AtomicBool::new(false));
    let (bucket, versions) = (f.bucket.clone(), Arc::new(versions));
    let reads = race(4, |racer| {
        let (bucket, versions, done) = (bucket.clone(), versions.clone(), done.clone());
        async move {
            let mut reads = 0;
            if racer == 0 {
                for round in 0..60 {
                    let version = &versions[round % versions.len()];
                    put(&bucket, "dir/k", version).await;
                }
                done.store(true, Ordering::Release);
                return usize::MAX;
            }
            while !done.load(Ordering::Acquire) {
                let (entry, bytes) = get(&bucket, "dir/k").await.unwrap();
                assert_eq!(entry.etag, etag(&bytes), "a reader saw a mixture");
                assert_eq!(entry.size_bytes, bytes.len() as u64);
                reads += 1;
            }
            reads
        }
    })
    .await;
    assert!(reads.iter().all(|reads| *reads > 0));
}

pub(crate) async fn a_dropped_writer_leaves_nothing(f: Fixture) {
    for name in ["k", "deep/er/k", "a//b"] {
        for size in [0, 10, 1 << 20] {
            let mut writer = f.bucket.begin(&key(name), None).await.unwrap();
            writer.append(pattern(1, size)).await.unwrap();
            drop(writer);
            assert_absent(&f.bucket, name).await;
        }
    }
    assert!(keys(&f.bucket).await.is_empty());
    assert!(scan_all(&f.bucket, "", Some("/"), 10).await.is_empty());
    let name = bucket_name("bucket");
    f.engine.delete_bucket(&name).await.unwrap();
}

pub(crate) async fn a_dropped_writer_leaves_the_old_object(f: Fixture) {
    let old = pattern(1, 1000);
    put(&f.bucket, "k", &old).await;
    let mut writer = f.bucket.begin(&key("k"), Some(5)).await.unwrap();
    writer.append(pattern(2, 5)).await.unwrap();
    assert_holds(&f.bucket, "k", &old).await;
    drop(writer);
    assert_holds(&f.bucket, "k", &old).await;
    assert_holds(&f.reopen().await.bucket, "k", &old).await;
}

pub(crate) async fn set_metadata_changes_metadata_and_time_alone(f: Fixture) {
    let bytes = pattern(1, 5000);
    for name in ["dir/k", "dir", "a//b"] {
        let commit = Commit {
            checksum: Some(crc32(1)),
            metadata: marked("old"),
            ..plain(&bytes)
        };
        let old = put_with(&f.bucket, name, &bytes, commit).await.unwrap();
        for metadata in [full_metadata(), Metadata::default(), marked("new")] {
            let new = f
                .bucket
                .set_metadata(&key(name), metadata.clone(), &Precondition::default())
                .await
                .unwrap();
            assert_eq!(new.metadata, metadata);
            assert_eq!(new.etag, old.etag);
            assert_eq!(new.size_bytes, old.size_bytes);
            assert_eq!(new.checksum, old.checksum);
            assert!(new.modified >= old.modified);
            assert_eq!(head(&f.bucket, name).await.unwrap(), new);
            assert_holds(&f.bucket, name, &bytes).await;
        }
    }
}

pub(crate) async fn set_tags_changes_tags_alone(f: Fixture) {
    let absent = f
        .bucket
        .set_tags(&key("absent"), None, tags(&[("a", "1")]))
        .await;
    assert!(matches!(absent, Err(EngineError::NoSuchKey)), "{absent:?}");
    let bytes = pattern(1, 5000);
    for name in ["dir/k", "dir", "a//b"] {
        let commit = Commit {
            checksum: Some(crc32(1)),
            metadata: full_metadata(),
            ..plain(&bytes)
        };
        let mut want = Entry::clone(&put_with(&f.bucket, name, &bytes, commit).await.unwrap());
        let most: Vec<_> = (0..10)
            .map(|n| (format!("{n}").repeat(128).into(), "é".repeat(256).into()))
            .collect();
        for new in [tags(&[("a", "1"), ("b", "2")]), most, tags(&[])] {
            want.metadata.tags.clone_from(&new);
            let tagged = f.bucket.set_tags(&key(name), None, new).await.unwrap();
            assert_eq!(*tagged, want);
            assert_eq!(*head(&f.bucket, name).await.unwrap(), want);
            assert_holds(&f.bucket, name, &bytes).await;
        }
    }
    f.bucket
        .set_tags(&key("dir/k"), None, tags(&[("kept", "yes")]))
        .await
        .unwrap();
    let f = f.reopen().await;
    let entry = head(&f.bucket, "dir/k").await.unwrap();
    assert_eq!(entry.metadata.tags, tags(&[("kept", "yes")]));
}

pub(crate) async fn set_acl_changes_the_acl_alone(f: Fixture) {
    let any = Precondition::default();
    let absent = f.bucket.set_acl(&key("absent"), None, &any).await;
    assert!(matches!(absent, Err(EngineError::NoSuchKey)), "{absent:?}");
    let bytes = pattern(1, 5000);
    for name in ["dir/k", "dir", "a//b"] {
        let commit = Commit {
            metadata: full_metadata(),
            ..plain(&bytes)
        };
        let mut want = Entry::clone(&put_with(&f.bucket, name, &bytes, commit).await.unwrap());
        for acl in [Some("x".repeat(10_000).into()), None, Some("short".into())] {
            want.metadata.acl.clone_from(&acl);
            let changed = f.bucket.set_acl(&key(name), acl, &any).await.unwrap();
            assert_eq!(*changed, want);
            assert_eq!(*head(&f.bucket, name).await.unwrap(), want);
            assert_holds(&f.bucket, name, &bytes).await;
        }
    }
    let other = Precondition {
        if_match: Some(Condition::OneOf(vec![ETag::new("other")])),
        ..Precondition::default()
    };
    let refused = f.bucket.set_acl(&key("dir/k"), None, &other).await;
    assert!(
        matches!(refused, Err(EngineError::PreconditionFailed)),
        "{refused:?}"
    );
    let f = f.reopen().await;
    let entry = head(&f.bucket, "dir/k").await.unwrap();
    assert_eq!(entry.metadata.acl.as_deref(), Some("short"));
}

pub(crate) async fn a_file_that_is_tagged_stays_what_its_name_says(f: Fixture) {
    let Some(tree) = f.tree("bucket") else {
        return;
    };
    std::fs::write(tree.join("page.html"), b"by hand").unwrap();
    let before = head(&f.bucket, "page.html").await.unwrap();
    assert_eq!(before.metadata.content_type.as_deref(), Some("text/html"));
    let tagged = f
        .bucket
        .set_tags(&key("page.html"), None, tags(&[("a", "1")]))
        .await;
    let tagged = tagged.unwrap();
    let mut want = Entry::clone(&before);
    want.metadata.tags = tags(&[("a", "1")]);
    assert_eq!(*tagged, want);
    let f = f.reopen().await;
    assert_eq!(*head(&f.bucket, "page.html").await.unwrap(), want);
    // An edit keeps the tags, and is a new ETag and time.
    std::fs::write(tree.join("page.html"), b"by hand again").unwrap();
    let edited = head(&f.bucket, "page.html").await.unwrap();
    assert_eq!(edited.metadata, want.metadata);
    assert_ne!(edited.etag, want.etag);
}

fn tags(pairs: &[(&str, &str)]) -> Tags {
    let owned = |(key, value): &(&str, &str)| ((*key).into(), (*value).into());
    pairs.iter().map(owned).collect()
}

pub(crate) async fn a_delete_says_what_it_found(f: Fixture) {
    put(&f.bucket, "a/b/c", &pattern(1, 10)).await;
    put(&f.bucket, "a/d", &pattern(1, 10)).await;
    assert_eq!(delete(&f.bucket, "a/b").await, Deleted::Absent);
    assert_eq!(delete(&f.bucket, "a/b/c").await, Deleted::Removed);
    assert_eq!(delete(&f.bucket, "a/b/c").await, Deleted::Absent);
    assert_absent(&f.bucket, "a/b/c").await;
    assert_eq!(keys(&f.bucket).await, ["a/d"]);
    assert_eq!(scan_all(&f.bucket, "a/", Some("/"), 10).await, ["a/d"]);
}

pub(crate) async fn everything_survives_a_restart(f: Fixture) {
    let names = ["a", "a/b", "c/d/e", "c//e", "ü"];
    for (seed, name) in names.into_iter().enumerate() {
        put(&f.bucket, name, &pattern(seed as u64, seed * 1000)).await;
    }
    delete(&f.bucket, "c/d/e").await;
    let f = f.reopen().await;
    assert_absent(&f.bucket, "c/d/e").await;
    for (seed, name) in names.into_iter().enumerate() {
        if name != "c/d/e" {
            assert_holds(&f.bucket, name, &pattern(seed as u64, seed * 1000)).await;
        }
    }
    assert_eq!(keys(&f.bucket).await, ["a", "a/b", "c//e", "ü"]);
}

pub(crate) async fn a_twin_engine_sees_every_change_at_once(f: Fixture) {
    let Some(twin) = f.twin() else { return };
    let twin = twin.bucket(&bucket_name("bucket")).await.unwrap();
    for round in 0..20 {
        for (writes, reads) in [(&f.bucket, &twin), (&twin, &f.bucket)] {
            for name in ["k", "dir/k", "k/below", "a//b"] {
                let bytes = pattern(round, 100);
                put(writes, name, &bytes).await;
                assert_holds(reads, name, &bytes).await;
                let changed = writes
                    .set_metadata(&key(name), marked("x"), &Precondition::default())
                    .await
                    .unwrap();
                assert_eq!(head(reads, name).await.unwrap(), changed);
                assert!(keys(reads).await.contains(&name.to_owned()));
                delete(writes, name).await;
                assert_absent(reads, name).await;
                assert!(keys(reads).await.is_empty());
            }
        }
    }
}

fn full_metadata() -> Metadata {
    let text = |value: &str| Some(value.into());
    Metadata {
        content_type: text("text/html; charset=utf-8"),
        content_encoding: text("gzip"),
        content_language: text("de, en"),
        content_disposition: text("attachment; filename=\"ä b.txt\""),
        cache_control: text("no-cache"),
        expires: text("Thu, 01 Jan 2026 00:00:00 GMT"),
        website_redirect: text("/elsewhere"),
        user: vec![
            ("z".into(), "last comes first".into()),
            ("a".into(), "".into()),
            ("ü".into(), "raw UTF-8 ☃".into()),
        ],
        tags: tags(&[("z", "1"), ("a", ""), ("ü", "☃ =&")]),
        acl: Some("{\"owner\":\"somebody\"}".into()),
        lock: Lock::default(),
    }
}

fn crc32(seed: u64) -> Checksum {
    Checksum {
        algorithm: ChecksumAlgorithm::Crc32,
        kind: ChecksumKind::FullObject,
        digest: pattern(seed, 4).to_vec().into(),
    }
}

fn unix_now() -> SystemTime {
    UNIX_EPOCH
        + Duration::from_nanos(
            u64::try_from(lobos::clock::Clock::system().now().unix_nanos).unwrap(),
        )
}

/// Whatever happens to an entry, its seal is its own: bytes without it would be taken for plain.
pub(crate) async fn a_seal_stays_with_its_bytes(f: Fixture) {
    let bytes = pattern(5, 1000);
    let seal = Some(Box::new(Seal {
        plain_bytes: 968,
        salt: [1; 16],
        key_check: [2; 16],
    }));
    for name in ["k", "dir/k", "dir"] {
        put(&f.bucket, name, &pattern(4, 20)).await;
        let commit = Commit {
            seal: seal.clone(),
            metadata: full_metadata(),
            ..plain(&bytes)
        };
        let entry = put_with(&f.bucket, name, &bytes, commit).await.unwrap();
        assert_eq!((entry.size_bytes, entry.plain_bytes()), (1000, 968));
        assert_holds(&f.bucket, name, &bytes).await;
    }
    let (tags, none) = (vec![("a".into(), "b".into())], Precondition::default());
    let key = key("dir/k");
    f.bucket.set_tags(&key, None, tags).await.unwrap();
    f.bucket
        .set_acl(&key, Some("{}".into()), &none)
        .await
        .unwrap();
    let changed = f
        .bucket
        .set_metadata(&key, Metadata::default(), &none)
        .await;
    assert_eq!(changed.unwrap().seal, seal);
    let f = f.reopen().await;
    for name in ["k", "dir/k", "dir"] {
        assert_eq!(head(&f.bucket, name).await.unwrap().seal, seal);
        assert_holds(&f.bucket, name, &bytes).await;
    }
    assert_eq!(keys(&f.bucket).await, ["dir", "dir/k", "k"]);
    let of_size = |size_bytes| Precondition {
        if_size_bytes: Some(size_bytes),
        ..Precondition::default()
    };
    let refused = f.bucket.delete(&key, &of_size(1000)).await;
    assert!(matches!(refused, Err(EngineError::PreconditionFailed)));
    let deleted = f.bucket.delete(&key, &of_size(968)).await;
    assert_eq!(deleted.unwrap(), Deleted::Removed);
    let entry = put(&f.bucket, "k", &bytes).await;
    assert_eq!(entry.seal, None);
    assert_eq!(head(&f.bucket, "k").await.unwrap(), entry);
}

/// Nobody finds a renamed object under both keys, or under none.
pub(crate) async fn a_rename_moves_an_entry_at_once(f: Fixture) {
    let bytes = pattern(7, 200_000);
    let commit = Commit {
        metadata: full_metadata(),
        checksum: Some(crc32(1)),
        ..plain(&bytes)
    };
    let mut entry = put_with(&f.bucket, "a", &bytes, commit).await.unwrap();
    let rename = async |from: &str, to: &str, plan: RenamePlan| {
        f.bucket.rename(&key(from), &key(to), plan).await
    };
    let names = ["a", "dir/er/b", "a//b", "dir", "..", "a"];
    for pair in names.windows(2) {
        put(&f.bucket, pair[1], &pattern(8, 10)).await;
        rename(pair[0], pair[1], RenamePlan::default())
            .await
            .unwrap();
        assert_absent(&f.bucket, pair[0]).await;
        let now = head(&f.bucket, pair[1]).await.unwrap();
        assert_eq!(now, entry);
        entry = now;
        assert_holds(&f.bucket, pair[1], &bytes).await;
        assert_eq!(keys(&f.bucket).await, [pair[1]]);
    }
    put(&f.bucket, "b", &pattern(9, 10)).await;
    let absent = Precondition {
        if_none_match: Some(Condition::Any),
        ..Precondition::default()
    };
    let present = Precondition {
        if_match: Some(Condition::Any),
        ..Precondition::default()
    };
    let of = |source: &Precondition, target: &Precondition| RenamePlan {
        source: source.clone(),
        target: target.clone(),
    };
    for (from, to, plan) in [
        ("a", "b", of(&present, &absent)),
        ("a", "c", of(&present, &present)),
        ("a", "c", of(&absent, &absent)),
    ] {
        let refused = rename(from, to, plan).await;
        assert!(matches!(refused, Err(EngineError::PreconditionFailed)));
    }
    let missing = rename("none", "c", RenamePlan::default()).await;
    assert!(matches!(missing, Err(EngineError::NoSuchKey)));
    rename("a", "c", of(&present, &absent)).await.unwrap();
    let f = f.reopen().await;
    assert_eq!(keys(&f.bucket).await, ["b", "c"]);
    assert_holds(&f.bucket, "c", &bytes).await;
    assert_eq!(delete(&f.bucket, "c").await, Deleted::Removed);
}

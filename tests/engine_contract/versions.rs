//! Versions: what is kept, how it is found, and what comes to light when it is removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use lobos::engine::{
    Bucket, Bypass, Condition, Deleted, EngineError, Entry, ObjectKey, Precondition, Resume,
    VersionId, VersionItem, Versioning, VersionsPlan, VersionsResume,
};

use crate::fixture::*;

async fn set(bucket: &Bucket, versioning: Versioning) {
    bucket
        .change_config(move |config| {
            config.versioning = Some(versioning);
            Ok::<_, EngineError>(())
        })
        .await
        .unwrap();
}

/// An engine whose bucket keeps versions.
async fn enabled(f: Fixture) -> Fixture {
    set(&f.bucket, Versioning::Enabled).await;
    f
}

async fn get_version(
    bucket: &Bucket,
    name: &str,
    version: &VersionId,
) -> Result<(Arc<Entry>, Vec<u8>), EngineError> {
    let reader = bucket.open_version(&key(name), version).await?;
    let entry = Arc::clone(reader.entry());
    assert_eq!(
        bucket.head_version(&key(name), version).await?,
        entry,
        "head of {name:?} {version}"
    );
    let bytes = collect(reader.read(whole(&entry))).await?;
    Ok((entry, bytes))
}

async fn delete_version(bucket: &Bucket, name: &str, version: &VersionId) -> Deleted {
    let none = Precondition::default();
    let deleted = bucket
        .delete_version(&key(name), version, &none, Bypass::Nothing)
        .await;
    deleted.unwrap()
}

async fn mark(bucket: &Bucket, name: &str) -> VersionId {
    match delete(bucket, name).await {
        Deleted::Marked(version) => version,
        other => panic!("delete {name:?}: {other:?}"),
    }
}

/// One line of a listing, in words.
fn line(item: &VersionItem) -> String {
    let latest = |is_latest: &bool| if *is_latest { " latest" } else { "" };
    match item {
        VersionItem::Object {
            key,
            entry,
            is_latest,
        } => format!(
            "{key} {} {}{}",
            entry.version,
            entry.etag,
            latest(is_latest)
        ),
        VersionItem::Marker {
            key,
            version,
            is_latest,
            ..
        } => format!("{key} {version} marker{}", latest(is_latest)),
        VersionItem::CommonPrefix(prefix) => prefix.to_string(),
    }
}

async fn lines(bucket: &Bucket) -> Vec<String> {
    list(bucket, "", None, 1000).await
}

/// All lines that pages of `limit` give.
async fn list(bucket: &Bucket, prefix: &str, delimiter: Option<&str>, limit: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut plan = VersionsPlan {
        prefix: prefix.into(),
        delimiter: delimiter.map(Into::into),
        after: None,
        limit,
    };
    loop {
        let page = bucket.scan_versions(&plan).await.unwrap();
        assert!(page.items.len() <= limit);
        all.extend(page.items.iter().map(line));
        plan.after = page.items.last().map(|last| match last {
            VersionItem::Object { key, entry, .. } => {
                VersionsResume::Version(key.clone(), entry.version.clone())
            }
            VersionItem::Marker { key, version, .. } => {
                VersionsResume::Version(key.clone(), version.clone())
            }
            VersionItem::CommonPrefix(p) => VersionsResume::Key(Resume::Prefix(p.clone())),
        });
        if !page.truncated {
            return all;
        }
        assert_eq!(page.items.len(), limit, "a truncated page is short");
    }
}

pub(crate) async fn every_commit_is_a_version_that_is_found_by_its_id(f: Fixture) {
    let f = enabled(f).await;
    let mut written = Vec::new();
    for size in [0, 1, 5000, 200_000] {
        let bytes = pattern(size as u64, size);
        written.push((put(&f.bucket, "a/key", &bytes).await, bytes));
    }
    let f = f.reopen().await;
    for (entry, bytes) in &written {
        let found = get_version(&f.bucket, "a/key", &entry.version).await;
        let (found, got) = found.unwrap();
        assert_eq!((&found, &got[..]), (entry, &bytes[..]));
        assert_ne!(entry.version, VersionId::Null);
    }
    let (newest, bytes) = written.last().unwrap();
    assert_holds(&f.bucket, "a/key", bytes).await;
    let current = head(&f.bucket, "a/key").await.unwrap();
    assert_eq!(current.version, newest.version);
    assert_eq!(keys(&f.bucket).await, ["a/key"]);
    let mut expected: Vec<_> = written
        .iter()
        .rev()
        .map(|(entry, _)| format!("a/key {} {}", entry.version, entry.etag))
        .collect();
    expected[0].push_str(" latest");
    assert_eq!(lines(&f.bucket).await, expected);
    for id in ["", "null", "0", &"0".repeat(40), "../../../config"] {
        let version = VersionId::parse(id);
        let absent = get_version(&f.bucket, "a/key", &version).await;
        assert!(
            matches!(absent, Err(EngineError::NoSuchVersion)),
            "{absent:?}"
        );
        let deleted = delete_version(&f.bucket, "a/key", &version).await;
        assert_eq!(deleted, Deleted::Absent);
    }
    let elsewhere = get_version(&f.bucket, "a/other", &newest.version).await;
    assert!(matches!(elsewhere, Err(EngineError::NoSuchVersion)));
}

pub(crate) async fn what_was_there_before_versioning_is_the_null_version(f: Fixture) {
    let old = pattern(1, 3000);
    let before = put(&f.bucket, "key", &old).await;
    assert_eq!(before.version, VersionId::Null);
    let f = enabled(f).await;
    let found = get_version(&f.bucket, "key", &VersionId::Null).await;
    assert_eq!(found.unwrap().0, before);
    let new = put(&f.bucket, "key", &pattern(2, 10)).await;
    let found = get_version(&f.bucket, "key", &VersionId::Null).await;
    let (entry, got) = found.unwrap();
    assert_eq!((entry, &got[..]), (before, &old[..]));
    let deleted = delete_version(&f.bucket, "key", &new.version).await;
    assert_eq!(deleted, Deleted::Removed);
    assert_holds(&f.bucket, "key", &old).await;
    assert_eq!(lines(&f.bucket).await.len(), 1);
}

pub(crate) async fn a_delete_leaves_a_marker_and_a_marker_is_no_entry(f: Fixture) {
    let f = enabled(f).await;
    let bytes = pattern(1, 100);
    let entry = put(&f.bucket, "key", &bytes).await;
    let marker = mark(&f.bucket, "key").await;
    let is_marker = |error| match error {
        EngineError::DeleteMarker { version, .. } => version == marker,
        _ => false,
    };
    assert!(is_marker(head(&f.bucket, "key").await.unwrap_err()));
    assert!(is_marker(f.bucket.open(&key("key")).await.unwrap_err()));
    let found = get_version(&f.bucket, "key", &marker).await;
    assert!(is_marker(found.unwrap_err()));
    assert!(keys(&f.bucket).await.is_empty());
    let found = get_version(&f.bucket, "key", &entry.version).await;
    let (found, got) = found.unwrap();
    assert_eq!((&found, &got[..]), (&entry, &bytes[..]));
    let both = [
        format!("key {marker} marker latest"),
        format!("key {} {}", entry.version, entry.etag),
    ];
    assert_eq!(lines(&f.bucket).await, both);
    // Conditions see no entry.
    let wants = Precondition {
        if_match: Some(Condition::Any),
        ..Precondition::default()
    };
    let refused = f.bucket.delete(&key("key"), &wants).await;
    assert!(
        matches!(refused, Err(EngineError::NoSuchKey)),
        "{refused:?}"
    );
    assert_eq!(lines(&f.bucket).await, both);
    let mut commit = plain(&bytes);
    commit.precondition.if_none_match = Some(Condition::Any);
    let first = put_with(&f.bucket, "key", &bytes, commit.clone()).await;
    first.unwrap();
    let refused = put_with(&f.bucket, "key", &bytes, commit).await;
    assert!(matches!(refused, Err(EngineError::PreconditionFailed)));
    let f = f.reopen().await;
    let listed = lines(&f.bucket).await;
    assert_eq!(listed.len(), 3, "{listed:?}");
    assert_eq!(listed[1], format!("key {marker} marker"));
}

pub(crate) async fn a_key_that_never_was_gets_a_marker_too(f: Fixture) {
    let f = enabled(f).await;
    let marker = mark(&f.bucket, "a/b").await;
    let listed = lines(&f.bucket).await;
    assert_eq!(listed, [format!("a/b {marker} marker latest")]);
    let name = bucket_name("bucket");
    let refused = f.engine.delete_bucket(&name).await;
    assert!(matches!(refused, Err(EngineError::BucketNotEmpty)));
    let removed = delete_version(&f.bucket, "a/b", &marker).await;
    assert_eq!(removed, Deleted::MarkerRemoved);
    assert_absent(&f.bucket, "a/b").await;
    assert!(lines(&f.bucket).await.is_empty());
    f.engine.delete_bucket(&name).await.unwrap();
}

pub(crate) async fn what_was_before_comes_back_when_the_newest_is_removed(f: Fixture) {
    let f = enabled(f).await;
    for name in ["key", "a//b", "."] {
        let bytes: Vec<_> = (0..3).map(|seed| pattern(seed, 4000)).collect();
        let mut ids = Vec::new();
        for bytes in &bytes {
            ids.push(put(&f.bucket, name, bytes).await.version.clone());
        }
        let markers = [mark(&f.bucket, name).await, mark(&f.bucket, name).await];
        // A marker that is not the newest goes without a trace.
        let deleted = delete_version(&f.bucket, name, &markers[0]).await;
        assert_eq!(deleted, Deleted::MarkerRemoved);
        assert!(head(&f.bucket, name).await.is_err());
        let deleted = delete_version(&f.bucket, name, &markers[1]).await;
        assert_eq!(deleted, Deleted::MarkerRemoved);
        assert_holds(&f.bucket, name, &bytes[2]).await;
        let deleted = delete_version(&f.bucket, name, &ids[1]).await;
        assert_eq!(deleted, Deleted::Removed);
        assert_holds(&f.bucket, name, &bytes[2]).await;
        let deleted = delete_version(&f.bucket, name, &ids[2]).await;
        assert_eq!(deleted, Deleted::Removed);
        assert_holds(&f.bucket, name, &bytes[0]).await;
        let deleted = delete_version(&f.bucket, name, &ids[2]).await;
        assert_eq!(deleted, Deleted::Absent);
        let deleted = delete_version(&f.bucket, name, &ids[0]).await;
        assert_eq!(deleted, Deleted::Removed);
        assert_absent(&f.bucket, name).await;
    }
    assert!(lines(&f.bucket).await.is_empty());
    let name = bucket_name("bucket");
    f.engine.delete_bucket(&name).await.unwrap();
}

pub(crate) async fn suspended_writes_replace_the_null_version_alone(f: Fixture) {
    let f = enabled(f).await;
    let kept = put(&f.bucket, "key", &pattern(1, 10)).await;
    let kept = format!("key {} {}", kept.version, kept.etag);
    set(&f.bucket, Versioning::Suspended).await;
    let null = put(&f.bucket, "key", &pattern(2, 20)).await;
    assert_eq!(null.version, VersionId::Null);
    let null = put(&f.bucket, "key", &pattern(3, 30)).await;
    let null = format!("key null {} latest", null.etag);
    assert_eq!(lines(&f.bucket).await, [&*null, &kept]);
    assert_eq!(mark(&f.bucket, "key").await, VersionId::Null);
    assert_eq!(mark(&f.bucket, "key").await, VersionId::Null);
    let marked = lines(&f.bucket).await;
    assert_eq!(marked, ["key null marker latest", &kept]);
    let marked = get_version(&f.bucket, "key", &VersionId::Null).await;
    assert!(
        matches!(marked, Err(EngineError::DeleteMarker { .. })),
        "{marked:?}"
    );
    set(&f.bucket, Versioning::Enabled).await;
    let newest = put(&f.bucket, "key", &pattern(4, 40)).await;
    let newest = format!("key {} {}", newest.version, newest.etag);
    let expected = [&*format!("{newest} latest"), "key null marker", &kept];
    assert_eq!(lines(&f.bucket).await, expected);
    set(&f.bucket, Versioning::Suspended).await;
    // The new null version takes the old one's place wherever that was.
    let null = put(&f.bucket, "key", &pattern(5, 50)).await;
    let null = format!("key null {} latest", null.etag);
    assert_eq!(lines(&f.bucket).await, [&*null, &newest, &kept]);
    let deleted = delete_version(&f.bucket, "key", &VersionId::Null).await;
    assert_eq!(deleted, Deleted::Removed);
    assert_holds(&f.bucket, "key", &pattern(4, 40)).await;
}

pub(crate) async fn completions_and_copies_are_versions_and_metadata_is_not(f: Fixture) {
    let f = enabled(f).await;
    let bytes = pattern(1, 100_000);
    let first = put(&f.bucket, "key", &bytes).await;
    let id = open_upload(&f.bucket, "key").await;
    let part = put_part(&f.bucket, "key", &id, 1, &bytes).await.unwrap();
    let parts = [part];
    let completed = complete(&f.bucket, "key", &id, &parts).await.unwrap();
    assert_ne!(completed.version, first.version);
    let again = complete(&f.bucket, "key", &id, &parts).await.unwrap();
    assert_eq!(again, completed);
    // From an older version of the same key to a new one.
    let source = f.bucket.open_version(&key("key"), &first.version).await;
    let source = source.unwrap();
    let range = whole(source.entry());
    let writer = f.bucket.begin(&key("key"), Some(range.size_bytes)).await;
    let mut writer = writer.unwrap();
    writer.append_from(source, range).await.unwrap();
    let copied = writer.commit(plain(&bytes)).await.unwrap();
    assert_eq!(lines(&f.bucket).await.len(), 3);
    // Metadata belongs to the version that is there.
    let none = Precondition::default();
    let changed = f
        .bucket
        .set_metadata(&key("key"), marked("new"), &none)
        .await;
    assert_eq!(changed.unwrap().version, copied.version);
    assert_eq!(lines(&f.bucket).await.len(), 3);
    let found = get_version(&f.bucket, "key", &copied.version).await;
    let (entry, got) = found.unwrap();
    assert_eq!((&entry.metadata, &got[..]), (&marked("new"), &bytes[..]));
    let found = get_version(&f.bucket, "key", &first.version).await;
    assert_eq!(found.unwrap().0, first);
}

pub(crate) async fn each_version_has_tags_of_its_own(f: Fixture) {
    let f = enabled(f).await;
    let bytes = pattern(1, 5000);
    let tags = |value: &str| vec![("a".into(), value.into())];
    let name = key("key");
    let mut entries = Vec::new();
    for _ in 0..3 {
        entries.push(put(&f.bucket, "key", &bytes).await);
    }
    let mut expected = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let tags = tags(&format!("{at}"));
        let tagged = f.bucket.set_tags(&name, Some(&entry.version), tags.clone());
        let tagged = tagged.await.unwrap();
        let mut wanted = Entry::clone(entry);
        wanted.metadata.tags = tags;
        assert_eq!(*tagged, wanted);
        expected.push(wanted);
    }
    let f = f.reopen().await;
    for wanted in &expected {
        let found = get_version(&f.bucket, "key", &wanted.version).await;
        let (entry, got) = found.unwrap();
        assert_eq!((&*entry, &got[..]), (wanted, &bytes[..]));
    }
    assert_eq!(*head(&f.bucket, "key").await.unwrap(), expected[2]);
    assert_eq!(lines(&f.bucket).await.len(), 3);
    let marker = mark(&f.bucket, "key").await;
    let refused = f.bucket.set_tags(&name, Some(&marker), tags("x"));
    let refused = refused.await;
    assert!(
        matches!(refused, Err(EngineError::DeleteMarker { .. })),
        "{refused:?}"
    );
    let refused = f.bucket.set_tags(&name, None, tags("x")).await;
    assert!(
        matches!(refused, Err(EngineError::DeleteMarker { .. })),
        "{refused:?}"
    );
    let unknown = VersionId::parse("0");
    let refused = f.bucket.set_tags(&name, Some(&unknown), tags("x")).await;
    assert!(matches!(refused, Err(EngineError::NoSuchVersion)));
}

pub(crate) async fn large_metadata_of_every_version_is_kept(f: Fixture) {
    let f = enabled(f).await;
    let mut entries = Vec::new();
    for index in 0..4 {
        let bytes = pattern(index, 10);
        let mut commit = plain(&bytes);
        let value = "v".repeat(1500);
        commit.metadata.user = (0..40)
            .map(|n| (format!("{index}-{n}").into(), value.as_str().into()))
            .collect();
        let entry = put_with(&f.bucket, "key", &bytes, commit).await;
        entries.push(entry.unwrap());
    }
    for at in [1, 3] {
        let deleted = delete_version(&f.bucket, "key", &entries[at].version).await;
        assert_eq!(deleted, Deleted::Removed);
    }
    let f = f.reopen().await;
    for at in [0, 2] {
        let found = get_version(&f.bucket, "key", &entries[at].version).await;
        assert_eq!(found.unwrap().0, entries[at]);
    }
    assert_eq!(head(&f.bucket, "key").await.unwrap(), entries[2]);
}

pub(crate) async fn versions_are_listed_by_key_page_by_page(f: Fixture) {
    let f = enabled(f).await;
    let names = ["a", "a/b", "a//b", "b/c/d", "b/c/e", "b-", "c", "é/x", "z"];
    let mut expected = BTreeMap::new();
    for (index, name) in names.into_iter().enumerate() {
        let mut own = Vec::new();
        for round in 0..=index % 4 {
            let entry = put(&f.bucket, name, &pattern(round as u64, 10)).await;
            own.push(format!("{name} {} {}", entry.version, entry.etag));
        }
        if index % 3 == 0 {
            own.push(format!("{name} {} marker", mark(&f.bucket, name).await));
        }
        own.last_mut().unwrap().push_str(" latest");
        own.reverse();
        expected.insert(name, own);
    }
    let all: Vec<String> = expected.values().flatten().cloned().collect();
    let key_of = |line: &String| line.split(' ').next().unwrap().to_owned();
    for limit in [1, 2, 3, 7, 1000] {
        assert_eq!(list(&f.bucket, "", None, limit).await, all, "{limit}");
        let rolled = list(&f.bucket, "", Some("/"), limit).await;
        let tops = |line: &&String| !key_of(line).contains('/');
        let mut want: Vec<String> = all.iter().filter(tops).cloned().collect();
        want.extend(["a/", "b/", "é/"].map(str::to_owned));
        want.sort_by_key(key_of);
        assert_eq!(rolled, want, "{limit}");
        let below = list(&f.bucket, "b/c", None, limit).await;
        let want: Vec<_> = all.iter().filter(|line| line.starts_with("b/c")).collect();
        assert_eq!(below.iter().collect::<Vec<_>>(), want, "{limit}");
    }
    // A version that is gone still has its place.
    let own = &expected["b/c/d"];
    let second = VersionId::parse(own[1].split(' ').nth(1).unwrap());
    delete_version(&f.bucket, "b/c/d", &second).await;
    let plan = VersionsPlan {
        after: Some(VersionsResume::Version(key("b/c/d"), second)),
        limit: 1,
        ..VersionsPlan::default()
    };
    let page = f.bucket.scan_versions(&plan).await.unwrap();
    assert_eq!(line(&page.items[0]), own[2]);
    assert!(page.truncated);
}

pub(crate) async fn racing_writers_lose_no_version(f: Fixture) {
    let f = enabled(f).await;
    let twin = f.twin().unwrap_or_else(|| Arc::clone(&f.engine));
    let engines = [Arc::clone(&f.engine), twin];
    let results = race(8, |index| {
        let engine = Arc::clone(&engines[index % 2]);
        async move {
            let bucket = engine.bucket(&bucket_name("bucket")).await.unwrap();
            let mut made = Vec::new();
            for round in 0..8 {
                let bytes = pattern((index * 100 + round) as u64, 10);
                let version = match round % 4 {
                    3 => mark(&bucket, "key").await,
                    _ => put(&bucket, "key", &bytes).await.version.clone(),
                };
                made.push(version.to_string());
            }
            made
        }
    });
    let mut made: Vec<String> = results.await.into_iter().flatten().collect();
    let listed = lines(&f.bucket).await;
    let id = |line: &String| line.split(' ').nth(1).unwrap().to_owned();
    let mut ids: Vec<String> = listed.iter().map(id).collect();
    ids.sort();
    made.sort();
    assert_eq!(ids, made);
    let latest = listed.iter().filter(|line| line.ends_with("latest"));
    assert_eq!(latest.count(), 1);
}

pub(crate) async fn p19_the_order_of_versions_is_that_of_their_commits_whatever_the_clock_says(
    f: Fixture,
) {
    const DAY_SECONDS: i64 = 86_400;
    let mut f = enabled(f).await;
    let mut made = Vec::new();
    for (round, days) in [0, -1, -30, 400, -9000, 0].into_iter().enumerate() {
        f.move_clock(days * DAY_SECONDS);
        if round == 3 {
            f = f.reopen().await;
        }
        made.push(
            put(&f.bucket, "key", &pattern(round as u64, 10))
                .await
                .version
                .clone(),
        );
        made.push(mark(&f.bucket, "key").await);
    }
    let ids = |lines: Vec<String>| -> Vec<String> {
        let id = |line: &String| line.split(' ').nth(1).unwrap().to_owned();
        lines.iter().map(id).collect()
    };
    let newest_first = |made: &[VersionId]| -> Vec<String> {
        made.iter().rev().map(ToString::to_string).collect()
    };
    assert_eq!(ids(lines(&f.bucket).await), newest_first(&made));
    assert_eq!(ids(list(&f.bucket, "", None, 1).await), newest_first(&made));
    // Nor does the clock say what comes back.
    while let Some(newest) = made.pop() {
        delete_version(&f.bucket, "key", &newest).await;
        f.move_clock(-DAY_SECONDS);
        assert_eq!(ids(lines(&f.bucket).await), newest_first(&made));
        let current = head(&f.bucket, "key").await;
        match made.len() {
            0 => assert!(matches!(current, Err(EngineError::NoSuchKey))),
            count if count % 2 == 1 => assert_eq!(current.unwrap().version, made[count - 1]),
            count => match current {
                Err(EngineError::DeleteMarker { version, .. }) => {
                    assert_eq!(version, made[count - 1]);
                }
                other => panic!("{other:?}"),
            },
        }
    }
}

pub(crate) async fn versions_of_keys_that_begin_with_each_other_stay_apart(f: Fixture) {
    let f = enabled(f).await;
    assert!(ObjectKey::parse("a\0b").is_err(), "NUL would join two keys");
    let names = [
        "a", "a\u{1}", "a\u{1}b", "a ", "a/", "a0", "aa", "a\u{7f}", "aé", "b",
    ];
    let mut expected = Vec::new();
    for name in names {
        let mut own = Vec::new();
        for round in 0..3 {
            let entry = put(&f.bucket, name, &pattern(round, 10)).await;
            own.push((name.to_owned(), entry.version.clone()));
        }
        if name.len() % 2 == 0 {
            own.push((name.to_owned(), mark(&f.bucket, name).await));
        }
        own.reverse();
        expected.extend(own);
    }
    let item = |item: &VersionItem| match item {
        VersionItem::Object { key, entry, .. } => (key.to_string(), entry.version.clone()),
        VersionItem::Marker { key, version, .. } => (key.to_string(), version.clone()),
        VersionItem::CommonPrefix(prefix) => panic!("{prefix}"),
    };
    let mut plan = VersionsPlan {
        limit: 1000,
        ..VersionsPlan::default()
    };
    let all = f.bucket.scan_versions(&plan).await.unwrap();
    assert_eq!(all.items.iter().map(item).collect::<Vec<_>>(), expected);
    // From any string on, a key or not.
    for from in [
        "",
        "a",
        "a\0",
        "a\0\u{7f}",
        "a\u{1}",
        "a\u{1}\0",
        "a/",
        "a/b",
        "aa",
        "b",
        "c",
    ] {
        plan.after = Some(VersionsResume::Key(Resume::Key(from.into())));
        let page = f.bucket.scan_versions(&plan).await.unwrap();
        let behind = expected.iter().filter(|(name, _)| name.as_str() > from);
        let found: Vec<_> = page.items.iter().map(item).collect();
        assert_eq!(
            found.iter().collect::<Vec<_>>(),
            behind.collect::<Vec<_>>(),
            "{from:?}"
        );
    }
}

/// An engine that shares the bytes of copies frees them with the last owner, and no earlier.
pub(crate) async fn a_copy_shares_bytes_with_versions_that_come_and_go(f: Fixture) {
    let f = enabled(f).await;
    let bytes = pattern(1, 150_000);
    let first = put(&f.bucket, "key", &bytes).await;
    put(&f.bucket, "key", &pattern(2, 10)).await;
    let source = f.bucket.open_version(&key("key"), &first.version).await;
    let source = source.unwrap();
    let range = whole(source.entry());
    let writer = f.bucket.begin(&key("copy"), Some(range.size_bytes)).await;
    let mut writer = writer.unwrap();
    writer.append_from(source, range).await.unwrap();
    let copied = writer.commit(plain(&bytes)).await.unwrap();
    mark(&f.bucket, "copy").await;
    delete_version(&f.bucket, "key", &first.version).await;
    let mut f = f;
    for round in 0..4 {
        put(&f.bucket, "other", &pattern(10 + round, 150_000)).await;
        let got = get_version(&f.bucket, "copy", &copied.version).await;
        assert_eq!(got.unwrap().1, bytes, "round {round}");
        if round == 1 {
            f = f.reopen().await;
        }
    }
    delete_version(&f.bucket, "copy", &copied.version).await;
    let gone = get_version(&f.bucket, "copy", &copied.version).await;
    assert!(matches!(gone, Err(EngineError::NoSuchVersion)), "{gone:?}");
}

/// One version of the model.
#[derive(Clone, Debug)]
struct Held {
    id: VersionId,
    /// `None`: a delete marker.
    bytes: Option<bytes::Bytes>,
}

/// What a bucket is to hold: versions, newest first.
#[derive(Default)]
struct Model {
    keys: BTreeMap<String, Vec<Held>>,
    versioning: Option<Versioning>,
}

impl Model {
    fn write(&mut self, name: &str, id: VersionId, bytes: Option<bytes::Bytes>) {
        let held = self.keys.entry(name.to_owned()).or_default();
        match self.versioning {
            None => held.clear(),
            Some(Versioning::Suspended) => held.retain(|held| held.id != VersionId::Null),
            Some(Versioning::Enabled) => {}
        }
        held.insert(0, Held { id, bytes });
    }

    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, held) in &self.keys {
            for (at, held) in held.iter().enumerate() {
                let what = match &held.bytes {
                    Some(bytes) => etag(bytes).to_string(),
                    None => "marker".to_owned(),
                };
                let latest = if at == 0 { " latest" } else { "" };
                lines.push(format!("{name} {} {what}{latest}", held.id));
            }
        }
        lines
    }

    fn current(&self) -> Vec<String> {
        let is_object = |held: &Vec<Held>| held.first().is_some_and(|held| held.bytes.is_some());
        let keys = self.keys.iter().filter(|(_, held)| is_object(held));
        keys.map(|(name, _)| name.clone()).collect()
    }
}

/// `a` below which keys come and go, keys that no tree can express, and one too long for a name.
fn model_keys() -> Vec<String> {
    let mut keys: Vec<String> = ["a", "a/b", "a/b/c", "a//b", ".", "../x", "é", "Big/Key"]
        .map(str::to_owned)
        .into();
    keys.push(format!("long/{}", "l".repeat(300)));
    keys
}

pub(crate) async fn random_operations_on_versions_agree_with_a_model(f: Fixture) {
    let mut f = f;
    let mut model = Model::default();
    let names = model_keys();
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 20) as usize % below
    };
    for step in 0..1500_u64 {
        let name = &names[next(names.len())];
        let held = model.keys.get(name).cloned().unwrap_or_default();
        match next(20) {
            0..8 => {
                let bytes = pattern(step, [0, 1, 700, 70_000][next(4)]);
                let entry = put(&f.bucket, name, &bytes).await;
                model.write(name, entry.version.clone(), Some(bytes));
            }
            8..12 => match (delete(&f.bucket, name).await, model.versioning) {
                (Deleted::Marked(id), Some(_)) => model.write(name, id, None),
                (Deleted::Removed, None) => {
                    assert!(!held.is_empty(), "step {step}");
                    model.keys.remove(name);
                }
                (Deleted::Absent, None) => assert!(held.is_empty(), "step {step}"),
                other => panic!("step {step}: {other:?}"),
            },
            12..16 if !held.is_empty() => {
                let at = next(held.len());
                let Held { id, bytes } = &held[at];
                let expected = match bytes {
                    Some(_) => Deleted::Removed,
                    None => Deleted::MarkerRemoved,
                };
                let done = delete_version(&f.bucket, name, id).await;
                assert_eq!(done, expected, "step {step}: {name} {id}");
                model.keys.get_mut(name).unwrap().remove(at);
            }
            16 if held.first().is_some_and(|held| held.bytes.is_some()) => {
                let none = Precondition::default();
                let mark = marked(&format!("m{step}"));
                let changed = f.bucket.set_metadata(&key(name), mark, &none).await;
                assert_eq!(changed.unwrap().version, held[0].id, "step {step}");
            }
            17 if next(4) == 0 => f = f.reopen().await,
            18 if step > 100 => {
                let state = [Versioning::Enabled, Versioning::Suspended][next(2)];
                set(&f.bucket, state).await;
                model.versioning = Some(state);
            }
            _ => assert_agrees(&f.bucket, name, &held, step).await,
        }
        if step % 50 == 0 {
            let limit = [1, 3, 1000][next(3)];
            let listed = list(&f.bucket, "", None, limit).await;
            assert_eq!(listed, model.lines(), "step {step}");
            assert_eq!(keys(&f.bucket).await, model.current(), "step {step}");
        }
    }
    for (name, held) in &model.keys {
        for held in held {
            delete_version(&f.bucket, name, &held.id).await;
        }
        assert_absent(&f.bucket, name).await;
    }
    let name = bucket_name("bucket");
    f.engine.delete_bucket(&name).await.unwrap();
}

async fn assert_agrees(bucket: &Bucket, name: &str, held: &[Held], step: u64) {
    match held.first() {
        Some(Held {
            bytes: Some(bytes), ..
        }) => assert_holds(bucket, name, bytes).await,
        Some(Held { id, bytes: None }) => match head(bucket, name).await {
            Err(EngineError::DeleteMarker { version, .. }) => assert_eq!(version, *id),
            other => panic!("step {step}: {name}: {other:?}"),
        },
        None => assert_absent(bucket, name).await,
    }
    for Held { id, bytes } in held {
        match (get_version(bucket, name, id).await, bytes) {
            (Ok((entry, got)), Some(bytes)) => {
                assert_eq!((&entry.version, &got[..]), (id, &bytes[..]), "step {step}");
            }
            (Err(EngineError::DeleteMarker { .. }), None) => {}
            (other, _) => panic!("step {step}: {name} {id}: {other:?}"),
        }
    }
}

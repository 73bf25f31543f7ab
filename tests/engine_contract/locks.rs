//! Object lock: nothing removes a version while its retention or a legal hold stands.

use std::sync::Arc;

use lobos::clock::{Clock, Timestamp};
use lobos::engine::{
    Bucket, BucketLock, Bypass, Commit, CompletePlan, DefaultRetention, Deleted, EngineError,
    Entry, Lock, LockChange, Metadata, ObjectKey, Precondition, Retention, RetentionMode,
    RetentionPeriod, UploadPlan, VersionId, Versioning, VersionsPlan,
};

use crate::fixture::*;

/// A bucket that has locks.
async fn lockable(f: Fixture) -> Fixture {
    set_bucket_lock(&f.bucket, BucketLock::default()).await;
    f
}

async fn set_bucket_lock(bucket: &Bucket, lock: BucketLock) {
    let set = bucket.change_config(move |config| {
        config.versioning = Some(Versioning::Enabled);
        config.lock = Some(lock);
        Ok::<_, EngineError>(())
    });
    set.await.unwrap();
}

fn in_an_hour() -> Timestamp {
    Clock::system().now().plus_seconds(3600)
}

fn retained(mode: RetentionMode, until: Timestamp) -> Lock {
    Lock {
        retention: Some(Retention { mode, until }),
        legal_hold: None,
    }
}

fn held() -> Lock {
    Lock {
        retention: None,
        legal_hold: Some(true),
    }
}

async fn put_locked(bucket: &Bucket, name: &str, lock: Lock) -> Arc<Entry> {
    let bytes = pattern(1, 100);
    let commit = Commit {
        metadata: Metadata {
            lock,
            ..marked("locked")
        },
        ..plain(&bytes)
    };
    put_with(bucket, name, &bytes, commit).await.unwrap()
}

async fn remove(
    bucket: &Bucket,
    name: &str,
    version: &VersionId,
    bypass: Bypass,
) -> Result<Deleted, EngineError> {
    let none = Precondition::default();
    bucket
        .delete_version(&key(name), version, &none, bypass)
        .await
}

async fn assert_locked(bucket: &Bucket, name: &str, version: &VersionId, bypass: Bypass) {
    let answer = remove(bucket, name, version, bypass).await;
    assert!(matches!(answer, Err(EngineError::Locked)), "{answer:?}");
    let there = bucket.head_version(&key(name), version).await;
    assert!(there.is_ok(), "{name} {version}: {there:?}");
}

async fn set(
    bucket: &Bucket,
    name: &str,
    version: Option<&VersionId>,
    change: LockChange,
    bypass: Bypass,
) -> Result<Lock, EngineError> {
    let changed = bucket.set_lock(&key(name), version, change, bypass).await;
    changed.map(|entry| entry.metadata.lock)
}

pub(crate) async fn a_locked_version_is_not_removed(f: Fixture) {
    let f = lockable(f).await;
    let until = in_an_hour();
    let locks = [
        ("governance", retained(RetentionMode::Governance, until)),
        ("compliance", retained(RetentionMode::Compliance, until)),
        ("held", held()),
    ];
    let mut all = Vec::new();
    for (name, lock) in locks {
        let entry = put_locked(&f.bucket, name, lock).await;
        assert_eq!(entry.metadata.lock, lock);
        all.push((name, entry));
    }
    let f = f.reopen().await;
    for (name, entry) in &all {
        assert_eq!(&head(&f.bucket, name).await.unwrap(), entry);
        assert_locked(&f.bucket, name, &entry.version, Bypass::Nothing).await;
    }
    for (name, entry) in &all[1..] {
        assert_locked(&f.bucket, name, &entry.version, Bypass::Governance).await;
    }
    let past = retained(RetentionMode::Compliance, Clock::system().now());
    let entry = put_locked(&f.bucket, "ended", past).await;
    let removed = remove(&f.bucket, "ended", &entry.version, Bypass::Nothing).await;
    assert_eq!(removed.unwrap(), Deleted::Removed);
}

pub(crate) async fn who_may_bypass_governance_removes_what_it_retains(f: Fixture) {
    let f = lockable(f).await;
    let lock = retained(RetentionMode::Governance, in_an_hour());
    let entry = put_locked(&f.bucket, "key", lock).await;
    let hold = LockChange::LegalHold(true);
    let now = set(&f.bucket, "key", None, hold, Bypass::Nothing).await;
    assert_eq!(now.unwrap().legal_hold, Some(true));
    assert_locked(&f.bucket, "key", &entry.version, Bypass::Governance).await;
    let hold = LockChange::LegalHold(false);
    let now = set(&f.bucket, "key", None, hold, Bypass::Nothing).await;
    assert_eq!(now.unwrap().legal_hold, Some(false));
    assert_locked(&f.bucket, "key", &entry.version, Bypass::Nothing).await;
    let removed = remove(&f.bucket, "key", &entry.version, Bypass::Governance).await;
    assert_eq!(removed.unwrap(), Deleted::Removed);
    assert_absent(&f.bucket, "key").await;
}

pub(crate) async fn a_retention_is_shortened_by_nobody_who_may_not(f: Fixture) {
    let f = lockable(f).await;
    let until = in_an_hour();
    let lock = retained(RetentionMode::Governance, until);
    let entry = put_locked(&f.bucket, "key", lock).await;
    let sooner = retained(RetentionMode::Governance, until.plus_seconds(-60)).retention;
    let later = retained(RetentionMode::Governance, until.plus_seconds(60)).retention;
    let strict = retained(RetentionMode::Compliance, until).retention;
    for refused in [None, sooner, strict] {
        let change = LockChange::Retention(refused);
        let answer = set(&f.bucket, "key", None, change, Bypass::Nothing).await;
        assert!(matches!(answer, Err(EngineError::Locked)), "{answer:?}");
        assert_eq!(head(&f.bucket, "key").await.unwrap(), entry);
    }
    for (change, bypass) in [
        (later, Bypass::Nothing),
        (sooner, Bypass::Governance),
        (None, Bypass::Governance),
        (strict, Bypass::Nothing),
    ] {
        let now = set(
            &f.bucket,
            "key",
            None,
            LockChange::Retention(change),
            bypass,
        )
        .await;
        assert_eq!(now.unwrap().retention, change);
        let entry = head(&f.bucket, "key").await.unwrap();
        assert_eq!(entry.metadata.lock.retention, change);
    }
    for refused in [None, sooner, later] {
        let change = LockChange::Retention(refused);
        let answer = set(&f.bucket, "key", None, change, Bypass::Governance).await;
        assert!(matches!(answer, Err(EngineError::Locked)), "{answer:?}");
    }
}

pub(crate) async fn a_version_gets_the_default_of_its_bucket(f: Fixture) {
    let f = lockable(f).await;
    let default = DefaultRetention {
        mode: RetentionMode::Compliance,
        period: RetentionPeriod::Days(1),
    };
    let default = Some(default);
    set_bucket_lock(&f.bucket, BucketLock { default }).await;
    let day = |entry: &Entry| {
        let held = entry.metadata.lock.retention.expect("the default");
        assert_eq!(held.mode, RetentionMode::Compliance);
        let left = held.until.unix_seconds() - entry.modified.unix_seconds();
        assert!((86_390..86_410).contains(&left), "{left}");
    };
    let plain = put(&f.bucket, "plain", &pattern(2, 10)).await;
    day(&plain);
    assert_locked(&f.bucket, "plain", &plain.version, Bypass::Governance).await;
    let id = open_upload(&f.bucket, "upload").await;
    let part = put_part(&f.bucket, "upload", &id, 1, &pattern(3, 10)).await;
    let parts = [part.unwrap()];
    day(&complete(&f.bucket, "upload", &id, &parts).await.unwrap());
    let own = retained(RetentionMode::Governance, in_an_hour());
    let entry = put_locked(&f.bucket, "own", own).await;
    assert_eq!(entry.metadata.lock, own);
    let plan = UploadPlan {
        metadata: Metadata {
            lock: own,
            ..Metadata::default()
        },
        ..UploadPlan::default()
    };
    let id = f.bucket.create_upload(&key("own"), plan).await.unwrap();
    let part = put_part(&f.bucket, "own", &id, 1, &pattern(4, 10)).await;
    let plan: CompletePlan = completion(&[part.unwrap()]);
    let entry = f.bucket.complete(&key("own"), &id, plan).await.unwrap();
    assert_eq!(entry.metadata.lock, own);
}

pub(crate) async fn a_locked_key_is_written_and_marked_all_the_same(f: Fixture) {
    let f = lockable(f).await;
    let first = put_locked(&f.bucket, "key", held()).await;
    let second = put(&f.bucket, "key", &pattern(5, 50)).await;
    assert_locked(&f.bucket, "key", &first.version, Bypass::Governance).await;
    let Deleted::Marked(marker) = delete(&f.bucket, "key").await else {
        panic!("no marker");
    };
    assert_locked(&f.bucket, "key", &first.version, Bypass::Governance).await;
    for version in [&marker, &second.version] {
        let removed = remove(&f.bucket, "key", version, Bypass::Nothing).await;
        removed.unwrap();
    }
    // The locked one is the current one again, and no less locked.
    assert_eq!(head(&f.bucket, "key").await.unwrap(), first);
    assert_locked(&f.bucket, "key", &first.version, Bypass::Governance).await;
    // Whatever is said of versioning, a bucket with locks keeps them.
    let suspend = f.bucket.change_config(|config| {
        config.versioning = Some(Versioning::Suspended);
        Ok::<_, EngineError>(())
    });
    suspend.await.unwrap();
    put(&f.bucket, "key", &pattern(6, 50)).await;
    delete(&f.bucket, "key").await;
    assert_locked(&f.bucket, "key", &first.version, Bypass::Governance).await;
}

pub(crate) async fn a_lock_stays_when_everything_else_changes(f: Fixture) {
    let f = lockable(f).await;
    let lock = Lock {
        legal_hold: Some(false),
        ..retained(RetentionMode::Compliance, in_an_hour())
    };
    let entry = put_locked(&f.bucket, "key", lock).await;
    let none = Precondition::default();
    let name: ObjectKey = key("key");
    let tags = vec![("a".into(), "b".into())];
    let tagged = f.bucket.set_tags(&name, None, tags).await.unwrap();
    assert_eq!(tagged.metadata.lock, lock);
    let acl = f.bucket.set_acl(&name, Some("{}".into()), &none).await;
    assert_eq!(acl.unwrap().metadata.lock, lock);
    let described = f.bucket.set_metadata(&name, marked("new"), &none).await;
    assert_eq!(described.unwrap().metadata.lock, lock);
    // More than an attribute of some file systems can hold.
    let large = Metadata {
        user: vec![("large".into(), "x".repeat(70_000).into())],
        ..Metadata::default()
    };
    f.bucket.set_metadata(&name, large, &none).await.unwrap();
    let f = f.reopen().await;
    let now = head(&f.bucket, "key").await.unwrap();
    assert_eq!((now.metadata.lock, &now.version), (lock, &entry.version));
    assert_locked(&f.bucket, "key", &entry.version, Bypass::Governance).await;
}

pub(crate) async fn an_older_version_is_locked_by_its_id(f: Fixture) {
    let f = lockable(f).await;
    let old = put(&f.bucket, "key", &pattern(7, 50)).await;
    let new = put(&f.bucket, "key", &pattern(8, 50)).await;
    let hold = LockChange::LegalHold(true);
    let old_id = Some(&old.version);
    let now = set(&f.bucket, "key", old_id, hold, Bypass::Nothing).await;
    assert_eq!(now.unwrap(), held());
    let f = f.reopen().await;
    assert_eq!(head(&f.bucket, "key").await.unwrap(), new);
    assert_locked(&f.bucket, "key", &old.version, Bypass::Nothing).await;
    let removed = remove(&f.bucket, "key", &new.version, Bypass::Nothing).await;
    assert_eq!(removed.unwrap(), Deleted::Removed);
    assert_locked(&f.bucket, "key", &old.version, Bypass::Nothing).await;
    let hold = LockChange::LegalHold(false);
    let old_id = Some(&old.version);
    set(&f.bucket, "key", old_id, hold, Bypass::Nothing)
        .await
        .unwrap();
    let removed = remove(&f.bucket, "key", &old.version, Bypass::Nothing).await;
    assert_eq!(removed.unwrap(), Deleted::Removed);
    let hold = LockChange::LegalHold(true);
    let gone = set(&f.bucket, "key", Some(&old.version), hold, Bypass::Nothing).await;
    assert!(matches!(gone, Err(EngineError::NoSuchVersion)), "{gone:?}");
}

/// Only where another program can work: elsewhere a key has one null version at most.
pub(crate) async fn a_locked_null_version_outlives_what_another_program_puts_there(f: Fixture) {
    let Some(tree) = f.tree("bucket") else {
        return;
    };
    std::fs::write(tree.join("key"), "first").unwrap();
    let f = lockable(f).await;
    let hold = LockChange::LegalHold(true);
    set(&f.bucket, "key", None, hold, Bypass::Nothing)
        .await
        .unwrap();
    let null = VersionId::Null;
    assert_locked(&f.bucket, "key", &null, Bypass::Governance).await;
    let second = put(&f.bucket, "key", &pattern(9, 50)).await;
    assert_locked(&f.bucket, "key", &null, Bypass::Governance).await;
    // Another program replaces the file: what was there is gone, for it asks nobody.
    std::fs::write(tree.join("new"), "other").unwrap();
    std::fs::rename(tree.join("new"), tree.join("key")).unwrap();
    assert_locked(&f.bucket, "key", &null, Bypass::Governance).await;
    let third = put(&f.bucket, "key", &pattern(10, 50)).await;
    assert_ne!(third.version, second.version);
    assert_locked(&f.bucket, "key", &null, Bypass::Governance).await;
    let first = f.bucket.head_version(&key("key"), &null).await.unwrap();
    assert_eq!((first.size_bytes, first.metadata.lock), (5, held()));
    let plan = VersionsPlan {
        limit: 100,
        ..VersionsPlan::default()
    };
    // The third, what the program wrote, and the null version.
    let page = f.bucket.scan_versions(&plan).await.unwrap();
    assert_eq!(page.items.len(), 3, "{page:?}");
}

pub(crate) async fn a_bucket_without_locks_takes_none(f: Fixture) {
    let bytes = pattern(11, 10);
    let entry = put(&f.bucket, "key", &bytes).await;
    let hold = LockChange::LegalHold(true);
    let answer = set(&f.bucket, "key", None, hold, Bypass::Governance).await;
    assert!(
        matches!(answer, Err(EngineError::NoObjectLock)),
        "{answer:?}"
    );
    let commit = Commit {
        metadata: Metadata {
            lock: held(),
            ..Metadata::default()
        },
        ..plain(&bytes)
    };
    let answer = put_with(&f.bucket, "key", &bytes, commit).await;
    assert!(
        matches!(answer, Err(EngineError::NoObjectLock)),
        "{answer:?}"
    );
    assert_eq!(head(&f.bucket, "key").await.unwrap(), entry);
}

pub(crate) async fn of_a_lock_and_a_removal_that_race_one_wins(f: Fixture) {
    let f = lockable(f).await;
    for round in 0..20 {
        let entry = put(&f.bucket, "key", &pattern(round, 10)).await;
        let bucket = f.bucket.clone();
        let version = entry.version.clone();
        let done = race(2, move |racer| {
            let (bucket, version) = (bucket.clone(), version.clone());
            async move {
                match racer {
                    0 => remove(&bucket, "key", &version, Bypass::Nothing)
                        .await
                        .map(|_| ()),
                    _ => {
                        let hold = LockChange::LegalHold(true);
                        set(&bucket, "key", Some(&version), hold, Bypass::Nothing)
                            .await
                            .map(|_| ())
                    }
                }
            }
        })
        .await;
        let there = f.bucket.head_version(&key("key"), &entry.version).await;
        match (&done[0], &done[1]) {
            (Ok(()), Err(EngineError::NoSuchVersion)) => assert!(there.is_err()),
            (Err(EngineError::Locked), Ok(())) => {
                assert_eq!(there.unwrap().metadata.lock, held());
            }
            other => panic!("{other:?}"),
        }
    }
}

/// One version of the model; `lock`: `None` for a delete marker.
struct Kept {
    id: VersionId,
    lock: Option<Lock>,
}

/// Nothing ends within the test: what stands, stands to its end.
fn random_lock(choice: usize) -> Lock {
    let until = in_an_hour();
    match choice % 5 {
        0 => held(),
        1 => retained(RetentionMode::Governance, until),
        2 => retained(RetentionMode::Compliance, until),
        _ => Lock::default(),
    }
}

pub(crate) async fn random_operations_on_locks_agree_with_a_model(f: Fixture) {
    put(&f.bucket, "a", &pattern(0, 10)).await;
    let mut f = lockable(f).await;
    let now = || Clock::system().now();
    let names = ["a", "a/b", "..", "é"];
    let mut model: Vec<(&str, Vec<Kept>)> = names.map(|name| (name, Vec::new())).into();
    let lock = Some(Lock::default());
    let id = VersionId::Null;
    model[0].1.push(Kept { id, lock });
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 20) as usize % below
    };
    for step in 0..400 {
        let (name, kept) = &mut model[next(names.len())];
        let bypass = [Bypass::Nothing, Bypass::Governance][next(2)];
        match next(10) {
            0..3 => {
                let entry = put_locked(&f.bucket, name, random_lock(next(5))).await;
                let (id, lock) = (entry.version.clone(), Some(entry.metadata.lock));
                kept.insert(0, Kept { id, lock });
            }
            3 => match delete(&f.bucket, name).await {
                Deleted::Marked(id) => kept.insert(0, Kept { id, lock: None }),
                other => panic!("step {step}: {other:?}"),
            },
            4..7 if !kept.is_empty() => {
                let at = next(kept.len());
                let free = kept[at].lock.unwrap_or_default();
                let expected = free.check_removal(now(), bypass).is_ok();
                let done = remove(&f.bucket, name, &kept[at].id, bypass).await;
                assert_eq!(done.is_ok(), expected, "step {step}: {name}: {done:?}");
                if expected {
                    kept.remove(at);
                }
            }
            7..9 if !kept.is_empty() => {
                let at = next(kept.len());
                let change = match next(4) {
                    0 => LockChange::LegalHold(true),
                    1 => LockChange::LegalHold(false),
                    _ => LockChange::Retention(random_lock(next(5)).retention),
                };
                let id = kept[at].id.clone();
                let done = set(&f.bucket, name, Some(&id), change, bypass).await;
                let Some(lock) = &mut kept[at].lock else {
                    assert!(
                        matches!(done, Err(EngineError::DeleteMarker { .. })),
                        "{done:?}"
                    );
                    continue;
                };
                match lock.changed(change, now(), bypass) {
                    Ok(changed) => {
                        *lock = changed;
                        assert_eq!(done.unwrap(), changed, "step {step}");
                    }
                    Err(_) => assert!(matches!(done, Err(EngineError::Locked)), "{done:?}"),
                }
            }
            _ if next(20) == 0 => f = f.reopen().await,
            _ => {
                for Kept { id, lock } in &*kept {
                    match (f.bucket.head_version(&key(name), id).await, lock) {
                        (Ok(entry), Some(lock)) => assert_eq!(entry.metadata.lock, *lock),
                        (Err(EngineError::DeleteMarker { .. }), None) => {}
                        (other, lock) => panic!("step {step}: {name} {id} {lock:?}: {other:?}"),
                    }
                }
            }
        }
    }
    let count: usize = model.iter().map(|(_, kept)| kept.len()).sum();
    let plan = VersionsPlan {
        limit: 1000,
        ..VersionsPlan::default()
    };
    let page = f.bucket.scan_versions(&plan).await.unwrap();
    assert_eq!(page.items.len(), count);
}

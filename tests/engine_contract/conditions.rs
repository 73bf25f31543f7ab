//! Preconditions, alone and in races.

use lobos::clock::Timestamp;
use lobos::engine::{Commit, Condition, Deleted, ETag, EngineError, Precondition};

use crate::fixture::*;

pub(crate) async fn if_none_match_any_protects_what_is_there(f: Fixture) {
    for name in ["k", "dir/k", "k/below", "a//b"] {
        let (first, second) = (pattern(1, 10), pattern(2, 20));
        put_if(&f, name, 1, 10, if_none_match_any()).await.unwrap();
        let refused = put_if(&f, name, 2, 20, if_none_match_any()).await;
        assert!(
            matches!(refused, Err(EngineError::PreconditionFailed)),
            "{name}: {refused:?}"
        );
        assert_holds(&f.bucket, name, &first).await;
        let other = if_none_match(&etag(&second));
        put_if(&f, name, 2, 20, other.clone()).await.unwrap();
        let refused = put_if(&f, name, 1, 10, other).await;
        assert!(matches!(refused, Err(EngineError::PreconditionFailed)));
        assert_holds(&f.bucket, name, &second).await;
    }
}

pub(crate) async fn if_match_asks_for_what_is_there(f: Fixture) {
    for name in ["k", "dir/k", "k/below", "a//b"] {
        let (first, second) = (etag(&pattern(1, 10)), etag(&pattern(2, 10)));
        let absent = put_if(&f, name, 1, 10, if_match(&first)).await;
        assert!(matches!(absent, Err(EngineError::NoSuchKey)), "{absent:?}");
        assert_absent(&f.bucket, name).await;
        put(&f.bucket, name, &pattern(1, 10)).await;
        let refused = put_if(&f, name, 2, 10, if_match(&second)).await;
        assert!(matches!(refused, Err(EngineError::PreconditionFailed)));
        assert_holds(&f.bucket, name, &pattern(1, 10)).await;
        put_if(&f, name, 2, 10, if_match(&first)).await.unwrap();
        let either = Precondition {
            if_match: Some(Condition::OneOf(vec![first, second])),
            ..Precondition::default()
        };
        put_if(&f, name, 3, 10, either).await.unwrap();
        assert_holds(&f.bucket, name, &pattern(3, 10)).await;
    }
}

pub(crate) async fn a_failed_precondition_changes_nothing(f: Fixture) {
    let none = if_match(&ETag::new("00000000000000000000000000000000"));
    let refused = put_if(&f, "deep/er/k", 1, 70_000, none).await;
    assert!(matches!(refused, Err(EngineError::NoSuchKey)));
    assert!(scan_all(&f.bucket, "", Some("/"), 10).await.is_empty());
    put(&f.bucket, "deep/er/k", &pattern(1, 70_000)).await;
    let before = head(&f.bucket, "deep/er/k").await.unwrap();
    let refused = put_if(&f, "deep/er/k", 2, 10, if_none_match_any()).await;
    assert!(matches!(refused, Err(EngineError::PreconditionFailed)));
    assert_eq!(head(&f.bucket, "deep/er/k").await.unwrap(), before);
    assert_eq!(keys(&f.bucket).await, ["deep/er/k"]);
}

pub(crate) async fn set_metadata_obeys_its_precondition(f: Fixture) {
    let bytes = pattern(1, 10);
    let before = put(&f.bucket, "k", &bytes).await;
    let wrong = if_match(&etag(b"something else"));
    let refused = f.bucket.set_metadata(&key("k"), marked("x"), &wrong).await;
    assert!(matches!(refused, Err(EngineError::PreconditionFailed)));
    assert_eq!(head(&f.bucket, "k").await.unwrap(), before);
    let right = if_match(&etag(&bytes));
    let after = f
        .bucket
        .set_metadata(&key("k"), marked("x"), &right)
        .await
        .unwrap();
    assert_eq!(after.metadata, marked("x"));
}

pub(crate) async fn a_delete_obeys_its_precondition(f: Fixture) {
    let bytes = pattern(1, 10);
    let entry = put(&f.bucket, "k", &bytes).await;
    let second_before = entry.modified.unix_seconds() - 1;
    let wrong = [
        if_match(&etag(b"something else")),
        Precondition {
            if_size_bytes: Some(11),
            ..Precondition::default()
        },
        Precondition {
            if_modified_at: Some(Timestamp::from_unix_seconds(second_before)),
            ..Precondition::default()
        },
        Precondition {
            if_size_bytes: Some(11),
            ..if_match(&entry.etag)
        },
    ];
    for precondition in &wrong {
        let refused = f.bucket.delete(&key("k"), precondition).await;
        assert!(
            matches!(refused, Err(EngineError::PreconditionFailed)),
            "{precondition:?}: {refused:?}"
        );
        assert_holds(&f.bucket, "k", &bytes).await;
        let absent = f.bucket.delete(&key("absent"), precondition).await;
        // An ETag asks for an entry; time and size say what one must be like if it is there.
        match precondition.if_match {
            Some(_) => assert!(matches!(absent, Err(EngineError::NoSuchKey)), "{absent:?}"),
            None => assert_eq!(absent.unwrap(), Deleted::Absent, "{precondition:?}"),
        }
    }
    let right = Precondition {
        if_modified_at: Some(Timestamp::from_unix_seconds(second_before + 1)),
        if_size_bytes: Some(10),
        ..if_match(&entry.etag)
    };
    let deleted = f.bucket.delete(&key("k"), &right).await.unwrap();
    assert_eq!(deleted, Deleted::Removed);
    assert_absent(&f.bucket, "k").await;
}

pub(crate) async fn of_32_racing_first_writers_exactly_one_wins(f: Fixture) {
    let buckets = vec![f.bucket.clone()];
    race_first_writers(&buckets).await;
}

pub(crate) async fn of_32_racing_first_writers_on_two_engines_exactly_one_wins(f: Fixture) {
    let Some(twin) = f.twin() else { return };
    let twin = twin.bucket(&bucket_name("bucket")).await.unwrap();
    race_first_writers(&[f.bucket.clone(), twin]).await;
}

async fn race_first_writers(buckets: &[lobos::engine::Bucket]) {
    for round in 0..10 {
        // The last two live outside the tree of plain files.
        let name = ["k", "dir/k", "k/below", "a//b"][round % 4];
        let results = race(32, |racer| {
            let bucket = buckets[racer % buckets.len()].clone();
            async move {
                let bytes = pattern(racer as u64, 100 + racer);
                let commit = Commit {
                    precondition: if_none_match_any(),
                    ..plain(&bytes)
                };
                put_with(&bucket, name, &bytes, commit).await
            }
        })
        .await;
        let winners: Vec<usize> = (0..32).filter(|&i| results[i].is_ok()).collect();
        assert_eq!(winners.len(), 1, "round {round}: winners {winners:?}");
        for loser in results.iter().filter_map(|result| result.as_ref().err()) {
            assert!(
                matches!(loser, EngineError::PreconditionFailed),
                "{loser:?}"
            );
        }
        let bytes = pattern(winners[0] as u64, 100 + winners[0]);
        for bucket in buckets {
            assert_holds(bucket, name, &bytes).await;
        }
        delete(&buckets[0], name).await;
    }
}

pub(crate) async fn compare_and_swap_loses_no_update(f: Fixture) {
    let first = bytes::Bytes::from_static(b"0");
    put(&f.bucket, "dir/counter", &first).await;
    let mut buckets = vec![f.bucket.clone()];
    if let Some(twin) = f.twin() {
        buckets.push(twin.bucket(&bucket_name("bucket")).await.unwrap());
    }
    let added = race(6, |racer| {
        let bucket = buckets[racer % buckets.len()].clone();
        async move {
            let mut added = 0;
            while added < 15 {
                let (entry, bytes) = get(&bucket, "dir/counter").await.unwrap();
                let count: u64 = String::from_utf8(bytes).unwrap().parse().unwrap();
                let bytes = bytes::Bytes::from((count + 1).to_string());
                let commit = Commit {
                    precondition: if_match(&entry.etag),
                    ..plain(&bytes)
                };
                match put_with(&bucket, "dir/counter", &bytes, commit).await {
                    Ok(_) => added += 1,
                    Err(EngineError::PreconditionFailed) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
            added
        }
    })
    .await;
    let total = added.iter().sum::<u64>().to_string();
    assert_holds(&f.bucket, "dir/counter", total.as_bytes()).await;
}

pub(crate) async fn of_racing_conditional_deletes_exactly_one_removes(f: Fixture) {
    for name in ["k", "dir/k", "a//b"] {
        let entry = put(&f.bucket, name, &pattern(1, 10)).await;
        let results = race(8, |_| {
            let (bucket, precondition) = (f.bucket.clone(), if_match(&entry.etag));
            async move { bucket.delete(&key(name), &precondition).await }
        })
        .await;
        let removed = |result: &&Result<_, _>| matches!(result, Ok(Deleted::Removed));
        assert_eq!(results.iter().filter(removed).count(), 1, "{results:?}");
        for result in results.iter().filter(|result| !removed(result)) {
            assert!(matches!(result, Err(EngineError::NoSuchKey)), "{result:?}");
        }
    }
}

async fn put_if(
    f: &Fixture,
    name: &str,
    seed: u64,
    size: usize,
    precondition: Precondition,
) -> Result<(), EngineError> {
    let bytes = pattern(seed, size);
    let commit = Commit {
        precondition,
        ..plain(&bytes)
    };
    put_with(&f.bucket, name, &bytes, commit).await.map(drop)
}

fn if_none_match_any() -> Precondition {
    Precondition {
        if_none_match: Some(Condition::Any),
        ..Precondition::default()
    }
}

fn if_none_match(etag: &ETag) -> Precondition {
    Precondition {
        if_none_match: Some(Condition::OneOf(vec![etag.clone()])),
        ..Precondition::default()
    }
}

fn if_match(etag: &ETag) -> Precondition {
    Precondition {
        if_match: Some(Condition::OneOf(vec![etag.clone()])),
        ..Precondition::default()
    }
}

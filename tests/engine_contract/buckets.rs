//! Making, finding and removing buckets.

use lobos::engine::{BucketConfig, EngineError};

use crate::fixture::*;

pub(crate) async fn a_bucket_is_made_once_and_found(f: Fixture) {
    let name = bucket_name("another");
    let absent = f.engine.bucket(&name).await;
    assert!(matches!(absent, Err(EngineError::NoSuchBucket)));
    f.engine
        .create_bucket(&name, bucket_config())
        .await
        .unwrap();
    let bucket = f.engine.bucket(&name).await.unwrap();
    assert!(keys(&bucket).await.is_empty());
    drop(bucket);
    let again = f.engine.create_bucket(&name, bucket_config()).await;
    assert!(matches!(again, Err(EngineError::BucketExists)), "{again:?}");
    let f = f.reopen().await;
    f.engine.bucket(&name).await.unwrap();
    let again = f.engine.create_bucket(&name, bucket_config()).await;
    assert!(matches!(again, Err(EngineError::BucketExists)), "{again:?}");
}

pub(crate) async fn a_bucket_keeps_its_configuration(f: Fixture) {
    let name = bucket_name("owned");
    for owner in [Some("somebody".into()), None] {
        let config = BucketConfig {
            owner,
            ..bucket_config()
        };
        f.engine.create_bucket(&name, config.clone()).await.unwrap();
        let bucket = f.engine.bucket(&name).await.unwrap();
        assert_eq!(*bucket.config().await.unwrap(), config);
        if let Some(twin) = f.twin() {
            let twin = twin.bucket(&name).await.unwrap();
            assert_eq!(*twin.config().await.unwrap(), config);
        }
        f.engine.delete_bucket(&name).await.unwrap();
    }
    let config = bucket_config();
    f.engine.create_bucket(&name, config.clone()).await.unwrap();
    let f = f.reopen().await;
    let bucket = f.engine.bucket(&name).await.unwrap();
    assert_eq!(*bucket.config().await.unwrap(), config);
}

pub(crate) async fn buckets_are_listed_by_name(f: Fixture) {
    for name in ["zzz", "aaa", "bucket-2", "bucket.1", "0numeric"] {
        f.engine
            .create_bucket(&bucket_name(name), bucket_config())
            .await
            .unwrap();
    }
    let want = ["0numeric", "aaa", "bucket", "bucket-2", "bucket.1", "zzz"];
    let f = f.reopen().await;
    let infos = f.engine.list_buckets().await.unwrap();
    let names: Vec<_> = infos.iter().map(|info| info.name.as_str()).collect();
    assert_eq!(names, want);
    for info in &infos {
        assert_eq!(info.config.owner.as_deref(), Some("tester"));
    }
}

pub(crate) async fn a_bucket_with_an_object_is_not_deleted(f: Fixture) {
    let name = bucket_name("bucket");
    for object in ["k", "deep/er/k", "a//b", "dir/", ".."] {
        put(&f.bucket, object, &pattern(1, 10)).await;
        let refused = f.engine.delete_bucket(&name).await;
        assert!(
            matches!(refused, Err(EngineError::BucketNotEmpty)),
            "{object}: {refused:?}"
        );
        assert_holds(&f.bucket, object, &pattern(1, 10)).await;
        delete(&f.bucket, object).await;
    }
}

pub(crate) async fn a_bucket_is_deleted_when_its_objects_are_gone(f: Fixture) {
    let name = bucket_name("bucket");
    for object in ["k", "deep/er/k", "k/below", "a//b", "dir/"] {
        put(&f.bucket, object, &pattern(1, 10)).await;
    }
    for object in keys(&f.bucket).await {
        delete(&f.bucket, &object).await;
    }
    f.engine.delete_bucket(&name).await.unwrap();
    assert!(f.engine.list_buckets().await.unwrap().is_empty());
    let gone = f.engine.bucket(&name).await;
    assert!(matches!(gone, Err(EngineError::NoSuchBucket)));
    // A new bucket of that name starts empty.
    f.engine
        .create_bucket(&name, bucket_config())
        .await
        .unwrap();
    let bucket = f.engine.bucket(&name).await.unwrap();
    assert!(keys(&bucket).await.is_empty());
    put(&bucket, "k", &pattern(2, 10)).await;
    assert_holds(&bucket, "k", &pattern(2, 10)).await;
}

pub(crate) async fn a_bucket_that_does_not_exist_is_no_such_bucket(f: Fixture) {
    let name = bucket_name("absent");
    let answer = f.engine.bucket(&name).await;
    assert!(matches!(answer, Err(EngineError::NoSuchBucket)));
    let answer = f.engine.delete_bucket(&name).await;
    assert!(matches!(answer, Err(EngineError::NoSuchBucket)));
}

pub(crate) async fn a_deleted_bucket_is_not_written_through_an_old_handle(f: Fixture) {
    let name = bucket_name("bucket");
    let mut begun = f.bucket.begin(&key("begun"), None).await.unwrap();
    begun.append(pattern(1, 10)).await.unwrap();
    f.engine.delete_bucket(&name).await.unwrap();
    let late = begun.commit(plain(&pattern(1, 10))).await;
    assert!(matches!(late, Err(EngineError::NoSuchBucket)), "{late:?}");
    let late = put_with(&f.bucket, "k", &pattern(1, 10), plain(&pattern(1, 10))).await;
    assert!(matches!(late, Err(EngineError::NoSuchBucket)), "{late:?}");
    let late = head(&f.bucket, "k").await;
    assert!(
        matches!(
            late,
            Err(EngineError::NoSuchBucket | EngineError::NoSuchKey)
        ),
        "{late:?}"
    );
    assert!(f.engine.list_buckets().await.unwrap().is_empty());
    let gone = f.engine.bucket(&name).await;
    assert!(matches!(gone, Err(EngineError::NoSuchBucket)));
}

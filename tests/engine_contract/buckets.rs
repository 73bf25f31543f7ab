//! Making, finding and removing buckets.

use lobos::engine::{BucketConfig, Durability, ETagMode, EngineError};

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
    let config = BucketConfig {
        durability: Some(Durability::Relaxed),
        etag: Some(ETagMode::Fast),
        quota_bytes: Some(7),
        ..bucket_config()
    };
    f.engine.create_bucket(&name, config.clone()).await.unwrap();
    let f = f.reopen().await;
    let bucket = f.engine.bucket(&name).await.unwrap();
    assert_eq!(*bucket.config().await.unwrap(), config);
}

pub(crate) async fn a_changed_configuration_is_what_everybody_reads(f: Fixture) {
    let said = |name: &'static str, text: &'static str| {
        move |config: &mut BucketConfig| {
            config.documents.insert(name.into(), text.into());
            Ok::<_, EngineError>(())
        }
    };
    let before = f.bucket.config().await.unwrap();
    let changed = f.bucket.change_config(said("cors", "\"é")).await.unwrap();
    assert_eq!(*changed, *f.bucket.config().await.unwrap());
    let second = f.bucket.change_config(said("tagging", "")).await.unwrap();
    assert_eq!(second.documents.len(), 2);
    assert_eq!(&*second.documents["cors"], "\"é");
    assert_eq!(
        (&second.owner, second.created),
        (&before.owner, before.created)
    );
    let name = bucket_name("bucket");
    if let Some(twin) = f.twin() {
        let twin = twin.bucket(&name).await.unwrap();
        assert_eq!(*twin.config().await.unwrap(), *second);
    }
    let f = f.reopen().await;
    assert_eq!(*f.bucket.config().await.unwrap(), *second);
    let infos = f.engine.list_buckets().await.unwrap();
    assert_eq!(*infos[0].config, *second);
    // The bucket is as empty as before, and a bucket made anew has nothing of it.
    f.engine.delete_bucket(&name).await.unwrap();
    let late = f.bucket.change_config(said("cors", "late")).await;
    assert!(matches!(late, Err(EngineError::NoSuchBucket)), "{late:?}");
    f.engine
        .create_bucket(&name, bucket_config())
        .await
        .unwrap();
    let bucket = f.engine.bucket(&name).await.unwrap();
    assert!(bucket.config().await.unwrap().documents.is_empty());
}

pub(crate) async fn a_refused_change_of_the_configuration_changes_nothing(f: Fixture) {
    let before = f.bucket.config().await.unwrap();
    let refused = f.bucket.change_config(|config| {
        config.documents.insert("cors".into(), "half".into());
        Err(EngineError::PreconditionFailed)
    });
    let refused = refused.await;
    assert!(matches!(refused, Err(EngineError::PreconditionFailed)));
    let huge = f.bucket.change_config(|config| {
        let text = "x".repeat(lobos::limits::BUCKET_CONFIG_BYTES_MAX);
        config.documents.insert("cors".into(), text.into());
        Ok::<_, EngineError>(())
    });
    let huge = huge.await;
    assert!(matches!(huge, Err(EngineError::ConfigTooLarge)), "{huge:?}");
    assert_eq!(*f.bucket.config().await.unwrap(), *before);
    let f = f.reopen().await;
    assert_eq!(*f.bucket.config().await.unwrap(), *before);
}

pub(crate) async fn racing_changes_of_the_configuration_are_all_kept(f: Fixture) {
    let twin = f.twin().unwrap_or_else(|| std::sync::Arc::clone(&f.engine));
    let engines = [std::sync::Arc::clone(&f.engine), twin];
    let results = race(16, |index| {
        let engine = std::sync::Arc::clone(&engines[index % 2]);
        async move {
            let bucket = engine.bucket(&bucket_name("bucket")).await?;
            for round in 0..4 {
                bucket
                    .change_config(move |config| {
                        let name = format!("{index}-{round}");
                        config.documents.insert(name.into(), "said".into());
                        Ok::<_, EngineError>(())
                    })
                    .await?;
            }
            Ok::<_, EngineError>(())
        }
    });
    for result in results.await {
        result.unwrap();
    }
    drop(engines);
    let f = f.reopen().await;
    let config = f.bucket.config().await.unwrap();
    assert_eq!(config.documents.len(), 64);
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

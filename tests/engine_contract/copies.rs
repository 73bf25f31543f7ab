//! Copying inside the engine.

use std::sync::Arc;

use lobos::engine::{Bucket, Range};

use crate::fixture::*;

pub(crate) async fn append_from_copies_the_whole_of_another_entry(f: Fixture) {
    for size in [0, 1, 4097, (3 << 20) + 5] {
        let bytes = pattern(1, size);
        put(&f.bucket, "source", &bytes).await;
        copy(&f.bucket, "source", &f.bucket, "dir/copy", &bytes).await;
        assert_holds(&f.bucket, "dir/copy", &bytes).await;
        // The copy is its own: it stays when the source goes.
        put(&f.bucket, "source", &pattern(2, 7)).await;
        delete(&f.bucket, "source").await;
        assert_holds(&f.bucket, "dir/copy", &bytes).await;
    }
}

pub(crate) async fn append_from_takes_exactly_the_range(f: Fixture) {
    let bytes = pattern(1, 200_000);
    put(&f.bucket, "source", &bytes).await;
    for (start, size) in [(0, 1), (1, 4096), (65_536, 65_536), (199_999, 1), (7, 0)] {
        let mut writer = f.bucket.begin(&key("copy"), None).await.unwrap();
        let source = f.bucket.open(&key("source")).await.unwrap();
        let range = Range {
            start_bytes: start as u64,
            size_bytes: size as u64,
        };
        writer.append_from(source, range).await.unwrap();
        let want = &bytes[start..start + size];
        writer.commit(plain(want)).await.unwrap();
        assert_holds(&f.bucket, "copy", want).await;
    }
}

pub(crate) async fn append_from_joins_pieces_of_several_entries_and_bytes(f: Fixture) {
    let (a, b) = (pattern(1, 100_000), pattern(2, 50_000));
    put(&f.bucket, "a", &a).await;
    put(&f.bucket, "b", &b).await;
    let middle = pattern(3, 333);
    let mut writer = f.bucket.begin(&key("joined"), None).await.unwrap();
    let source = f.bucket.open(&key("a")).await.unwrap();
    let range = whole(source.entry());
    writer.append_from(source, range).await.unwrap();
    writer.append(middle.clone()).await.unwrap();
    let source = f.bucket.open(&key("b")).await.unwrap();
    let range = whole(source.entry());
    writer.append_from(source, range).await.unwrap();
    writer.append(middle.clone()).await.unwrap();
    let want = [a, middle.clone(), b, middle].concat();
    writer.commit(plain(&want)).await.unwrap();
    assert_holds(&f.bucket, "joined", &want).await;
}

pub(crate) async fn an_entry_can_be_rewritten_from_itself(f: Fixture) {
    let bytes = pattern(1, 100_000);
    put(&f.bucket, "k", &bytes).await;
    for _ in 0..3 {
        copy(&f.bucket, "k", &f.bucket, "k", &bytes).await;
        assert_holds(&f.bucket, "k", &bytes).await;
    }
}

pub(crate) async fn a_source_that_is_replaced_meanwhile_gives_its_old_bytes(f: Fixture) {
    let bytes = pattern(1, 100_000);
    put(&f.bucket, "source", &bytes).await;
    let source = f.bucket.open(&key("source")).await.unwrap();
    put(&f.bucket, "source", &pattern(2, 100_000)).await;
    let mut writer = f.bucket.begin(&key("copy"), None).await.unwrap();
    let range = whole(source.entry());
    writer.append_from(source, range).await.unwrap();
    writer.commit(plain(&bytes)).await.unwrap();
    assert_holds(&f.bucket, "copy", &bytes).await;
}

pub(crate) async fn append_from_works_across_buckets(f: Fixture) {
    let name = bucket_name("other");
    f.engine
        .create_bucket(&name, bucket_config())
        .await
        .unwrap();
    let other = f.engine.bucket(&name).await.unwrap();
    let bytes = pattern(1, 70_001);
    put(&f.bucket, "k", &bytes).await;
    copy(&f.bucket, "k", &other, "a//k", &bytes).await;
    assert_holds(&other, "a//k", &bytes).await;
    copy(&other, "a//k", &f.bucket, "back", &bytes).await;
    assert_holds(&f.bucket, "back", &bytes).await;
}

async fn copy(from: &Bucket, source: &str, to: &Bucket, name: &str, bytes: &[u8]) {
    let source = from.open(&key(source)).await.unwrap();
    let entry = Arc::clone(source.entry());
    let mut writer = to.begin(&key(name), Some(entry.size_bytes)).await.unwrap();
    writer.append_from(source, whole(&entry)).await.unwrap();
    writer.commit(plain(bytes)).await.unwrap();
}

//! Parts and what is made from them.

use bytes::Bytes;
use lobos::engine::{
    Checksum, ChecksumAlgorithm, ChecksumKind, CompletePlan, Condition, ETag, EngineError,
    Metadata, Part, PartRef, Precondition, Seal, UploadPlan,
};

use crate::fixture::*;

pub(crate) async fn an_upload_becomes_one_object(f: Fixture) {
    for name in ["k", "dir/er/k", "k/below", "a//b", ".."] {
        let seal = name.starts_with("dir").then(Box::<Seal>::default);
        let plan = UploadPlan {
            metadata: marked("upload"),
            checksum: Some((ChecksumAlgorithm::Crc32, ChecksumKind::Composite)),
            initiator: "somebody".into(),
            seal: seal.clone(),
        };
        let id = f.bucket.create_upload(&key(name), plan).await.unwrap();
        let bytes = [pattern(1, 200_000), pattern(2, 100_000)];
        let mut parts = Vec::new();
        for (number, bytes) in (1..).zip(&bytes) {
            let size = Some(bytes.len() as u64);
            let begun = begin_part(&f.bucket, name, &id, number, size);
            let mut writer = begun.await.unwrap();
            for piece in bytes.chunks(65_536) {
                let piece = Bytes::copy_from_slice(piece);
                writer.append(piece).await.unwrap();
            }
            let part = writer
                .commit_part(etag(bytes), Some(crc32(number)))
                .await
                .unwrap();
            assert_eq!(part.number, number);
            assert_eq!(part.size_bytes, bytes.len() as u64);
            assert_eq!(part.etag, etag(bytes));
            assert_eq!(part.checksum, Some(crc32(number)));
            parts.push(part);
        }
        let plan = CompletePlan {
            checksum: Some(Checksum {
                kind: ChecksumKind::Composite,
                ..crc32(3)
            }),
            plain_bytes: 299_000,
            ..completion(&parts)
        };
        let entry = f
            .bucket
            .complete(&key(name), &id, plan.clone())
            .await
            .unwrap();
        assert_eq!(entry.checksum, plan.checksum);
        assert_eq!(entry.metadata, marked("upload"));
        let shown = if seal.is_some() { 299_000 } else { 300_000 };
        assert_eq!((entry.size_bytes, entry.plain_bytes()), (300_000, shown));
        assert_eq!(head(&f.bucket, name).await.unwrap(), entry);
        assert_completed(&f.bucket, name, &parts, &bytes.concat()).await;
        assert_no_upload(&f.bucket, name, &id).await;
    }
    let f = f.reopen().await;
    let entry = head(&f.bucket, "dir/er/k").await.unwrap();
    assert_eq!(entry.metadata, marked("upload"));
    assert_eq!(entry.parts.len(), 2);
}

pub(crate) async fn uniform_parts_in_any_order_become_one_object(f: Fixture) {
    let size = 128 << 10;
    let bytes = pattern(1, 4 * size + 777);
    let slice = |number: u32| {
        let start = (number as usize - 1) * size;
        bytes.slice(start..bytes.len().min(start + size))
    };
    let orders = [
        [1, 2, 3, 4, 5],
        [5, 4, 3, 2, 1],
        [3, 5, 1, 4, 2],
        [2, 1, 5, 3, 4],
    ];
    for order in orders {
        let id = open_upload(&f.bucket, "k").await;
        let mut parts = Vec::new();
        for number in order {
            let part = put_part(&f.bucket, "k", &id, number, &slice(number)).await;
            parts.push(part.unwrap());
        }
        parts.sort_by_key(|part| part.number);
        complete(&f.bucket, "k", &id, &parts).await.unwrap();
        assert_completed(&f.bucket, "k", &parts, &bytes).await;
    }
    // All at once.
    let id = open_upload(&f.bucket, "k").await;
    let mut parts = race(5, |racer| {
        let (bucket, id, number) = (f.bucket.clone(), id.clone(), racer as u32 + 1);
        let bytes = slice(number);
        async move { put_part(&bucket, "k", &id, number, &bytes).await.unwrap() }
    })
    .await;
    parts.sort_by_key(|part| part.number);
    complete(&f.bucket, "k", &id, &parts).await.unwrap();
    assert_completed(&f.bucket, "k", &parts, &bytes).await;
}

pub(crate) async fn parts_of_unequal_sizes_become_one_object(f: Fixture) {
    for sizes in [
        vec![100, 200_000, 4096],
        vec![200_000, 100, 200_000],
        vec![1, 1, 2, 1],
        vec![4096, 4096, 8192, 4096],
        vec![70_000, 0, 70_000],
    ] {
        let (bytes, parts) = completed(&f, "k", &sizes).await;
        assert_completed(&f.bucket, "k", &parts, &bytes).await;
    }
}

pub(crate) async fn an_upload_of_one_empty_part_is_an_empty_object(f: Fixture) {
    let (bytes, parts) = completed(&f, "k", &[0]).await;
    assert!(bytes.is_empty());
    assert_completed(&f.bucket, "k", &parts, b"").await;
}

pub(crate) async fn parts_of_unknown_length_become_one_object(f: Fixture) {
    let id = open_upload(&f.bucket, "k").await;
    let bytes = [pattern(1, 70_000), pattern(2, 70_000), pattern(3, 5)];
    let mut parts = Vec::new();
    for (number, bytes) in (1..).zip(&bytes) {
        let begun = begin_part(&f.bucket, "k", &id, number, None);
        let mut writer = begun.await.unwrap();
        writer.append(bytes.clone()).await.unwrap();
        parts.push(writer.commit_part(etag(bytes), None).await.unwrap());
    }
    complete(&f.bucket, "k", &id, &parts).await.unwrap();
    assert_completed(&f.bucket, "k", &parts, &bytes.concat()).await;
}

pub(crate) async fn a_part_uploaded_again_replaces_the_first(f: Fixture) {
    let id = open_upload(&f.bucket, "k").await;
    let mut bytes = vec![pattern(1, 70_000), pattern(2, 70_000), pattern(3, 70_000)];
    let mut parts = put_parts(&f, "k", &id, &bytes).await;
    for (again, seed) in [(2, 4), (1, 5), (2, 6), (3, 7)] {
        let new = pattern(seed, 70_000);
        let old = parts[again - 1].clone();
        parts[again - 1] = put_part(&f.bucket, "k", &id, again as u32, &new)
            .await
            .unwrap();
        bytes[again - 1] = new;
        // The replaced part cannot be named any more.
        let mut stale = parts.clone();
        stale[again - 1] = old;
        let answer = complete(&f.bucket, "k", &id, &stale).await;
        assert!(
            matches!(answer, Err(EngineError::InvalidPart { number }) if number == again as u32),
            "{answer:?}"
        );
    }
    complete(&f.bucket, "k", &id, &parts).await.unwrap();
    assert_completed(&f.bucket, "k", &parts, &bytes.concat()).await;
}

pub(crate) async fn a_part_uploaded_again_may_have_another_size(f: Fixture) {
    for size in [0, 10, 69_999, 70_001, 300_000] {
        let id = open_upload(&f.bucket, "k").await;
        let mut bytes = vec![pattern(1, 70_000), pattern(2, 70_000), pattern(3, 70_000)];
        let mut parts = put_parts(&f, "k", &id, &bytes).await;
        bytes[1] = pattern(4, size);
        parts[1] = put_part(&f.bucket, "k", &id, 2, &bytes[1]).await.unwrap();
        complete(&f.bucket, "k", &id, &parts).await.unwrap();
        assert_completed(&f.bucket, "k", &parts, &bytes.concat()).await;
    }
}

pub(crate) async fn a_failed_second_upload_of_a_part_leaves_the_first(f: Fixture) {
    let id = open_upload(&f.bucket, "k").await;
    let bytes = vec![pattern(1, 70_000), pattern(2, 70_000)];
    let parts = put_parts(&f, "k", &id, &bytes).await;
    for number in [1, 2] {
        let begun = begin_part(&f.bucket, "k", &id, number, Some(70_000));
        let mut writer = begun.await.unwrap();
        writer.append(pattern(9, 50_000)).await.unwrap();
        drop(writer);
    }
    complete(&f.bucket, "k", &id, &parts).await.unwrap();
    assert_completed(&f.bucket, "k", &parts, &bytes.concat()).await;
}

pub(crate) async fn two_writers_of_one_part_do_not_mix(f: Fixture) {
    let (a, b) = (pattern(1, 140_000), pattern(2, 140_000));
    let tail = pattern(3, 10);
    for first_wins in [true, false] {
        let id = open_upload(&f.bucket, "k").await;
        let begin = || {
            let (bucket, id) = (f.bucket.clone(), id.clone());
            async move {
                let begun = begin_part(&bucket, "k", &id, 1, Some(140_000));
                begun.await.unwrap()
            }
        };
        let (mut writer_a, mut writer_b) = (begin().await, begin().await);
        for start in [0, 70_000] {
            let piece = start..start + 70_000;
            writer_a.append(a.slice(piece.clone())).await.unwrap();
            writer_b.append(b.slice(piece)).await.unwrap();
        }
        let last = put_part(&f.bucket, "k", &id, 2, &tail).await.unwrap();
        let (part, bytes) = if first_wins {
            writer_b.commit_part(etag(&b), None).await.unwrap();
            (writer_a.commit_part(etag(&a), None).await.unwrap(), &a)
        } else {
            writer_a.commit_part(etag(&a), None).await.unwrap();
            (writer_b.commit_part(etag(&b), None).await.unwrap(), &b)
        };
        let parts = [part, last];
        complete(&f.bucket, "k", &id, &parts).await.unwrap();
        let want = [&bytes[..], &tail[..]].concat();
        assert_completed(&f.bucket, "k", &parts, &want).await;
    }
}

pub(crate) async fn parts_may_be_left_out(f: Fixture) {
    let bytes: Vec<Bytes> = (0..5).map(|seed| pattern(seed, 70_000)).collect();
    let chosen: [&[usize]; 6] = [&[0], &[4], &[0, 1, 2], &[1, 2, 3, 4], &[0, 2, 4], &[1, 3]];
    for chosen in chosen {
        let id = open_upload(&f.bucket, "k").await;
        let parts = put_parts(&f, "k", &id, &bytes).await;
        let parts: Vec<Part> = chosen.iter().map(|i| parts[*i].clone()).collect();
        let want: Vec<u8> = chosen.iter().flat_map(|i| bytes[*i].to_vec()).collect();
        complete(&f.bucket, "k", &id, &parts).await.unwrap();
        assert_completed(&f.bucket, "k", &parts, &want).await;
        assert_no_upload(&f.bucket, "k", &id).await;
    }
}

pub(crate) async fn part_numbers_may_have_gaps(f: Fixture) {
    let id = open_upload(&f.bucket, "k").await;
    let bytes = [pattern(1, 70_000), pattern(2, 70_000), pattern(3, 7)];
    let mut parts = Vec::new();
    for (number, bytes) in [3, 500, 10_000].into_iter().zip(&bytes) {
        parts.push(put_part(&f.bucket, "k", &id, number, bytes).await.unwrap());
    }
    complete(&f.bucket, "k", &id, &parts).await.unwrap();
    assert_completed(&f.bucket, "k", &parts, &bytes.concat()).await;
}

pub(crate) async fn a_part_copied_from_an_object_is_a_part(f: Fixture) {
    let source = pattern(1, 300_000);
    put(&f.bucket, "source", &source).await;
    let id = open_upload(&f.bucket, "k").await;
    let mut parts = Vec::new();
    for (number, start) in [(1, 0), (2, 100_000), (3, 200_000)] {
        let begun = begin_part(&f.bucket, "k", &id, number, Some(100_000));
        let mut writer = begun.await.unwrap();
        let reader = f.bucket.open(&key("source")).await.unwrap();
        let range = lobos::engine::Range {
            start_bytes: start as u64,
            size_bytes: 100_000,
        };
        writer.append_from(reader, range).await.unwrap();
        let tag = etag(&source[start..start + 100_000]);
        parts.push(writer.commit_part(tag, None).await.unwrap());
    }
    complete(&f.bucket, "k", &id, &parts).await.unwrap();
    assert_completed(&f.bucket, "k", &parts, &source).await;
}

pub(crate) async fn a_wrong_part_is_invalid(f: Fixture) {
    let id = open_upload(&f.bucket, "k").await;
    let bytes = vec![pattern(1, 1000), pattern(2, 1000)];
    let parts = put_parts(&f, "k", &id, &bytes).await;
    let right = completion(&parts);
    let wrong = [
        PartRef {
            number: 3,
            ..right.parts[1].clone()
        },
        PartRef {
            etag: ETag::new("00000000000000000000000000000000"),
            ..right.parts[1].clone()
        },
        PartRef {
            size_bytes: 999,
            ..right.parts[1].clone()
        },
    ];
    for wrong in wrong {
        let number = wrong.number;
        let plan = CompletePlan {
            parts: vec![right.parts[0].clone(), wrong],
            ..right.clone()
        };
        let answer = f.bucket.complete(&key("k"), &id, plan).await;
        assert!(
            matches!(answer, Err(EngineError::InvalidPart { number: n }) if n == number),
            "{answer:?}"
        );
        assert_absent(&f.bucket, "k").await;
    }
    complete(&f.bucket, "k", &id, &parts).await.unwrap();
    assert_completed(&f.bucket, "k", &parts, &bytes.concat()).await;
}

pub(crate) async fn completing_obeys_its_precondition(f: Fixture) {
    let bytes = vec![pattern(1, 1000), pattern(2, 1000)];
    let old = put(&f.bucket, "k", &pattern(9, 10)).await;
    let id = open_upload(&f.bucket, "k").await;
    let parts = put_parts(&f, "k", &id, &bytes).await;
    let with = |precondition| CompletePlan {
        precondition,
        ..completion(&parts)
    };
    let absent = Precondition {
        if_none_match: Some(Condition::Any),
        ..Precondition::default()
    };
    let refused = f
        .bucket
        .complete(&key("k"), &id, with(absent.clone()))
        .await;
    assert!(matches!(refused, Err(EngineError::PreconditionFailed)));
    assert_holds(&f.bucket, "k", &pattern(9, 10)).await;
    let matching = Precondition {
        if_match: Some(Condition::OneOf(vec![old.etag.clone()])),
        ..Precondition::default()
    };
    f.bucket
        .complete(&key("k"), &id, with(matching))
        .await
        .unwrap();
    assert_completed(&f.bucket, "k", &parts, &bytes.concat()).await;
    delete(&f.bucket, "k").await;
    let id = open_upload(&f.bucket, "k").await;
    let parts = put_parts(&f, "k", &id, &bytes).await;
    let plan = CompletePlan {
        precondition: absent,
        ..completion(&parts)
    };
    f.bucket.complete(&key("k"), &id, plan).await.unwrap();
    assert_completed(&f.bucket, "k", &parts, &bytes.concat()).await;
}

pub(crate) async fn a_failed_complete_leaves_the_upload_whole(f: Fixture) {
    put(&f.bucket, "k", &pattern(9, 10)).await;
    let id = open_upload(&f.bucket, "k").await;
    let bytes: Vec<Bytes> = (0..4).map(|seed| pattern(seed, 70_000)).collect();
    let parts = put_parts(&f, "k", &id, &bytes).await;
    // With all parts and with only the first ones: the others must not be cut off.
    for count in [2, 4] {
        let plan = CompletePlan {
            precondition: Precondition {
                if_none_match: Some(Condition::Any),
                ..Precondition::default()
            },
            ..completion(&parts[..count])
        };
        let refused = f.bucket.complete(&key("k"), &id, plan).await;
        assert!(matches!(refused, Err(EngineError::PreconditionFailed)));
    }
    let f = f.reopen().await;
    let page = f.bucket.list_parts(&key("k"), &id, 0, 10).await.unwrap();
    assert_eq!(page.parts, parts);
    complete(&f.bucket, "k", &id, &parts).await.unwrap();
    assert_completed(&f.bucket, "k", &parts, &bytes.concat()).await;
}

pub(crate) async fn completing_again_answers_the_same_entry(f: Fixture) {
    for (name, sizes) in [
        ("k", [70_000, 70_000, 10]),
        ("dir/k", [10, 70_000, 20]),
        ("a//b", [70_000, 70_000, 70_000]),
    ] {
        let id = open_upload(&f.bucket, name).await;
        let bytes = seeded(&sizes);
        let parts = put_parts(&f, name, &id, &bytes).await;
        let first = complete(&f.bucket, name, &id, &parts).await.unwrap();
        let again = complete(&f.bucket, name, &id, &parts).await.unwrap();
        assert_eq!(again, first);
        if let Some(twin) = f.twin() {
            let twin = twin.bucket(&bucket_name("bucket")).await.unwrap();
            let again = complete(&twin, name, &id, &parts).await.unwrap();
            assert_eq!(again, first);
        }
        // A metadata change leaves it the object of that upload.
        let changed = f
            .bucket
            .set_metadata(&key(name), Metadata::default(), &Precondition::default())
            .await
            .unwrap();
        let again = complete(&f.bucket, name, &id, &parts).await.unwrap();
        assert_eq!(again, changed);
        assert_completed(&f.bucket, name, &parts, &bytes.concat()).await;
    }
}

pub(crate) async fn completing_again_after_an_overwrite_finds_no_upload(f: Fixture) {
    for overwrite in [true, false] {
        let (_, parts) = {
            let id = open_upload(&f.bucket, "k").await;
            let parts = put_parts(&f, "k", &id, &seeded(&[1000, 1000])).await;
            complete(&f.bucket, "k", &id, &parts).await.unwrap();
            (id, parts)
        };
        let id = open_upload(&f.bucket, "k").await;
        let newer = put_parts(&f, "k", &id, &seeded(&[500, 500])).await;
        complete(&f.bucket, "k", &id, &newer).await.unwrap();
        if overwrite {
            put(&f.bucket, "k", &pattern(9, 10)).await;
        } else {
            delete(&f.bucket, "k").await;
        }
        let answer = complete(&f.bucket, "k", &id, &newer).await;
        assert!(
            matches!(answer, Err(EngineError::NoSuchUpload)),
            "{answer:?}"
        );
        let answer = complete(&f.bucket, "k", &id, &parts).await;
        assert!(matches!(answer, Err(EngineError::NoSuchUpload)));
        if overwrite {
            assert_holds(&f.bucket, "k", &pattern(9, 10)).await;
        } else {
            assert_absent(&f.bucket, "k").await;
        }
    }
}

pub(crate) async fn a_part_that_was_begun_before_completion_does_not_touch_the_object(f: Fixture) {
    for late_number in [1, 2, 3, 4] {
        let id = open_upload(&f.bucket, "k").await;
        let bytes = seeded(&[70_000, 70_000]);
        let parts = put_parts(&f, "k", &id, &bytes).await;
        let late = begin_part(&f.bucket, "k", &id, late_number, Some(70_000));
        let mut late = late.await.unwrap();
        late.append(pattern(9, 30_000)).await.unwrap();
        complete(&f.bucket, "k", &id, &parts).await.unwrap();
        let reader = f.bucket.open(&key("k")).await.unwrap();
        // The upload is gone: the append may fail already, the commit has to.
        let appended = late.append(pattern(8, 40_000)).await;
        if appended.is_ok() {
            let answer = late.commit_part(etag(b"late"), None).await;
            assert!(
                matches!(answer, Err(EngineError::NoSuchUpload)),
                "{answer:?}"
            );
        }
        let range = whole(reader.entry());
        let got = collect(reader.read(range)).await.unwrap();
        assert!(got == bytes.concat(), "late part {late_number}");
        assert_completed(&f.bucket, "k", &parts, &bytes.concat()).await;
    }
}

pub(crate) async fn many_parts_become_one_object(f: Fixture) {
    let id = open_upload(&f.bucket, "k").await;
    let mut parts = Vec::new();
    let mut bytes = Vec::new();
    for number in 1..=1100 {
        let piece = pattern(number.into(), 1024);
        bytes.extend_from_slice(&piece);
        let begun = begin_part(&f.bucket, "k", &id, number, Some(1024));
        let mut writer = begun.await.unwrap();
        writer.append(piece.clone()).await.unwrap();
        let part = writer
            .commit_part(etag(&piece), Some(crc32(number)))
            .await
            .unwrap();
        parts.push(part);
    }
    complete(&f.bucket, "k", &id, &parts).await.unwrap();
    assert_completed(&f.bucket, "k", &parts, &bytes).await;
    let f = f.reopen().await;
    assert_completed(&f.bucket, "k", &parts, &bytes).await;
    // Its parts outlive a change of metadata.
    f.bucket
        .set_metadata(&key("k"), marked("x"), &Precondition::default())
        .await
        .unwrap();
    assert_completed(&f.bucket, "k", &parts, &bytes).await;
}

pub(crate) async fn a_complete_replaces_the_old_object_whole(f: Fixture) {
    let old = pattern(9, 500_000);
    put(&f.bucket, "k", &old).await;
    let reader = f.bucket.open(&key("k")).await.unwrap();
    let (bytes, parts) = completed(&f, "k", &[70_000, 70_000, 10]).await;
    assert_completed(&f.bucket, "k", &parts, &bytes).await;
    let range = whole(reader.entry());
    assert!(collect(reader.read(range)).await.unwrap() == old);
    let reader = f.bucket.open(&key("k")).await.unwrap();
    let (newer, parts) = completed(&f, "k", &[80_000, 80_000]).await;
    assert_completed(&f.bucket, "k", &parts, &newer).await;
    let range = whole(reader.entry());
    assert!(collect(reader.read(range)).await.unwrap() == bytes);
    assert_eq!(keys(&f.bucket).await, ["k"]);
}

pub(crate) async fn of_racing_completes_one_makes_the_object(f: Fixture) {
    for round in 0..8 {
        let id = open_upload(&f.bucket, "dir/k").await;
        let sizes: &[usize] = [&[7_000, 7_000, 10][..], &[10, 7_000]][round % 2];
        let bytes = seeded(sizes);
        let parts = put_parts(&f, "dir/k", &id, &bytes).await;
        let mut buckets = vec![f.bucket.clone()];
        if let Some(twin) = f.twin() {
            buckets.push(twin.bucket(&bucket_name("bucket")).await.unwrap());
        }
        let entries = race(6, |racer| {
            let bucket = buckets[racer % buckets.len()].clone();
            let (id, parts) = (id.clone(), parts.clone());
            async move { complete(&bucket, "dir/k", &id, &parts).await.unwrap() }
        })
        .await;
        // All of them are told of the same object: it was made once.
        assert!(entries.iter().all(|entry| *entry == entries[0]));
        assert_completed(&f.bucket, "dir/k", &parts, &bytes.concat()).await;
    }
}

async fn put_parts(
    f: &Fixture,
    name: &str,
    id: &lobos::engine::UploadId,
    bytes: &[Bytes],
) -> Vec<Part> {
    let mut parts = Vec::new();
    for (number, bytes) in (1..).zip(bytes) {
        let part = put_part(&f.bucket, name, id, number, bytes).await;
        parts.push(part.unwrap());
    }
    parts
}

/// Uploads and completes parts of these sizes; gives all bytes and the parts.
async fn completed(f: &Fixture, name: &str, sizes: &[usize]) -> (Vec<u8>, Vec<Part>) {
    let id = open_upload(&f.bucket, name).await;
    let bytes = seeded(sizes);
    let parts = put_parts(f, name, &id, &bytes).await;
    complete(&f.bucket, name, &id, &parts).await.unwrap();
    (bytes.concat(), parts)
}

fn seeded(sizes: &[usize]) -> Vec<Bytes> {
    (1..)
        .zip(sizes)
        .map(|(seed, size)| pattern(seed, *size))
        .collect()
}

fn crc32(seed: u32) -> Checksum {
    Checksum {
        algorithm: ChecksumAlgorithm::Crc32,
        kind: ChecksumKind::FullObject,
        digest: seed.to_be_bytes().into(),
    }
}

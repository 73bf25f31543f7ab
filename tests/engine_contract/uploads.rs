//! Open uploads: what they are, how long they live, how they are listed.

use std::collections::BTreeSet;

use lobos::engine::{
    ChecksumAlgorithm, ChecksumKind, EngineError, UploadId, UploadPlan, UploadsPlan,
};

use crate::fixture::*;

pub(crate) async fn an_upload_is_described_as_it_was_opened(f: Fixture) {
    let plan = UploadPlan {
        metadata: marked("upload"),
        checksum: Some((ChecksumAlgorithm::Crc64nvme, ChecksumKind::FullObject)),
        initiator: "somebody".into(),
        seal: None,
    };
    let clock = lobos::clock::Clock::system();
    let before = clock.now();
    let id = f
        .bucket
        .create_upload(&key("dir/k"), plan.clone())
        .await
        .unwrap();
    let upload = f.bucket.upload(&key("dir/k"), &id).await.unwrap();
    assert_eq!(upload.id, id);
    assert_eq!(upload.key, key("dir/k"));
    assert_eq!(upload.plan, plan);
    assert!(upload.opened >= before && upload.opened <= clock.now());
    let f = f.reopen().await;
    assert_eq!(f.bucket.upload(&key("dir/k"), &id).await.unwrap(), upload);
}

pub(crate) async fn an_upload_survives_a_restart_with_its_parts(f: Fixture) {
    let id = open_upload(&f.bucket, "dir/k").await;
    let bytes = [pattern(1, 70_000), pattern(2, 70_000), pattern(3, 10)];
    let mut f = f;
    let mut parts = Vec::new();
    for (number, bytes) in (1..).zip(&bytes) {
        let part = put_part(&f.bucket, "dir/k", &id, number, bytes).await;
        parts.push(part.unwrap());
        // An interrupted part does no harm either.
        let begun = begin_part(&f.bucket, "dir/k", &id, number + 1, Some(70_000));
        let mut interrupted = begun.await.unwrap();
        interrupted.append(pattern(9, 50_000)).await.unwrap();
        drop(interrupted);
        f = f.reopen().await;
        let page = f.bucket.list_parts(&key("dir/k"), &id, 0, 100).await;
        assert_eq!(page.unwrap().parts, parts);
    }
    complete(&f.bucket, "dir/k", &id, &parts).await.unwrap();
    let f = f.reopen().await;
    assert_completed(&f.bucket, "dir/k", &parts, &bytes.concat()).await;
    assert_no_upload(&f.bucket, "dir/k", &id).await;
    complete(&f.bucket, "dir/k", &id, &parts).await.unwrap();
}

pub(crate) async fn an_upload_belongs_to_its_key(f: Fixture) {
    let id = open_upload(&f.bucket, "k").await;
    let part = put_part(&f.bucket, "k", &id, 1, &pattern(1, 10)).await;
    let part = part.unwrap();
    let strangers = [
        "",
        "x",
        "..",
        "../..",
        "a/b",
        ".",
        &"f".repeat(48),
        "\0",
        "ü",
    ];
    let mut wrong: Vec<(&str, UploadId)> = vec![("other", id.clone()), ("k/", id.clone())];
    wrong.extend(strangers.map(|stranger| ("k", UploadId::new(stranger))));
    let longer = UploadId::new(format!("{}0", id.as_str()));
    let upper = UploadId::new(id.as_str().to_uppercase());
    wrong.extend([("k", longer)]);
    if upper != id {
        wrong.push(("k", upper));
    }
    for (name, id) in &wrong {
        assert_no_upload(&f.bucket, name, id).await;
        let answers = [
            put_part(&f.bucket, name, id, 1, &pattern(1, 10))
                .await
                .err(),
            complete(&f.bucket, name, id, std::slice::from_ref(&part))
                .await
                .err(),
            f.bucket.abort(&key(name), id).await.err(),
            f.bucket.list_parts(&key(name), id, 0, 10).await.err(),
        ];
        for answer in answers {
            assert!(
                matches!(answer, Some(EngineError::NoSuchUpload)),
                "{name} {id:?}: {answer:?}"
            );
        }
    }
    complete(&f.bucket, "k", &id, &[part]).await.unwrap();
    assert_holds_ten(&f).await;
}

pub(crate) async fn an_aborted_upload_is_gone(f: Fixture) {
    put(&f.bucket, "k", &pattern(1, 10)).await;
    let id = open_upload(&f.bucket, "k").await;
    let other = open_upload(&f.bucket, "k").await;
    let part = put_part(&f.bucket, "k", &id, 1, &pattern(2, 70_000)).await;
    f.bucket.abort(&key("k"), &id).await.unwrap();
    assert_no_upload(&f.bucket, "k", &id).await;
    let again = f.bucket.abort(&key("k"), &id).await;
    assert!(matches!(again, Err(EngineError::NoSuchUpload)), "{again:?}");
    let answer = complete(&f.bucket, "k", &id, &[part.unwrap()]).await;
    assert!(
        matches!(answer, Err(EngineError::NoSuchUpload)),
        "{answer:?}"
    );
    assert_eq!(listed(&f).await, std::slice::from_ref(&other));
    let f = f.reopen().await;
    assert_no_upload(&f.bucket, "k", &id).await;
    assert_eq!(listed(&f).await, [other]);
    assert_holds_ten(&f).await;
}

pub(crate) async fn a_part_begun_before_an_abort_is_refused(f: Fixture) {
    let id = open_upload(&f.bucket, "k").await;
    let begun = begin_part(&f.bucket, "k", &id, 1, Some(10));
    let mut late = begun.await.unwrap();
    late.append(pattern(1, 5)).await.unwrap();
    f.bucket.abort(&key("k"), &id).await.unwrap();
    if late.append(pattern(1, 5)).await.is_ok() {
        let answer = late.commit_part(etag(b"x"), None).await;
        assert!(
            matches!(answer, Err(EngineError::NoSuchUpload)),
            "{answer:?}"
        );
    }
    assert_no_upload(&f.bucket, "k", &id).await;
    assert!(listed(&f).await.is_empty());
}

pub(crate) async fn parts_are_listed_in_pages(f: Fixture) {
    let id = open_upload(&f.bucket, "k").await;
    let list = |after, limit| {
        let (bucket, id) = (f.bucket.clone(), id.clone());
        async move {
            let page = bucket.list_parts(&key("k"), &id, after, limit).await;
            let page = page.unwrap();
            assert_eq!(page.upload.id, id);
            let numbers: Vec<u32> = page.parts.iter().map(|part| part.number).collect();
            (numbers, page.truncated)
        }
    };
    assert_eq!(list(0, 10).await, (vec![], false));
    for number in [7, 1, 10_000, 3, 7] {
        put_part(&f.bucket, "k", &id, number, &pattern(number.into(), 10))
            .await
            .unwrap();
    }
    assert_eq!(list(0, 10).await, (vec![1, 3, 7, 10_000], false));
    assert_eq!(list(0, 4).await, (vec![1, 3, 7, 10_000], false));
    assert_eq!(list(0, 3).await, (vec![1, 3, 7], true));
    assert_eq!(list(3, 1).await, (vec![7], true));
    assert_eq!(list(2, 10).await, (vec![3, 7, 10_000], false));
    assert_eq!(list(7, 1).await, (vec![10_000], false));
    assert_eq!(list(10_000, 10).await, (vec![], false));
    assert_eq!(list(0, 0).await, (vec![], false));
}

pub(crate) async fn uploads_are_listed_by_key_and_time(f: Fixture) {
    assert!(listed(&f).await.is_empty());
    let mut want = Vec::new();
    for name in ["b", "a/x", "b", "..", "b", "a"] {
        want.push((name, open_upload(&f.bucket, name).await));
    }
    // Stable: uploads of one key stay in the order they were opened in.
    want.sort_by_key(|(name, _)| *name);
    let want: Vec<UploadId> = want.into_iter().map(|(_, id)| id).collect();
    assert_eq!(listed(&f).await, want);
    let f = f.reopen().await;
    assert_eq!(listed(&f).await, want);
}

pub(crate) async fn uploads_are_listed_in_pages(f: Fixture) {
    let mut want = Vec::new();
    for name in ["a", "b", "b", "b", "c/d"] {
        want.push(open_upload(&f.bucket, name).await);
    }
    for limit in 1..=6 {
        let mut got: Vec<UploadId> = Vec::new();
        let mut plan = UploadsPlan {
            limit,
            ..UploadsPlan::default()
        };
        loop {
            let page = f.bucket.list_uploads(&plan).await.unwrap();
            assert!(page.uploads.len() <= limit);
            got.extend(page.uploads.iter().map(|upload| upload.id.clone()));
            let Some(last) = page.uploads.last() else {
                break;
            };
            plan.after_key = last.key.as_str().into();
            plan.after_id = Some(last.id.clone());
            assert_eq!(page.truncated, got.len() < want.len());
            if !page.truncated {
                break;
            }
        }
        assert_eq!(got, want, "by {limit}");
    }
    // Without an id the key's own uploads are passed over; an id that is gone keeps its place.
    let after = |name: &str, id: Option<&UploadId>| UploadsPlan {
        after_key: name.into(),
        after_id: id.cloned(),
        limit: 10,
        ..UploadsPlan::default()
    };
    let page = f.bucket.list_uploads(&after("b", None)).await.unwrap();
    assert_eq!(page.uploads.len(), 1);
    f.bucket.abort(&key("b"), &want[2]).await.unwrap();
    let plan = after("b", Some(&want[2]));
    let page = f.bucket.list_uploads(&plan).await.unwrap();
    let ids: Vec<_> = page.uploads.iter().map(|upload| &upload.id).collect();
    assert_eq!(ids, [&want[3], &want[4]]);
    let plan = UploadsPlan::default();
    let page = f.bucket.list_uploads(&plan).await.unwrap();
    assert!(page.uploads.is_empty() && !page.truncated);
}

pub(crate) async fn uploads_are_rolled_up_at_the_delimiter(f: Fixture) {
    for name in ["a/1", "a/2", "a0", "b/c/d", "b/e", "z"] {
        open_upload(&f.bucket, name).await;
    }
    let list = |prefix: &str, after: &str, limit| {
        let (bucket, prefix, after_key) = (f.bucket.clone(), prefix.into(), after.into());
        async move {
            let plan = UploadsPlan {
                prefix,
                delimiter: Some("/".into()),
                after_key,
                after_id: None,
                limit,
            };
            let page = bucket.list_uploads(&plan).await.unwrap();
            let mut names: BTreeSet<String> = page
                .common_prefixes
                .iter()
                .map(|prefix| prefix.to_string())
                .collect();
            names.extend(page.uploads.iter().map(|upload| upload.key.to_string()));
            let names: Vec<String> = names.into_iter().collect();
            (names.join(" "), page.truncated)
        }
    };
    assert_eq!(list("", "", 10).await, ("a/ a0 b/ z".into(), false));
    assert_eq!(list("", "", 1).await, ("a/".into(), true));
    // A page that ended with a common prefix is followed by what comes after all of it.
    assert_eq!(list("", "a/", 2).await, ("a0 b/".into(), true));
    assert_eq!(list("", "b/", 2).await, ("z".into(), false));
    assert_eq!(list("b/", "", 10).await, ("b/c/ b/e".into(), false));
    assert_eq!(list("b/c", "", 10).await, ("b/c/".into(), false));
    assert_eq!(list("nothing", "", 10).await, (String::new(), false));
}

pub(crate) async fn uploads_of_odd_keys_work(f: Fixture) {
    let long = "n".repeat(1024);
    for name in [
        "..",
        "a//b",
        ".lobos/uploads",
        &long,
        "new\nline",
        "a/",
        "ü",
    ] {
        let id = open_upload(&f.bucket, name).await;
        assert_eq!(listed(&f).await, std::slice::from_ref(&id));
        let bytes = pattern(1, 10);
        let part = put_part(&f.bucket, name, &id, 1, &bytes).await.unwrap();
        complete(&f.bucket, name, &id, std::slice::from_ref(&part))
            .await
            .unwrap();
        assert_completed(&f.bucket, name, &[part], &bytes).await;
        assert_eq!(keys(&f.bucket).await, [name]);
        delete(&f.bucket, name).await;
        assert!(listed(&f).await.is_empty());
    }
}

pub(crate) async fn an_upload_shows_no_object_before_it_is_complete(f: Fixture) {
    let id = open_upload(&f.bucket, "deep/er/k").await;
    put_part(&f.bucket, "deep/er/k", &id, 1, &pattern(1, 70_000))
        .await
        .unwrap();
    assert_absent(&f.bucket, "deep/er/k").await;
    assert!(keys(&f.bucket).await.is_empty());
    assert!(scan_all(&f.bucket, "", Some("/"), 10).await.is_empty());
    f.bucket.abort(&key("deep/er/k"), &id).await.unwrap();
    assert!(scan_all(&f.bucket, "", Some("/"), 10).await.is_empty());
    let name = bucket_name("bucket");
    f.engine.delete_bucket(&name).await.unwrap();
}

pub(crate) async fn a_twin_engine_continues_an_upload(f: Fixture) {
    let Some(twin) = f.twin() else { return };
    let twin = twin.bucket(&bucket_name("bucket")).await.unwrap();
    let id = open_upload(&f.bucket, "k").await;
    let bytes: Vec<_> = (0..6).map(|seed| pattern(seed, 70_000)).collect();
    let mut parts = Vec::new();
    for (number, piece) in (1..).zip(&bytes) {
        let [writes, reads] = if number % 2 == 0 {
            [&f.bucket, &twin]
        } else {
            [&twin, &f.bucket]
        };
        // Both write part by part, and both replace what the other wrote.
        put_part(reads, "k", &id, number, &pattern(99, 70_000))
            .await
            .unwrap();
        parts.push(put_part(writes, "k", &id, number, piece).await.unwrap());
        let page = reads.list_parts(&key("k"), &id, 0, 100).await.unwrap();
        assert_eq!(page.parts, parts);
    }
    complete(&twin, "k", &id, &parts).await.unwrap();
    assert_completed(&f.bucket, "k", &parts, &bytes.concat()).await;
    assert_no_upload(&f.bucket, "k", &id).await;
    let late = put_part(&f.bucket, "k", &id, 1, &bytes[0]).await;
    assert!(matches!(late, Err(EngineError::NoSuchUpload)), "{late:?}");
}

async fn assert_holds_ten(f: &Fixture) {
    let (_, bytes) = get(&f.bucket, "k").await.unwrap();
    assert!(bytes == pattern(1, 10));
}

async fn listed(f: &Fixture) -> Vec<UploadId> {
    let plan = UploadsPlan {
        limit: 100,
        ..UploadsPlan::default()
    };
    let page = f.bucket.list_uploads(&plan).await.unwrap();
    assert!(!page.truncated);
    page.uploads
        .iter()
        .map(|upload| upload.id.clone())
        .collect()
}

//! Listing: order, prefixes, delimiters, resume points, pages.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lobos::engine::{Resume, ScanItem, ScanPlan};

use crate::fixture::*;

pub(crate) async fn keys_come_in_the_order_of_their_bytes(f: Fixture) {
    // Directory order, locale order and UTF-16 order all differ from this one.
    let names = [
        "A",
        "B/x",
        "a",
        "a b",
        "a!",
        "a-b",
        "a.txt",
        "a/b",
        "a/b.txt",
        "a/b/c",
        "a/b0",
        "a0",
        "aa",
        "b",
        "z",
        "ä",
        "\u{d7ff}",
        "\u{ffff}",
        "\u{10000}",
    ];
    for name in names.iter().rev() {
        put(&f.bucket, name, &pattern(1, 1)).await;
    }
    assert_eq!(keys(&f.bucket).await, names);
}

pub(crate) async fn a_listed_entry_is_the_one_that_head_gives(f: Fixture) {
    for (seed, name) in ["a", "a/b", "a//b", "c/d/e", "c/d/f"].iter().enumerate() {
        let bytes = pattern(seed as u64, seed * 100);
        let commit = lobos::engine::Commit {
            metadata: marked(name),
            ..plain(&bytes)
        };
        put_with(&f.bucket, name, &bytes, commit).await.unwrap();
    }
    // Twice: the second page may come out of a cache.
    for _ in 0..2 {
        let page = f.bucket.scan(&all(100)).await.unwrap();
        assert_eq!(page.items.len(), 5);
        assert!(!page.truncated);
        for item in page.items {
            let ScanItem::Object { key, entry } = item else {
                panic!("a common prefix without a delimiter")
            };
            assert_eq!(entry, head(&f.bucket, key.as_str()).await.unwrap());
        }
    }
}

pub(crate) async fn every_prefix_delimiter_and_resume_point_agrees_with_a_sorted_list(f: Fixture) {
    let names: BTreeSet<&str> = NAMES.into_iter().collect();
    for name in &names {
        put(&f.bucket, name, &pattern(1, 1)).await;
    }
    let prefixes = [
        "", "a", "a/", "a/b", "a/b/", "a//", "a/b/c/d", "b", "photos/2", "nothing", "/", "//",
        "x-", "ü", "zz/",
    ];
    let delimiters = [
        None,
        Some("/"),
        Some("-"),
        Some("//"),
        Some("/b"),
        Some("b/"),
        Some("ü"),
        Some("photos/"),
        Some("0"),
    ];
    let mut resumes = vec![None];
    for point in
        names
            .iter()
            .copied()
            .chain(["0", "a/b/", "a/c", "a//", "photos", "photos/2022", "~"])
    {
        resumes.push(Some(Resume::Key(point.into())));
        resumes.push(Some(Resume::Prefix(point.into())));
    }
    for prefix in prefixes {
        for delimiter in delimiters {
            for after in &resumes {
                let plan = ScanPlan {
                    prefix: prefix.into(),
                    delimiter: delimiter.map(Into::into),
                    after: after.clone(),
                    limit: 7,
                };
                let page = f.bucket.scan(&plan).await.unwrap();
                let got: Vec<_> = page.items.iter().map(item_name).collect();
                let mut want = expected(&names, &plan);
                assert_eq!(page.truncated, want.len() > 7, "{plan:?}");
                want.truncate(7);
                assert_eq!(got, want, "{plan:?}");
            }
        }
    }
}

pub(crate) async fn pages_of_any_size_join_to_the_whole(f: Fixture) {
    let names: BTreeSet<&str> = NAMES.into_iter().collect();
    for name in &names {
        put(&f.bucket, name, &pattern(1, 1)).await;
    }
    for delimiter in [None, Some("/"), Some("-"), Some("b/")] {
        for prefix in ["", "a/", "photos/20"] {
            let plan = ScanPlan {
                prefix: prefix.into(),
                delimiter: delimiter.map(Into::into),
                after: None,
                limit: 1000,
            };
            let want: Vec<_> = expected(&names, &plan)
                .into_iter()
                .map(|(_, name)| name)
                .collect();
            for limit in [1, 2, 3, 5, 1000] {
                let got = scan_all(&f.bucket, prefix, delimiter, limit).await;
                assert_eq!(got, want, "{prefix:?} {delimiter:?} by {limit}");
            }
        }
    }
}

pub(crate) async fn an_empty_limit_gives_an_empty_page(f: Fixture) {
    put(&f.bucket, "k", &pattern(1, 1)).await;
    let page = f.bucket.scan(&all(0)).await.unwrap();
    assert!(page.items.is_empty());
    assert!(!page.truncated);
}

pub(crate) async fn a_page_that_ends_with_the_last_item_is_not_truncated(f: Fixture) {
    for name in ["a/1", "a/2", "b"] {
        put(&f.bucket, name, &pattern(1, 1)).await;
    }
    for (limit, truncated) in [(2, true), (3, false), (4, false)] {
        let page = f.bucket.scan(&all(limit)).await.unwrap();
        assert_eq!(page.truncated, truncated, "{limit}");
    }
    let plan = ScanPlan {
        delimiter: Some("/".into()),
        ..all(2)
    };
    let page = f.bucket.scan(&plan).await.unwrap();
    assert_eq!(page.items.len(), 2);
    assert!(!page.truncated);
    // What lies behind the last item, but not under the prefix, does not count.
    let plan = ScanPlan {
        prefix: "a/".into(),
        ..all(2)
    };
    assert!(!f.bucket.scan(&plan).await.unwrap().truncated);
}

pub(crate) async fn a_common_prefix_is_resumed_after_all_its_keys(f: Fixture) {
    for name in ["a/1", "a/2", "a0", "b/1/2"] {
        put(&f.bucket, name, &pattern(1, 1)).await;
    }
    let names = |after: Resume| {
        let plan = ScanPlan {
            delimiter: Some("/".into()),
            after: Some(after),
            ..all(10)
        };
        let bucket = f.bucket.clone();
        async move {
            let page = bucket.scan(&plan).await.unwrap();
            page.items
                .iter()
                .map(|item| item.name().to_owned())
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(names(Resume::Prefix("a/".into())).await, ["a0", "b/"]);
    // A key inside of a common prefix leaves the rest of that prefix to be seen.
    assert_eq!(names(Resume::Key("a/1".into())).await, ["a/", "a0", "b/"]);
    assert_eq!(names(Resume::Key("a/2".into())).await, ["a0", "b/"]);
    assert_eq!(names(Resume::Key("a/".into())).await, ["a/", "a0", "b/"]);
    assert_eq!(names(Resume::Key("b/1/1".into())).await, ["b/"]);
    assert!(names(Resume::Key("b/1/2".into())).await.is_empty());
    assert!(names(Resume::Prefix("b/".into())).await.is_empty());
}

pub(crate) async fn a_scan_sees_what_was_written_before_it_started(f: Fixture) {
    let mut names = BTreeSet::new();
    for round in 0..300 {
        // Names of one directory and of new ones, written and removed in quick succession.
        let name = format!("d{}/k{}", round % 5, (round * 7) % 13);
        if names.remove(&name) {
            delete(&f.bucket, &name).await;
        } else {
            put(&f.bucket, &name, &pattern(round, 10)).await;
            names.insert(name);
        }
        let want: Vec<_> = names.iter().cloned().collect();
        assert_eq!(keys(&f.bucket).await, want);
    }
}

pub(crate) async fn stable_keys_are_listed_once_while_others_come_and_go(f: Fixture) {
    let stable: Vec<String> = (0..120)
        .map(|i| format!("{}/s{:03}", ["a", "b/c", "d//e"][i % 3], i))
        .collect();
    for name in &stable {
        put(&f.bucket, name, &pattern(1, 1)).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let (bucket, stable) = (f.bucket.clone(), Arc::new(stable));
    let scans = race(3, |racer| {
        let (bucket, stable, done) = (bucket.clone(), stable.clone(), done.clone());
        async move {
            if racer == 0 {
                for round in 0..15 {
                    for name in ["a/s0", "a/x/y", "b/c/t", "d//e/z", "d", "b/0", "n/n/n"] {
                        put(&bucket, name, &pattern(round, 1)).await;
                    }
                    for name in ["a/x/y", "d", "d//e/z", "n/n/n", "a/s0", "b/c/t", "b/0"] {
                        delete(&bucket, name).await;
                    }
                }
                done.store(true, Ordering::Release);
                return usize::MAX;
            }
            let mut scans = 0;
            while !done.load(Ordering::Acquire) {
                let names = scan_all(&bucket, "", None, 7).await;
                assert!(names.is_sorted_by(|a, b| a < b), "out of order or twice");
                let seen = names.iter().filter(|name| stable.contains(name)).count();
                assert_eq!(seen, stable.len(), "a stable key was left out");
                scans += 1;
            }
            scans
        }
    })
    .await;
    assert!(scans.iter().all(|scans| *scans > 0));
}

pub(crate) async fn many_keys_in_one_directory_are_listed(f: Fixture) {
    let mut want = Vec::new();
    for i in 0..2500 {
        let name = format!("dir/{:05}", (i * 7919) % 100_000);
        put(&f.bucket, &name, &pattern(1, 0)).await;
        want.push(name);
    }
    want.sort();
    for limit in [999, 1000, 1001, 3000] {
        let got = scan_all(&f.bucket, "", None, limit).await;
        assert!(got == want, "by {limit}");
    }
    assert_eq!(scan_all(&f.bucket, "", Some("/"), 10).await, ["dir/"]);
    delete(&f.bucket, &want.remove(1234)).await;
    assert!(keys(&f.bucket).await == want);
}

const NAMES: [&str; 32] = [
    "a",
    "a/",
    "a//b",
    "a/b",
    "a/b-c",
    "a/b.txt",
    "a/b/c",
    "a/b/c/d",
    "a/b/d",
    "a/b0",
    "a0",
    "b",
    "b-/1",
    "b/b/b/b",
    "b//",
    "//x",
    "/y",
    ".",
    "../z",
    "photos/2022/01.jpg",
    "photos/2022/02.jpg",
    "photos/2023/01.jpg",
    "photos/2023/raw/01.nef",
    "photos/cover.jpg",
    "photos-old/1.jpg",
    "x-1",
    "x-2-3",
    "x-2-4",
    "x/ü/y",
    "xüy",
    "ü/ü",
    "zz/.lobos/k",
];

/// Every item that a listing with this plan holds, without regard to its limit.
fn expected(names: &BTreeSet<&str>, plan: &ScanPlan) -> Vec<(char, String)> {
    let mut items: Vec<(char, String)> = Vec::new();
    for name in names {
        let Some(rest) = name.strip_prefix(&*plan.prefix) else {
            continue;
        };
        let resumed = match &plan.after {
            None => true,
            Some(Resume::Key(key)) => *name > &**key,
            Some(Resume::Prefix(prefix)) => *name > &**prefix && !name.starts_with(&**prefix),
        };
        if !resumed {
            continue;
        }
        let rolled = plan.delimiter.as_deref().and_then(|delimiter| {
            let end = plan.prefix.len() + rest.find(delimiter)? + delimiter.len();
            name.get(..end)
        });
        let item = match rolled {
            Some(prefix) => ('P', prefix.to_owned()),
            None => ('K', (*name).to_owned()),
        };
        if items.last() != Some(&item) {
            items.push(item);
        }
    }
    items
}

fn item_name(item: &ScanItem) -> (char, String) {
    let kind = match item {
        ScanItem::Object { .. } => 'K',
        ScanItem::CommonPrefix(_) => 'P',
    };
    (kind, item.name().to_owned())
}

fn all(limit: usize) -> ScanPlan {
    ScanPlan {
        limit,
        ..ScanPlan::default()
    }
}

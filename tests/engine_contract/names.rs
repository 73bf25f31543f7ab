//! Keys that no file system likes.

use bytes::Bytes;
use lobos::engine::Deleted;

use crate::fixture::*;

pub(crate) async fn every_odd_key_lives_alone(f: Fixture) {
    for (seed, name) in odd_keys().iter().enumerate() {
        let (first, second) = (content(seed), content(seed + 1000));
        assert_absent(&f.bucket, name).await;
        put(&f.bucket, name, &first).await;
        assert_holds(&f.bucket, name, &first).await;
        assert_eq!(keys(&f.bucket).await, [name.as_str()]);
        put(&f.bucket, name, &second).await;
        assert_holds(&f.bucket, name, &second).await;
        assert_eq!(delete(&f.bucket, name).await, Deleted::Removed, "{name:?}");
        assert_absent(&f.bucket, name).await;
        assert!(keys(&f.bucket).await.is_empty(), "after {name:?}");
        assert!(scan_all(&f.bucket, "", Some("/"), 10).await.is_empty());
    }
}

pub(crate) async fn odd_keys_live_beside_each_other(f: Fixture) {
    // Forwards and backwards: `a` before `a/b` takes another way than after it.
    let mut names = odd_keys();
    for _ in 0..2 {
        for (seed, name) in names.iter().enumerate() {
            put(&f.bucket, name, &content(seed)).await;
        }
        for (seed, name) in names.iter().enumerate() {
            assert_holds(&f.bucket, name, &content(seed)).await;
        }
        assert_eq!(keys(&f.bucket).await, sorted(&names));
        for name in &names {
            assert_eq!(delete(&f.bucket, name).await, Deleted::Removed, "{name:?}");
        }
        assert!(keys(&f.bucket).await.is_empty());
        names.reverse();
    }
}

pub(crate) async fn odd_keys_are_deleted_one_by_one(f: Fixture) {
    let mut names = odd_keys();
    for (seed, name) in names.iter().enumerate() {
        put(&f.bucket, name, &content(seed)).await;
    }
    // Every seventh, so that neighbours go at different times.
    let mut at = 0;
    while !names.is_empty() {
        at = (at + 7) % names.len();
        let name = names.remove(at);
        assert_eq!(delete(&f.bucket, &name).await, Deleted::Removed, "{name:?}");
        assert_absent(&f.bucket, &name).await;
        assert_eq!(keys(&f.bucket).await, sorted(&names), "after {name:?}");
    }
}

pub(crate) async fn odd_keys_survive_overwrites_and_a_restart(f: Fixture) {
    let names = odd_keys();
    for round in 0..2 {
        for (seed, name) in names.iter().enumerate() {
            put(&f.bucket, name, &content(seed + round)).await;
        }
    }
    let f = f.reopen().await;
    for (seed, name) in names.iter().enumerate() {
        assert_holds(&f.bucket, name, &content(seed + 1)).await;
    }
    assert_eq!(keys(&f.bucket).await, sorted(&names));
}

pub(crate) async fn a_key_and_keys_below_it_come_and_go_in_any_order(f: Fixture) {
    let names = ["a", "a/", "a/b", "a/b/c"];
    // All 24 orders of putting, each with an order of deleting.
    for order in 0..24 {
        for (seed, name) in permuted(&names, order).into_iter().enumerate() {
            put(&f.bucket, name, &content(seed)).await;
            assert_holds(&f.bucket, name, &content(seed)).await;
        }
        assert_eq!(keys(&f.bucket).await, names);
        for (seed, name) in permuted(&names, order).into_iter().enumerate() {
            assert_holds(&f.bucket, name, &content(seed)).await;
        }
        let mut left: Vec<&str> = names.to_vec();
        for name in permuted(&names, 23 - order) {
            assert_eq!(delete(&f.bucket, name).await, Deleted::Removed);
            left.retain(|other| *other != name);
            assert_eq!(keys(&f.bucket).await, left);
            for name in &left {
                head(&f.bucket, name).await.unwrap();
            }
        }
    }
}

pub(crate) async fn a_reserved_name_is_a_key_like_any_other(f: Fixture) {
    let names = [
        ".lobos",
        ".lobos/",
        ".lobos/tmp/x",
        ".lobos/uploads/1/upload",
        "x/.lobos",
        "x/.lobos/y",
    ];
    put(&f.bucket, "a//overlay", &content(99)).await;
    for (seed, name) in names.into_iter().enumerate() {
        assert_absent(&f.bucket, name).await;
        put(&f.bucket, name, &content(seed)).await;
    }
    let f = f.reopen().await;
    for (seed, name) in names.into_iter().enumerate() {
        assert_holds(&f.bucket, name, &content(seed)).await;
        delete(&f.bucket, name).await;
    }
    // What the engine keeps for itself has no key.
    assert_eq!(keys(&f.bucket).await, ["a//overlay"]);
    assert_eq!(scan_all(&f.bucket, "", Some("/"), 9).await, ["a/"]);
    assert_holds(&f.bucket, "a//overlay", &content(99)).await;
}

pub(crate) async fn a_prefix_is_a_string_not_a_path(f: Fixture) {
    let names = sorted(&odd_keys());
    for name in &names {
        put(&f.bucket, name, &content(1)).await;
    }
    let prefixes = [
        "a",
        "a/",
        "a//",
        "a/.",
        "a/..",
        "..",
        "../",
        ".",
        "./",
        "/",
        "//",
        ".lobos",
        ".lobos/",
        "x/.lobos/",
        "A",
        "ü",
        "z",
        "a/b",
        "é",
        "\u{1}",
        " ",
    ];
    for prefix in prefixes {
        let want: Vec<_> = names
            .iter()
            .filter(|name| name.starts_with(prefix))
            .cloned()
            .collect();
        assert_eq!(
            scan_all(&f.bucket, prefix, None, 3).await,
            want,
            "{prefix:?}"
        );
    }
}

/// Keys that a directory tree stores badly or not at all, each a legal S3 key.
fn odd_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a",
        "a/b",
        "a/b/c",
        "a.txt",
        "a0",
        "A",
        "A/b",
        "a//b",
        "a//",
        "a/",
        "//",
        "/",
        "/a",
        "/a/",
        ".",
        "..",
        "./a",
        "../a",
        "a/.",
        "a/..",
        "a/./b",
        "a/../b",
        "a/b/..",
        "...",
        ".hidden",
        ".lobos",
        ".lobos/x",
        "x/.lobos",
        "x/.lobos/y",
        ".LOBOS",
        ".lobosx",
        "with space",
        " ",
        " /",
        "trailing /x ",
        "new\nline",
        "tab\tcr\r",
        "\u{1}\u{1f}\u{7f}",
        "back\\slash",
        "con",
        "a:b*c?d\"e<f>g|h",
        "%2e%2e/%2F",
        "é",
        "e\u{301}",
        "ﬀ",
        "ẞ",
        "ß",
        "\u{ffff}",
        "\u{10000}",
        "\u{feff}bom",
        "-",
        "~",
        "user.lobos",
    ]
    .map(String::from)
    .to_vec();
    let long = |count: usize| "n".repeat(count);
    keys.extend([long(255), long(256), long(300), long(1024)]);
    keys.push(format!("{}/x", long(255)));
    keys.push(format!("{}/x", long(256)));
    // 255 bytes in characters of three bytes, and one more character.
    keys.extend(["☃".repeat(85), "☃".repeat(86)]);
    keys.extend(["d/".repeat(512), format!("{}x", "e/".repeat(511))]);
    keys
}

fn content(seed: usize) -> Bytes {
    pattern(seed as u64, seed % 50)
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut sorted = names.to_vec();
    sorted.sort();
    sorted
}

/// The `index`th order of four names.
fn permuted<'a>(names: &[&'a str; 4], mut index: usize) -> Vec<&'a str> {
    let mut left = names.to_vec();
    let mut order = Vec::new();
    for radix in [6, 2, 1, 1] {
        order.push(left.remove(index / radix));
        index %= radix;
    }
    order
}

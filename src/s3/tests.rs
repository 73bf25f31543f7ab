//! The whole layer against input made to break it: a panic, and random heads, ranges and bodies.

use std::convert::Infallible;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::auth::{Gate, GateSettings, Secret, User, Users};
use super::request::{self, Local, ObjectRef, Query, Target, copy_source};
use super::xml::Element;
use super::{ReplyBody, S3, S3Settings, handle, range, virtual_bucket};
use crate::budget::Budget;
use crate::clock::{Clock, Entropy};
use crate::engine::fs::{FsEngine, FsSettings, Symlinks};
use crate::engine::{
    BucketConfig, BucketName, Checksum, ChecksumAlgorithm, ChecksumKind, Durability, Engine,
    Engines, ObjectKey,
};

/// A body whose first read panics, as a bug in a verb would.
struct Panics;

impl Body for Panics {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        panic!("injected by a test");
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(3)
    }
}

#[tokio::test]
async fn p15_a_panic_in_a_request_is_a_500_and_the_service_goes_on() {
    let place = tempfile::tempdir().unwrap();
    let s3 = open_service(place.path()).await;
    let put = |body| {
        Request::put("/bucket/key")
            .header("host", "localhost")
            .header("content-length", "3")
            .body(body)
            .unwrap()
    };
    let reply = handle(&s3, &Local::default(), put(Panics)).await;
    assert_eq!(reply.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(reply.headers()["connection"], "close");
    assert!(reply.headers().contains_key("x-amz-request-id"));
    let get = || {
        let get = Request::get("/bucket/key").header("host", "localhost");
        get.body(http_body_util::Empty::<Bytes>::new()).unwrap()
    };
    let reply = handle(&s3, &Local::default(), get()).await;
    assert_eq!(
        reply.status(),
        StatusCode::NOT_FOUND,
        "nothing is half there"
    );
    // The key's lock, the memory for bodies and the temporary file were given back.
    let whole = Request::put("/bucket/key").header("host", "localhost");
    let whole = whole.header("content-length", "3");
    let body = http_body_util::Full::new(Bytes::from_static(b"abc"));
    let reply = handle(&s3, &Local::default(), whole.body(body).unwrap()).await;
    assert_eq!(reply.status(), StatusCode::OK);
    let reply = handle(&s3, &Local::default(), get()).await;
    assert_eq!(reply.status(), StatusCode::OK);
    assert_eq!(
        s3.budget.free_bytes() / 1024,
        (BUDGET_BYTES - 3) / 1024,
        "one reply is open"
    );
}

#[tokio::test]
async fn p5_a_plain_file_that_rotted_is_not_given_as_the_object() {
    let place = tempfile::tempdir().unwrap();
    let s3 = open_service(place.path()).await;
    let path = place.path().join("bucket/key");
    for size in [5, 3 << 20] {
        let body = Bytes::from(vec![7; size]);
        let mut hasher = super::checksum::Hasher::new(ChecksumAlgorithm::Crc64nvme);
        hasher.update(&body);
        let checksum = super::checksum::format(
            &Checksum {
                algorithm: ChecksumAlgorithm::Crc64nvme,
                kind: ChecksumKind::FullObject,
                digest: hasher.finalize(),
            },
            0,
        );
        let put = Request::put("/bucket/key").header("host", "localhost");
        let put = put.header("content-length", size);
        let put = put.header("x-amz-checksum-crc64nvme", checksum);
        let put = put.body(http_body_util::Full::new(body.clone())).unwrap();
        let reply = handle(&s3, &Local::default(), put).await;
        assert_eq!(reply.status(), StatusCode::OK);
        let get = |range: Option<&str>| {
            let mut get = Request::get("/bucket/key").header("host", "localhost");
            if let Some(range) = range {
                get = get.header("range", range);
            }
            let get = get.body(http_body_util::Empty::<Bytes>::new()).unwrap();
            async {
                let reply = handle(&s3, &Local::default(), get).await;
                reply.into_body().collect().await.map(|got| got.to_bytes())
            }
        };
        assert!(get(None).await.unwrap() == body);
        // As a device does it: neither size nor time changes.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"x", size as u64 / 2).unwrap();
        file.set_modified(time).unwrap();
        let error = get(None).await.unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
        assert!(
            get(Some("bytes=0-1")).await.is_ok(),
            "a part has no checksum"
        );
        // Another program's edit is another object, which has no checksum.
        drop(file);
        std::fs::write(&path, "edited").unwrap();
        assert_eq!(get(None).await.unwrap(), "edited");
    }
}

/// A body that notes, when it is first read, how much memory is reserved.
struct Watched {
    bytes: Option<Bytes>,
    budget: Arc<Budget>,
    reserved: Arc<AtomicUsize>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let reserved = this.budget.total_bytes() - this.budget.free_bytes();
        this.reserved.fetch_max(reserved, Ordering::Relaxed);
        Poll::Ready(this.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, Bytes::len) as u64)
    }
}

#[tokio::test]
async fn p12_a_document_reserves_all_that_it_takes_until_its_answer_is_sent() {
    let place = tempfile::tempdir().unwrap();
    let s3 = open_service(place.path()).await;
    let lines = "<Object><Key>some/key</Key></Object>".repeat(900);
    let body = Bytes::from(format!("<Delete>{lines}</Delete>"));
    let size = body.len();
    let reserved = Arc::new(AtomicUsize::new(0));
    let watched = Watched {
        bytes: Some(body),
        budget: Arc::clone(&s3.budget),
        reserved: Arc::clone(&reserved),
    };
    let post = Request::post("/bucket?delete").header("host", "localhost");
    let post = post.header("content-length", size);
    let reply = handle(&s3, &Local::default(), post.body(watched).unwrap()).await;
    assert_eq!(reply.status(), StatusCode::OK);
    let tree = 1800 * crate::limits::XML_ELEMENT_MEMORY_BYTES;
    let reserved = reserved.load(Ordering::Relaxed);
    assert!(reserved > 8 * size + tree, "{reserved} for {size}");
    assert_holds_itself(&s3, reply);
}

#[tokio::test]
async fn p12_a_listing_holds_memory_until_it_is_sent() {
    let place = tempfile::tempdir().unwrap();
    let s3 = open_service(place.path()).await;
    for number in 0..200 {
        std::fs::write(place.path().join(format!("bucket/{number}")), "x").unwrap();
    }
    for query in ["list-type=2", "", "versions"] {
        let get = Request::get(format!("/bucket?{query}")).header("host", "localhost");
        let get = get.body(http_body_util::Empty::<Bytes>::new()).unwrap();
        let reply = handle(&s3, &Local::default(), get).await;
        assert_eq!(reply.status(), StatusCode::OK, "{query}");
        assert_holds_itself(&s3, reply);
    }
}

/// All that is reserved is what the reply takes, and it is given back with the reply.
fn assert_holds_itself(s3: &S3, reply: http::Response<ReplyBody>) {
    let total = s3.budget.total_bytes();
    let size = reply.body().size_hint().exact().unwrap();
    let held = (total - s3.budget.free_bytes()) as u64;
    assert!(
        size > 20_000 && held >= size && held < 4 * size,
        "{held} for {size}"
    );
    drop(reply);
    assert_eq!(s3.budget.free_bytes(), total);
}

const BUDGET_BYTES: usize = 4 << 20;

/// Without authentication, one empty bucket named `bucket`.
async fn open_service(root: &std::path::Path) -> S3 {
    let clock = Clock::system();
    let settings = FsSettings {
        buckets: Vec::new(),
        root: Some(root.to_owned()),
        durability: Durability::Relaxed,
        symlinks: Symlinks::Inside,
        file_mode: None,
        dir_mode: None,
        installation: [7; 16],
        cache_bytes: 1 << 20,
        upload_expiry: None,
    };
    let engine = Engine::Fs(FsEngine::open(settings, clock.clone(), Entropy::system()).unwrap());
    let config = BucketConfig::new(None, clock.now());
    let name = BucketName::parse("bucket").unwrap();
    engine.create_bucket(&name, config).await.unwrap();
    let root = User {
        name: "root".into(),
        id: "root".into(),
        access_key: "root".into(),
        secret_key: Secret::new("a secret of tests"),
        expires: None,
        root: true,
        policies: Vec::new(),
    };
    let users = Arc::new(ArcSwap::from_pointee(Users::new(vec![root]).unwrap()));
    let gate = GateSettings {
        users: Arc::clone(&users),
        region: "us-east-1".into(),
        sigv2: true,
        required: false,
    };
    S3::new(S3Settings {
        engines: Engines::new(vec![engine]).await.unwrap(),
        gate: Gate::new(gate, clock.clone()),
        users,
        region: "us-east-1".into(),
        domains: Vec::new(),
        ownership: super::Ownership::BucketOwnerEnforced,
        budget: Arc::new(Budget::new(BUDGET_BYTES, std::time::Duration::from_secs(1))),
        clock,
        entropy: Entropy::system(),
        etags: super::ETagModes::default(),
        trace: crate::trace::Trace::new().0,
    })
}

/// The target of a request, found as [`super::answer`] finds it.
fn target_of(host: &str, uri: &str) -> Option<Target> {
    let request = Request::builder()
        .uri(uri)
        .header("host", host)
        .body(())
        .ok()?;
    let (head, ()) = request.into_parts();
    let domains = ["s3.example.org".into()];
    let bucket = virtual_bucket(&head, &domains, &Local::default());
    request::target(&head, bucket).ok()
}

fn object(uri: &str) -> Option<ObjectRef> {
    match target_of("127.0.0.1", uri)? {
        Target::Object(object) => Some(object),
        Target::Service | Target::Bucket(_) => None,
    }
}

/// Every byte escaped, so that there is nothing left to read in two ways.
fn escape(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Pieces of paths that have fooled servers, and any text.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => select(vec![
            "/", "//", "..", ".", "%2e", "%2E%2e", "%2f", "%2F", "%5c", "\\", "%00", "%25", "%252e",
            "%c0%ae", "%ff", "%", "%2", ".lobos", "demo", "bucket", "?", "&", "=", "+", ";", "#", "%3f",
            "%23", "*", "@", ":", "%e2%98%83", "?versionId=null", "?versionId=",
        ])
        .prop_map(String::from),
        1 => "[ -~]{0,4}",
        1 => any::<char>().prop_map(String::from),
    ];
    vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn sec_parse_twice_differ_what_is_authorised_is_what_is_stored(path in hostile()) {
        // Permission is asked for `bucket`, the engine is given `key`: both are in one value, and
        // reading it again from its canonical form gives the same.
        if let Some(found) = object(&format!("/{path}")) {
            let again = format!("/{}/{}", found.bucket, escape(found.key.as_str()));
            prop_assert_eq!(object(&again), Some(found.clone()));
            let source = format!("{}/{}", found.bucket, escape(found.key.as_str()));
            prop_assert_eq!(copy_source(&source).unwrap(), (found.clone(), None));
            let by_host = format!("{}.localhost", found.bucket);
            let by_host = target_of(&by_host, &format!("/{}", escape(found.key.as_str())));
            prop_assert_eq!(by_host, Some(Target::Object(found)));
        }
    }

    #[test]
    fn sec_parse_twice_differ_every_key_has_one_address(key in "\\PC{1,40}|[a./%\\\\]{1,12}") {
        let found = object(&format!("/demo/{}", escape(&key)));
        let key = ObjectKey::parse(&key).unwrap();
        let bucket = BucketName::parse("demo").unwrap();
        prop_assert_eq!(found, Some(ObjectRef { bucket, key }));
    }

    #[test]
    fn sec_panics_no_host_breaks_the_target(host in hostile(), path in hostile()) {
        let _ = target_of(&host, &format!("/{path}"));
        let _ = target_of(&format!("{host}.s3.example.org"), &format!("/{path}"));
        let _ = target_of("localhost", &path);
    }

    #[test]
    fn sec_panics_no_copy_source_breaks_its_reader(source in hostile()) {
        if let Ok((found, _)) = copy_source(&source) {
            prop_assert!(!found.key.as_str().contains('\0'));
            let again = format!("{}/{}", found.bucket, escape(found.key.as_str()));
            prop_assert_eq!(copy_source(&again).unwrap(), (found, None));
        }
    }

    #[test]
    fn sec_panics_no_query_breaks_its_reader(query in hostile()) {
        if let Ok(query) = Query::parse(Some(&query)) {
            let names: Vec<&str> = query.iter().map(|(name, _)| name).collect();
            for name in &names {
                prop_assert_eq!(names.iter().filter(|other| *other == name).count(), 1);
                let _ = query.number(name, 1, 1000).map(|number| assert!(number <= 1000));
            }
        }
    }

    #[test]
    fn sec_panics_no_range_leaves_the_object(
        header in prop_oneof![
            "(bytes=)?[0-9, a-f+-]{0,24}",
            (any::<u64>(), any::<u64>()).prop_map(|(a, b)| format!("bytes={a}-{b}")),
            any::<u64>().prop_map(|n| format!("bytes=-{n}")),
            any::<u64>().prop_map(|n| format!("bytes={n}-")),
            any::<String>(),
        ],
        size in prop_oneof![Just(0_u64), 1..20_u64, any::<u64>()],
    ) {
        if let range::Asked::Part(part) = range::parse(Some(&header), size) {
            let end = part.start_bytes.checked_add(part.size_bytes);
            prop_assert!(part.size_bytes > 0 && end.is_some_and(|end| end <= size));
        }
    }

    #[test]
    fn sec_panics_no_bytes_break_the_xml_reader(
        at in vec((any::<Index>(), any::<u8>()), 0..8),
        cut in any::<Index>(),
        pieces in vec(select(MARKUP.to_vec()), 0..30),
    ) {
        let mut document = COMPLETE.as_bytes().to_vec();
        for (index, byte) in at {
            let index = index.index(document.len());
            document[index] = byte;
        }
        let _ = Element::parse(&document, "CompleteMultipartUpload");
        document.truncate(cut.index(document.len()));
        let _ = Element::parse(&document, "CompleteMultipartUpload");
        let soup = pieces.concat();
        if let Ok(root) = Element::parse(soup.as_bytes(), "a") {
            prop_assert!(depth(&root) <= crate::limits::XML_DEPTH_MAX + 1);
            // Inside a comment it is text.
            prop_assert!(!soup.contains("<!DOCTYPE") || soup.contains("<!--"));
        }
    }
}

fn depth(element: &Element) -> usize {
    1 + element.children.iter().map(depth).max().unwrap_or(0)
}

const COMPLETE: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
    <CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
    <Part><PartNumber>1</PartNumber><ETag>&quot;a&#x41;&quot;</ETag></Part>\
    <!-- c --><Part><PartNumber><![CDATA[2]]></PartNumber><ETag>b</ETag></Part>\
    </CompleteMultipartUpload>";

const MARKUP: &[&str] = &[
    "<a>",
    "</a>",
    "<a/>",
    "<b>",
    "</b>",
    "<a x=\"y\">",
    "text",
    "&lt;",
    "&#65;",
    "&#0;",
    "&#xD800;",
    "&x;",
    "&",
    "<",
    ">",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<!DOCTYPE a>",
    "<?p?>",
    "<?xml?>",
    "\0",
    "\u{feff}",
    "<p:a xmlns:p=\"q\">",
    "</p:a>",
    "é",
    " ",
    "\n",
];

//! The key space against a model: random operations on odd keys, through two engines in turn and,
//! where buckets are directories, with another program at work in the tree.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use lobos::engine::{
    Bucket, Condition, Deleted, EngineError, Metadata, Part, Precondition, Range, Resume, ScanItem,
    ScanPlan, Tags, UploadId, UploadsPlan,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::fixture::*;

/// `LOBOS_FUZZ_OPERATIONS` asks for more of them, for a longer run.
const OPERATIONS: usize = 10_000;
const OPERATIONS_OF_A_CASE: usize = 200;
/// The whole bucket is compared after so many operations.
const CHECK_EVERY: usize = 20;

pub(crate) async fn random_operations_agree_with_a_model(f: Fixture) {
    let asked = std::env::var("LOBOS_FUZZ_OPERATIONS").ok();
    let operations = asked.map_or(OPERATIONS, |count| count.parse().expect("a number"));
    // Proptest calls a plain function, which needs an event loop of its own, hence a thread. The
    // engine moves to that loop: what it does in the background goes on from case to case.
    let search = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let f = runtime.block_on(f.reopen());
        let mut runner = TestRunner::new(Config {
            cases: operations.div_ceil(OPERATIONS_OF_A_CASE) as u32,
            failure_persistence: None,
            max_shrink_time: 20_000,
            max_shrink_iters: 3000,
            ..Config::default()
        });
        let place = RefCell::new((Some(f), 0));
        let outcome = runner.run(&vec(step(), OPERATIONS_OF_A_CASE), |steps| {
            let (f, number) = place.replace((None, 0));
            let f = f.ok_or_else(|| TestCaseError::reject("the engine did not open again"))?;
            let mut case = runtime.block_on(Case::new(f, number));
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                runtime.block_on(case.run(&steps));
            }));
            place.replace((case.fixture, number + 1));
            done.map_err(|why| TestCaseError::fail(panic_text(&why)))
        });
        if let Err(failure) = outcome {
            panic!("{failure}");
        }
    });
    if let Err(why) = search.join() {
        std::panic::resume_unwind(why);
    }
}

fn panic_text(why: &Box<dyn std::any::Any + Send>) -> String {
    let owned = why.downcast_ref::<String>().cloned();
    owned.unwrap_or_else(|| why.downcast_ref::<&str>().unwrap_or(&"a panic").to_string())
}

/// One operation, and whether the second engine does it.
type Step = (Operation, bool);

#[derive(Clone, Debug)]
enum Operation {
    Put {
        key: String,
        body: Body,
        only_if_absent: bool,
    },
    Delete {
        key: String,
    },
    SetMetadata {
        key: String,
    },
    SetTags {
        key: String,
        count: u8,
    },
    Read {
        key: String,
        start: u16,
        size: u16,
    },
    Copy {
        from: String,
        to: String,
    },
    OpenUpload {
        key: String,
        parts: Vec<Body>,
    },
    /// One of the open uploads, if there are any.
    Complete(usize),
    Abort(usize),
    List(Listing),
    Reopen,
    Other(OtherProgram),
}

/// What another program does to the tree; paths are names of ordinary files.
#[derive(Clone, Debug)]
enum OtherProgram {
    Write(String, Body),
    Append(String),
    Rename(String, String),
    Remove(String),
    RemoveTree(String),
    MakeDirectory(String),
}

#[derive(Clone, Debug)]
struct Body {
    seed: u64,
    size: usize,
}

impl Body {
    fn bytes(&self) -> Bytes {
        pattern(self.seed, self.size)
    }
}

#[derive(Clone, Debug)]
struct Listing {
    prefix: String,
    delimiter: Option<&'static str>,
    after: Option<Resume>,
    limit: usize,
}

fn step() -> impl Strategy<Value = Step> {
    let write = (key(), body(), proptest::bool::weighted(0.2));
    let put = write.prop_map(|(key, body, only_if_absent)| Operation::Put {
        key,
        body,
        only_if_absent,
    });
    let read = (key(), any::<u16>(), any::<u16>()).prop_map(|(key, start, size)| Operation::Read {
        key,
        start,
        size,
    });
    let upload = (key(), vec(body(), 1..4));
    let operation = prop_oneof![
        30 => put,
        22 => key().prop_map(|key| Operation::Delete { key }),
        4 => key().prop_map(|key| Operation::SetMetadata { key }),
        4 => (key(), 0_u8..3).prop_map(|(key, count)| Operation::SetTags { key, count }),
        6 => read,
        6 => (key(), key()).prop_map(|(from, to)| Operation::Copy { from, to }),
        5 => upload.prop_map(|(key, parts)| Operation::OpenUpload { key, parts }),
        4 => any::<usize>().prop_map(Operation::Complete),
        2 => any::<usize>().prop_map(Operation::Abort),
        20 => listing().prop_map(Operation::List),
        1 => Just(Operation::Reopen),
        20 => other_program().prop_map(Operation::Other),
    ];
    (operation, any::<bool>())
}

fn other_program() -> impl Strategy<Value = OtherProgram> {
    prop_oneof![
        6 => (path(), body()).prop_map(|(path, body)| OtherProgram::Write(path, body)),
        2 => path().prop_map(OtherProgram::Append),
        2 => (path(), path()).prop_map(|(from, to)| OtherProgram::Rename(from, to)),
        4 => path().prop_map(OtherProgram::Remove),
        2 => path().prop_map(OtherProgram::RemoveTree),
        3 => path().prop_map(OtherProgram::MakeDirectory),
    ]
}

fn body() -> impl Strategy<Value = Body> {
    let size = prop_oneof![2 => Just(0_usize), 12 => 1..3000_usize, 1 => 60_000..80_000_usize];
    (any::<u64>(), size).prop_map(|(seed, size)| Body { seed, size })
}

/// Few segments, so that keys meet; the odd ones are rarer.
fn key() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        24 => select(vec!["a", "b"]).prop_map(String::from),
        4 => select(vec!["A", "a.txt", "a-", "a0", "é", "e\u{301}", "ﬀ☃", "x y", "\u{10000}"])
            .prop_map(String::from),
        3 => select(vec!["", ".", "..", ".lobos", "...", ".LOBOS", "overlay", "tmp", "%2e"])
            .prop_map(String::from),
        1 => select(vec!["n".repeat(255), "n".repeat(256), "☃".repeat(86), "m".repeat(600)]),
    ];
    let whole = (
        prop_oneof![5 => vec(segment.clone(), 1..4), 1 => vec(segment, 4..6)],
        proptest::bool::weighted(0.1),
    );
    whole.prop_filter_map("no key", |(segments, slash)| {
        let key = segments.join("/") + if slash { "/" } else { "" };
        (1..=1024).contains(&key.len()).then_some(key)
    })
}

/// A path as people have them, and now and then one of a name that Lobos keeps for itself.
fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        24 => select(vec!["a", "b"]).prop_map(String::from),
        3 => select(vec!["A", "a.txt", "a-", "é", "x y", "..."]).prop_map(String::from),
        1 => Just("n".repeat(255)),
    ];
    let kept = proptest::bool::weighted(0.05);
    (vec(segment, 1..4), kept).prop_map(|(segments, kept)| {
        let path = segments.join("/");
        if kept { path + "/.lobos/x" } else { path }
    })
}

fn listing() -> impl Strategy<Value = Listing> {
    let prefix = prop_oneof![
        3 => Just(String::new()),
        3 => key(),
        2 => key().prop_map(|key| key + "/"),
        2 => (key(), any::<proptest::sample::Index>()).prop_map(|(key, at)| cut(&key, at)),
    ];
    let delimiter = prop_oneof![
        4 => Just(None),
        6 => Just(Some("/")),
        1 => Just(Some("a")),
        1 => Just(Some("//")),
        1 => Just(Some("/a")),
    ];
    let after = prop_oneof![
        5 => Just(None),
        3 => key().prop_map(|key| Some(Resume::Key(key.into()))),
        2 => key().prop_map(|key| Some(Resume::Prefix((key + "/").into()))),
    ];
    let limit = prop_oneof![4 => Just(1000_usize), 6 => 0..6_usize];
    (prefix, delimiter, after, limit).prop_map(|(prefix, delimiter, after, limit)| Listing {
        prefix,
        delimiter,
        after,
        limit,
    })
}

fn cut(key: &str, at: proptest::sample::Index) -> String {
    let ends: Vec<usize> = key.char_indices().map(|(end, _)| end).collect();
    key[..ends[at.index(ends.len())]].to_owned()
}

/// Its key, its id, and the parts it has so far with their bytes.
type OpenUpload = (String, UploadId, Vec<(Part, Bytes)>);

/// What the bucket must hold.
#[derive(Default)]
struct Model {
    objects: BTreeMap<String, Object>,
    /// Objects that a file of another program hides: they show again when the file goes.
    hidden: BTreeMap<String, Object>,
    /// Directories that another program made: never pruned, common prefixes even when empty.
    directories: BTreeSet<String>,
    uploads: Vec<OpenUpload>,
}

#[derive(Clone)]
struct Object {
    bytes: Vec<u8>,
    /// `None`: another program wrote it, and its ETag is the engine's choice.
    etag: Option<String>,
    /// `None`: another program wrote it, and it may or may not have kept what was beside the bytes.
    tags: Option<Tags>,
}

impl Object {
    fn of(bytes: &[u8], etag: &lobos::engine::ETag) -> Self {
        Self {
            bytes: bytes.to_vec(),
            etag: Some(etag.as_str().to_owned()),
            tags: Some(Tags::new()),
        }
    }
}

impl Model {
    fn put(&mut self, key: &str, object: Object) {
        self.hidden.remove(key);
        self.objects.insert(key.to_owned(), object);
    }

    /// The file of the key goes by another program's hand.
    fn lose(&mut self, key: &str) {
        match self.hidden.remove(key) {
            Some(object) => self.objects.insert(key.to_owned(), object),
            None => self.objects.remove(key),
        };
    }

    /// The page, and whether more follows.
    fn list(&self, listing: &Listing) -> (Vec<(char, String)>, bool) {
        let objects = self.objects.keys().map(|key| (key.clone(), true));
        let directories = self
            .directories
            .iter()
            .map(|path| (format!("{path}/"), false));
        let names: BTreeSet<(String, bool)> = objects.chain(directories).collect();
        let mut items: Vec<(char, String)> = Vec::new();
        for (name, is_key) in names {
            let resumed = match &listing.after {
                None => true,
                Some(Resume::Key(key)) => *name > **key,
                Some(Resume::Prefix(prefix)) => *name > **prefix && !name.starts_with(&**prefix),
            };
            let Some(rest) = name.strip_prefix(&*listing.prefix).filter(|_| resumed) else {
                continue;
            };
            let end = listing.delimiter.and_then(|delimiter| {
                Some(listing.prefix.len() + rest.find(delimiter)? + delimiter.len())
            });
            let item = match end {
                Some(end) if is_key || listing.delimiter == Some("/") => {
                    ('P', name[..end].to_owned())
                }
                None if is_key => ('K', name),
                _ => continue,
            };
            if items.last() != Some(&item) {
                items.push(item);
            }
        }
        let truncated = listing.limit > 0 && items.len() > listing.limit;
        items.truncate(listing.limit);
        (items, truncated)
    }
}

/// One sequence of operations on a bucket of its own.
struct Case {
    fixture: Option<Fixture>,
    name: String,
    /// `None` only while the engine is opened again: a handle would keep the old one alive.
    first: Option<Bucket>,
    /// The same bucket through another engine, where an engine allows that.
    second: Option<Bucket>,
    tree: Option<PathBuf>,
    model: Model,
}

impl Case {
    async fn new(fixture: Fixture, number: usize) -> Self {
        let name = format!("case-{number}");
        let made = fixture
            .engine
            .create_bucket(&bucket_name(&name), bucket_config())
            .await;
        made.unwrap();
        let first = fixture.engine.bucket(&bucket_name(&name)).await.unwrap();
        let mut case = Self {
            tree: fixture.tree(&name),
            second: None,
            fixture: Some(fixture),
            name,
            first: Some(first),
            model: Model::default(),
        };
        case.find_twin().await;
        case
    }

    fn first(&self) -> &Bucket {
        self.first.as_ref().expect("the engine is open")
    }

    fn second(&self) -> &Bucket {
        self.second.as_ref().expect("the engine is open")
    }

    async fn find_twin(&mut self) {
        let twin = self.fixture.as_ref().and_then(Fixture::twin);
        self.second = match twin {
            Some(twin) => Some(twin.bucket(&bucket_name(&self.name)).await.unwrap()),
            None => self.first.clone(),
        };
    }

    async fn run(&mut self, steps: &[Step]) {
        for (index, (operation, by_second)) in steps.iter().enumerate() {
            if matches!(operation, Operation::Reopen) {
                self.reopen().await;
            } else {
                let bucket = if *by_second {
                    self.second()
                } else {
                    self.first()
                };
                self.step(&bucket.clone(), operation).await;
            }
            if index % CHECK_EVERY == CHECK_EVERY - 1 || index + 1 == steps.len() {
                self.check_all().await;
            }
        }
    }

    async fn step(&mut self, bucket: &Bucket, operation: &Operation) {
        match operation {
            Operation::Put {
                key,
                body,
                only_if_absent,
            } => {
                self.put(bucket, key, &body.bytes(), *only_if_absent).await;
                self.check(key).await;
            }
            Operation::Delete { key } => {
                let found = delete(bucket, key).await;
                let there = self.model.objects.remove(key).is_some();
                self.model.hidden.remove(key);
                let expected = [Deleted::Absent, Deleted::Removed][usize::from(there)].clone();
                assert_eq!(found, expected, "delete {key:?}");
                self.check(key).await;
            }
            Operation::SetMetadata { key } => self.set_metadata(bucket, key).await,
            Operation::SetTags { key, count } => self.set_tags(bucket, key, *count).await,
            Operation::Read { key, start, size } => self.read(bucket, key, *start, *size).await,
            Operation::Copy { from, to } => self.copy(bucket, from, to).await,
            Operation::OpenUpload { key, parts } => self.open_upload(bucket, key, parts).await,
            Operation::Complete(index) => self.complete(bucket, *index).await,
            Operation::Abort(index) => {
                if let Some((name, id, _)) = self.take_upload(*index) {
                    bucket
                        .abort(&crate::fixture::key(&name), &id)
                        .await
                        .unwrap();
                    assert_no_upload(self.first(), &name, &id).await;
                }
            }
            Operation::List(listing) => self.check_list(bucket, listing).await,
            Operation::Reopen => {}
            Operation::Other(other) => self.other_program(other).await,
        }
    }

    async fn put(&mut self, bucket: &Bucket, name: &str, bytes: &Bytes, only_if_absent: bool) {
        let mut commit = plain(bytes);
        if only_if_absent {
            commit.precondition.if_none_match = Some(Condition::Any);
        }
        match put_with(bucket, name, bytes, commit).await {
            Ok(entry) => {
                assert!(!only_if_absent || !self.model.objects.contains_key(name));
                self.model.put(name, Object::of(bytes, &entry.etag));
            }
            Err(EngineError::PreconditionFailed) => {
                assert!(only_if_absent && self.model.objects.contains_key(name));
            }
            Err(error) => panic!("put {name:?}: {error}"),
        }
    }

    async fn set_metadata(&mut self, bucket: &Bucket, name: &str) {
        let none = Precondition::default();
        let (name_key, metadata) = (crate::fixture::key(name), marked("changed"));
        let changed = bucket.set_metadata(&name_key, metadata, &none).await;
        match (changed, self.model.objects.get_mut(name)) {
            (Ok(entry), Some(object)) => {
                assert_eq!(entry.metadata, marked("changed"), "{name:?}");
                object.tags = Some(Tags::new());
            }
            (Err(EngineError::NoSuchKey), None) => {}
            (answer, object) => panic!("{name:?}: {answer:?}, there: {}", object.is_some()),
        }
        self.check(name).await;
        if self.model.objects.contains_key(name) {
            let entry = head(self.second(), name).await.unwrap();
            assert_ne!(entry.metadata, Metadata::default(), "{name:?}");
        }
    }

    async fn set_tags(&mut self, bucket: &Bucket, name: &str, count: u8) {
        let tag = |n| (format!("{n}").into(), name.chars().take(200).collect());
        let tags: Tags = (0..count).map(tag).collect();
        let before = head(self.second(), name).await;
        let tagged = bucket
            .set_tags(&crate::fixture::key(name), None, tags.clone())
            .await;
        match (tagged, before, self.model.objects.get_mut(name)) {
            (Ok(entry), Ok(before), Some(object)) => {
                let mut expected = lobos::engine::Entry::clone(&before);
                expected.metadata.tags.clone_from(&tags);
                assert_eq!(*entry, expected, "{name:?}");
                object.tags = Some(tags);
            }
            (Err(EngineError::NoSuchKey), Err(_), None) => {}
            (answer, _, object) => panic!("{name:?}: {answer:?}, there: {}", object.is_some()),
        }
        self.check(name).await;
    }

    async fn read(&self, bucket: &Bucket, name: &str, start: u16, size: u16) {
        let (Ok(reader), Some(object)) = (
            bucket.open(&crate::fixture::key(name)).await,
            self.model.objects.get(name),
        ) else {
            return self.check(name).await;
        };
        let start = usize::from(start) % (object.bytes.len() + 1);
        let size = usize::from(size) % (object.bytes.len() - start + 1);
        let range = Range {
            start_bytes: start as u64,
            size_bytes: size as u64,
        };
        let got = collect(reader.read(range)).await.unwrap();
        assert!(
            got == object.bytes[start..start + size],
            "{name:?} {range:?}"
        );
    }

    async fn copy(&mut self, bucket: &Bucket, from: &str, to: &str) {
        let Ok(source) = bucket.open(&crate::fixture::key(from)).await else {
            assert!(!self.model.objects.contains_key(from), "{from:?} is lost");
            return;
        };
        let bytes = self.model.objects[from].bytes.clone();
        let range = whole(source.entry());
        let mut writer = bucket.begin(&crate::fixture::key(to), None).await.unwrap();
        writer.append_from(source, range).await.unwrap();
        let entry = writer.commit(plain(&bytes)).await.unwrap();
        self.model.put(to, Object::of(&bytes, &entry.etag));
        self.check(to).await;
    }

    async fn open_upload(&mut self, bucket: &Bucket, name: &str, bodies: &[Body]) {
        let id = open_upload(bucket, name).await;
        let mut parts = Vec::new();
        for (number, body) in (1..).zip(bodies) {
            let bytes = body.bytes();
            let part = put_part(self.second(), name, &id, number, &bytes).await;
            parts.push((part.unwrap(), bytes));
        }
        self.model.uploads.push((name.to_owned(), id, parts));
        self.check(name).await;
    }

    async fn complete(&mut self, bucket: &Bucket, index: usize) {
        let Some((name, id, parts)) = self.take_upload(index) else {
            return;
        };
        let bytes: Vec<u8> = parts.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
        let parts: Vec<Part> = parts.into_iter().map(|(part, _)| part).collect();
        let entry = complete(bucket, &name, &id, &parts).await;
        let entry = entry.unwrap_or_else(|error| panic!("complete {name:?}: {error}"));
        self.model.put(&name, Object::of(&bytes, &entry.etag));
        self.check(&name).await;
    }

    fn take_upload(&mut self, index: usize) -> Option<OpenUpload> {
        let count = self.model.uploads.len();
        (count > 0).then(|| self.model.uploads.remove(index % count))
    }

    async fn reopen(&mut self) {
        let Some(fixture) = self.fixture.take() else {
            return;
        };
        (self.first, self.second) = (None, None);
        let fixture = fixture.reopen().await;
        let name = bucket_name(&self.name);
        self.first = Some(fixture.engine.bucket(&name).await.unwrap());
        self.fixture = Some(fixture);
        self.find_twin().await;
        self.check_all().await;
    }

    async fn other_program(&mut self, action: &OtherProgram) {
        let Some(tree) = self.tree.clone() else {
            return;
        };
        let at = |path: &str| tree.join(path);
        let touched = match action {
            OtherProgram::Write(path, body) => {
                self.other_writes(path, |file| fs::write(file, body.bytes()));
                path
            }
            OtherProgram::Append(path) => {
                let file = fs::OpenOptions::new().append(true).open(at(path));
                if let Ok(mut file) = file {
                    file.write_all(b"more").unwrap();
                    self.other_wrote(path);
                }
                path
            }
            OtherProgram::Rename(from, to) => {
                if at(from).is_file() && !at(to).is_dir() && from != to {
                    self.other_writes(to, |file| fs::rename(at(from), file));
                    if !at(from).exists() && self.is_key(from) {
                        self.model.lose(from);
                    }
                }
                self.check(from).await;
                to
            }
            OtherProgram::Remove(path) => {
                if fs::remove_file(at(path)).is_ok() && self.is_key(path) {
                    self.model.lose(path);
                }
                path
            }
            OtherProgram::RemoveTree(path) => {
                self.other_removes_tree(path);
                path
            }
            OtherProgram::MakeDirectory(path) => {
                if !path.contains(".lobos") {
                    self.other_makes_directories(path);
                }
                path
            }
        };
        self.check(touched).await;
    }

    fn is_key(&self, path: &str) -> bool {
        !path.split('/').any(|segment| segment == ".lobos")
    }

    /// Puts a file at the path, in directories made for it, unless something is in the way.
    fn other_writes(&mut self, path: &str, write: impl FnOnce(PathBuf) -> std::io::Result<()>) {
        let Some(tree) = self.tree.clone() else {
            return;
        };
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        if tree.join(path).is_dir() || !self.other_makes_directories(above) {
            return;
        }
        let was_file = tree.join(path).is_file();
        if write(tree.join(path)).is_err() {
            return;
        }
        if !was_file
            && self.is_key(path)
            && let Some(object) = self.model.objects.get(path)
        {
            self.model.hidden.insert(path.to_owned(), object.clone());
        }
        self.other_wrote(path);
    }

    fn other_wrote(&mut self, path: &str) {
        if let Some(tree) = self.tree.as_ref().filter(|_| self.is_key(path)) {
            let bytes = fs::read(tree.join(path)).unwrap();
            let object = Object {
                bytes,
                etag: None,
                tags: None,
            };
            self.model.objects.insert(path.to_owned(), object);
        }
    }

    /// Makes what is missing of the path; `false`: a file is in the way.
    fn other_makes_directories(&mut self, path: &str) -> bool {
        let Some(tree) = &self.tree else {
            return false;
        };
        let mut at = String::new();
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            at = if at.is_empty() {
                segment.to_owned()
            } else {
                format!("{at}/{segment}")
            };
            match fs::create_dir(tree.join(&at)) {
                Ok(()) if self.is_key(&at) => {
                    self.model.directories.insert(at.clone());
                }
                Ok(()) => {}
                Err(_) if tree.join(&at).is_dir() => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn other_removes_tree(&mut self, path: &str) {
        let Some(place) = self.tree.as_ref().map(|tree| tree.join(path)) else {
            return;
        };
        if !place.is_dir() {
            return;
        }
        let tree = self.tree.as_ref().unwrap();
        let below = format!("{path}/");
        let keys = self.model.objects.keys();
        let in_tree = |key: &&String| {
            let plain = |segment| !matches!(segment, "" | "." | ".." | ".lobos");
            key.starts_with(&below) && key.split('/').all(plain) && tree.join(key).is_file()
        };
        let lost: Vec<String> = keys.filter(in_tree).cloned().collect();
        fs::remove_dir_all(place).unwrap();
        lost.iter().for_each(|key| self.model.lose(key));
        let directories = &mut self.model.directories;
        directories.retain(|made| made != path && !made.starts_with(&below));
    }

    /// Both engines give the key as the model has it.
    async fn check(&self, name: &str) {
        for (bucket, which) in [(self.first(), "first"), (self.second(), "second")] {
            let Some(object) = self.model.objects.get(name) else {
                assert_absent(bucket, name).await;
                continue;
            };
            let (entry, bytes) = get(bucket, name)
                .await
                .unwrap_or_else(|error| panic!("get {name:?} of the {which}: {error}"));
            assert!(bytes == object.bytes, "bytes of {name:?} ({which})");
            assert_eq!(entry.size_bytes, bytes.len() as u64, "size of {name:?}");
            if let Some(etag) = &object.etag {
                assert_eq!(entry.etag.as_str(), etag, "ETag of {name:?} ({which})");
            }
            if let Some(tags) = &object.tags {
                assert_eq!(&entry.metadata.tags, tags, "tags of {name:?} ({which})");
            }
            assert_eq!(head(bucket, name).await.unwrap(), entry, "head of {name:?}");
        }
    }

    async fn check_all(&self) {
        for name in self.model.objects.keys() {
            self.check(name).await;
        }
        for bucket in [self.first(), self.second()] {
            for delimiter in [None, Some("/")] {
                let listing = Listing {
                    prefix: String::new(),
                    delimiter,
                    after: None,
                    limit: 1000,
                };
                self.check_list(bucket, &listing).await;
            }
            self.check_uploads(bucket).await;
        }
        for made in &self.model.directories {
            let kept = self
                .tree
                .as_ref()
                .is_some_and(|tree| tree.join(made).is_dir());
            assert!(kept, "the directory {made:?} was not Lobos's to remove");
        }
    }

    async fn check_list(&self, bucket: &Bucket, listing: &Listing) {
        let plan = ScanPlan {
            prefix: listing.prefix.as_str().into(),
            delimiter: listing.delimiter.map(Into::into),
            after: listing.after.clone(),
            limit: listing.limit,
        };
        let page = bucket.scan(&plan).await.unwrap();
        let mut got = Vec::new();
        for item in &page.items {
            if let ScanItem::Object { key, entry } = item {
                let object = self.model.objects.get(key.as_str());
                let size = object.map(|object| object.bytes.len() as u64);
                assert_eq!(Some(entry.size_bytes), size, "{key} is listed");
                let etag = object.and_then(|object| object.etag.as_deref());
                assert!(etag.is_none_or(|etag| etag == entry.etag.as_str()), "{key}");
            }
            let kind = match item {
                ScanItem::Object { .. } => 'K',
                ScanItem::CommonPrefix(_) => 'P',
            };
            got.push((kind, item.name().to_owned()));
        }
        assert_eq!(
            (got, page.truncated),
            self.model.list(listing),
            "{listing:?}"
        );
    }

    async fn check_uploads(&self, bucket: &Bucket) {
        let plan = UploadsPlan {
            limit: 1000,
            ..UploadsPlan::default()
        };
        let page = bucket.list_uploads(&plan).await.unwrap();
        let got: BTreeSet<_> = page
            .uploads
            .iter()
            .map(|upload| (upload.key.as_str().to_owned(), upload.id.clone()))
            .collect();
        let open = self.model.uploads.iter();
        let open: BTreeSet<_> = open.map(|(key, id, _)| (key.clone(), id.clone())).collect();
        assert_eq!(got, open, "open uploads");
        for (name, id, parts) in &self.model.uploads {
            let key = crate::fixture::key(name);
            let listed = bucket.list_parts(&key, id, 0, 1000).await.unwrap().parts;
            let put: Vec<Part> = parts.iter().map(|(part, _)| part.clone()).collect();
            assert_eq!(listed, put, "parts of {name:?}");
        }
    }
}

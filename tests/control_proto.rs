//! `proto/loboscontrol.proto`, the code that was generated from it and `docs/control-plane.md`
//! say the same. After a change of the proto: `LOBOS_WRITE_GENERATED=1 cargo test --test
//! control_proto`.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::fs;
use std::path::Path;

use prost::Message;
use prost_types::FileDescriptorSet;

#[test]
fn the_generated_code_is_that_of_the_proto() {
    let folder = tempfile::tempdir().unwrap();
    let files = descriptors();
    // Messages that carry a secret print themselves without it.
    tonic_prost_build::configure()
        .build_transport(false)
        .skip_debug(["loboscontrol.UserParams", "loboscontrol.KeyPair"])
        .out_dir(folder.path())
        .compile_fds(files.clone())
        .unwrap();
    let code = fs::read_to_string(folder.path().join("loboscontrol.rs")).unwrap();
    same("loboscontrol.rs", code.as_bytes());
    // What reflection answers with; comments are for readers of the proto.
    let mut bare = files;
    bare.file
        .iter_mut()
        .for_each(|file| file.source_code_info = None);
    same("loboscontrol.bin", &bare.encode_to_vec());
}

#[test]
fn every_message_method_and_field_is_documented() {
    let files = descriptors();
    let file = files
        .file
        .iter()
        .find(|file| file.package() == "loboscontrol");
    let file = file.unwrap();
    let documented: Vec<_> = file
        .source_code_info
        .as_ref()
        .unwrap()
        .location
        .iter()
        .filter(|place| !place.leading_comments().trim().is_empty())
        .map(|place| place.path.clone())
        .collect();
    // The numbers of descriptor.proto: 4 message_type, 5 enum_type, 6 service; 2 field, 8 oneof.
    let mut expected = Vec::new();
    for (at, message) in (0..).zip(&file.message_type) {
        expected.push((message.name(), vec![4, at]));
        for (field, what) in (0..).zip(&message.field) {
            expected.push((what.name(), vec![4, at, 2, field]));
        }
        let oneofs = (0..).zip(&message.oneof_decl);
        // Those of optional fields are the compiler's.
        for (oneof, what) in oneofs.filter(|(_, what)| !what.name().starts_with('_')) {
            expected.push((what.name(), vec![4, at, 8, oneof]));
        }
    }
    for (at, choice) in (0..).zip(&file.enum_type) {
        expected.push((choice.name(), vec![5, at]));
        for (value, what) in (0..).zip(&choice.value) {
            expected.push((what.name(), vec![5, at, 2, value]));
        }
    }
    for (method, what) in (0..).zip(&file.service[0].method) {
        expected.push((what.name(), vec![6, 0, 2, method]));
    }
    assert!(expected.len() > 100, "{}", expected.len());
    let lacking: Vec<_> = expected
        .iter()
        .filter(|(_, path)| !documented.contains(path))
        .collect();
    assert!(lacking.is_empty(), "without a comment: {lacking:?}");
}

#[test]
fn the_page_of_the_control_plane_names_every_method_and_no_other() {
    let files = descriptors();
    let mut methods: Vec<_> = files
        .file
        .iter()
        .flat_map(|file| &file.service)
        .flat_map(|service| &service.method)
        .map(|method| method.name().to_owned())
        .collect();
    let page = fs::read_to_string(root().join("docs/control-plane.md")).unwrap();
    let mut named: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split('`').next())
        .filter(|name| name.starts_with(char::is_uppercase))
        .map(str::to_owned)
        .collect();
    methods.sort();
    named.sort();
    assert_eq!(named, methods);
}

fn descriptors() -> FileDescriptorSet {
    let proto = root().join("proto/loboscontrol.proto");
    protox::compile([proto], [root().join("proto")]).unwrap()
}

/// Compares with what is committed, or writes it where that is asked for.
fn same(name: &str, fresh: &[u8]) {
    let path = root().join("proto/generated").join(name);
    if std::env::var_os("LOBOS_WRITE_GENERATED").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, fresh).unwrap();
    }
    let committed = fs::read(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "{} is not what the proto gives: LOBOS_WRITE_GENERATED=1 cargo test --test control_proto",
        path.display()
    );
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

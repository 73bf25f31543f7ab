//! The declarations in `src/lib.rs` are those of `c/shim.h`: a C compiler compares them. It needs
//! no SPDK.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::mem::{offset_of, size_of};
use std::process::Command;

use lobos_spdk_sys::{lobos_spdk_bdev, lobos_spdk_start, lobos_spdk_stats, lobos_spdk_store};

#[test]
fn the_declarations_are_those_of_the_header() {
    let test = "the_declarations_are_those_of_the_header";
    if Command::new("cc").arg("--version").output().is_err() {
        println!("skipped: {test}: it needs a C compiler");
        return;
    }
    let mut program = String::from("#include \"shim.h\"\n");
    let prototypes = prototypes(include_str!("../src/lib.rs"));
    program.push_str(&prototypes.join("\n"));
    program.push_str(&layouts());
    program.push_str(&constants(include_str!("../src/lib.rs")));
    let declared = include_str!("../c/shim.h").matches("lobos_spdk_").count();
    assert!(declared > prototypes.len());
    let header_functions = include_str!("../c/shim.h")
        .split(';')
        .filter(|part| part.trim_end().ends_with(')') && !part.contains("typedef"))
        .count();
    assert_eq!(
        prototypes.len(),
        header_functions,
        "functions in the header"
    );

    let folder = std::env::temp_dir().join(format!("lobos-spdk-sys-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("declarations.c");
    std::fs::write(&file, &program).unwrap();
    let compiled = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Werror", "-fsyntax-only", "-Ic"])
        .arg(&file)
        .output()
        .unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{said}\n{program}");
}

/// Each Rust declaration as a prototype in C: one that differs from the header's is an error there.
fn prototypes(source: &str) -> Vec<String> {
    let block = source.split("unsafe extern \"C\" {\n").nth(1).unwrap();
    let functions = block.split("pub fn ").skip(1);
    functions.map(prototype).collect()
}

fn prototype(function: &str) -> String {
    let (name, rest) = function.split_once('(').unwrap();
    let (arguments, rest) = rest.split_once(')').unwrap();
    let result = rest
        .split(';')
        .next()
        .unwrap()
        .trim()
        .strip_prefix("->")
        .map_or("void".into(), |result| in_c(result.trim()));
    let arguments: Vec<_> = arguments
        .split(',')
        .filter_map(|argument| Some(in_c(argument.split_once(':')?.1.trim())))
        .collect();
    let arguments = match arguments.is_empty() {
        true => "void".into(),
        false => arguments.join(", "),
    };
    format!("{result} {name}({arguments});")
}

fn in_c(rust: &str) -> String {
    if let Some(to) = rust.strip_prefix("*mut ") {
        return format!("{} *", in_c(to));
    }
    if let Some(to) = rust.strip_prefix("*const ") {
        return format!("const {} *", in_c(to));
    }
    match rust {
        "c_void" => "void".into(),
        "c_char" => "char".into(),
        "bool" => "bool".into(),
        "i32" => "int32_t".into(),
        "u32" => "uint32_t".into(),
        "u64" => "uint64_t".into(),
        "usize" => "size_t".into(),
        "Call" => "lobos_spdk_call".into(),
        "Done" => "lobos_spdk_done".into(),
        "Poll" => "lobos_spdk_poll".into(),
        "Log" => "lobos_spdk_log".into(),
        name => format!("struct {name}"),
    }
}

macro_rules! layout {
    ($($name:ident { $($field:ident)+ })+) => {
        concat_all(&[$(
            format!("_Static_assert(sizeof(struct {}) == {}, \"\");\n", stringify!($name),
                size_of::<$name>()),
            $(format!("_Static_assert(offsetof(struct {}, {}) == {}, \"\");\n", stringify!($name),
                stringify!($field), offset_of!($name, $field)),)+
        )+])
    };
}

fn concat_all(lines: &[String]) -> String {
    format!("\n{}", lines.concat())
}

fn layouts() -> String {
    layout! {
        lobos_spdk_start {
            reactor_mask config config_bytes rpc pci any_pci no_huge memory_mib log ready context
        }
        lobos_spdk_bdev { blocks block_bytes has_write_cache can_flush can_unmap product }
        lobos_spdk_store { cluster_bytes io_unit_bytes clusters free_clusters }
        lobos_spdk_stats { reads writes bytes_read bytes_written }
    }
}

fn constants(source: &str) -> String {
    let lines = source.lines().filter_map(|line| {
        let (name, value) = line
            .strip_prefix("pub const ")?
            .strip_suffix(';')?
            .split_once(": u32 = ")?;
        Some(format!("_Static_assert({name} == {value}, \"\");\n"))
    });
    lines.collect()
}

//! Finds an installed SPDK, compiles the shim against it, and links both. Does nothing without the
//! feature `link`, so that who works on the rest of the workspace needs no SPDK.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The version that the shim was written and tested for.
const SPDK_VERSION: &str = "26.01";

/// What is linked, as SPDK's pkg-config files are called. Their modules register themselves before
/// `main`, so all of their objects are taken in.
const PACKAGES: &[&str] = &[
    "spdk_event",
    "spdk_event_bdev",
    "spdk_event_accel",
    "spdk_event_sock",
    "spdk_bdev_malloc",
    "spdk_bdev_aio",
    "spdk_bdev_uring",
    "spdk_bdev_nvme",
    "spdk_bdev_error",
    "spdk_sock_posix",
    "spdk_blob",
    "spdk_blob_bdev",
    "spdk_env_dpdk",
    "spdk_syslibs",
    "libdpdk",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=c");
    if env::var_os("CARGO_FEATURE_LINK").is_none() {
        return;
    }
    if let Err(reason) = link() {
        println!("cargo::error={reason}");
    }
}

fn link() -> Result<(), String> {
    let mut archives = BTreeSet::new();
    let mut others = Vec::new();
    let mut includes = BTreeSet::new();
    for package in PACKAGES {
        let found = pkg_config::Config::new()
            .statik(true)
            .cargo_metadata(false)
            .probe(package)
            .map_err(|error| missing(package, &error))?;
        for path in &found.link_paths {
            println!("cargo::rustc-link-search=native={}", path.display());
        }
        for library in found.libs {
            // DPDK names its archives by their files.
            let library = match library
                .strip_prefix(":lib")
                .and_then(|it| it.strip_suffix(".a"))
            {
                Some(name) => name.to_owned(),
                None => library,
            };
            let file = format!("lib{library}.a");
            let is_archive = library.starts_with("spdk") || library.starts_with("rte_");
            if is_archive
                && found
                    .link_paths
                    .iter()
                    .any(|path| path.join(&file).exists())
            {
                archives.insert(library);
            } else if !others.contains(&library) {
                others.push(library);
            }
        }
        for file in &found.link_files {
            archives.extend(archive_name(file));
            if let Some(folder) = file.parent() {
                println!("cargo::rustc-link-search=native={}", folder.display());
            }
        }
        includes.extend(found.include_paths);
    }
    check_version(&includes)?;
    cc::Build::new()
        .file("c/shim.c")
        .include("c")
        .includes(&includes)
        .flag("-std=gnu11")
        .warnings(true)
        .flag_if_supported("-Wno-unused-parameter")
        .compile("lobos_spdk_shim");
    for library in archives {
        println!("cargo::rustc-link-lib=static:+whole-archive,-bundle={library}");
    }
    for library in others {
        println!("cargo::rustc-link-lib={library}");
    }
    Ok(())
}

/// SPDK's pkg-config files have the versions of its single libraries; its own is in a header.
fn check_version(includes: &BTreeSet<PathBuf>) -> Result<(), String> {
    let usual = ["/usr/local/include", "/usr/include"].map(PathBuf::from);
    let header = includes
        .iter()
        .chain(&usual)
        .find_map(|folder| fs::read_to_string(folder.join("spdk/version.h")).ok())
        .ok_or_else(|| wrong_version("without its header spdk/version.h"))?;
    let number = |name: &str| {
        let mut lines = header.lines().map(str::split_whitespace);
        let mut define = lines.find(|words| words.clone().nth(1) == Some(name))?;
        define.nth(2)?.parse::<u32>().ok()
    };
    let found = (number("SPDK_VERSION_MAJOR"), number("SPDK_VERSION_MINOR"));
    match found {
        (Some(26), Some(1)) => Ok(()),
        (major, minor) => {
            let shown = |number: Option<u32>| number.map_or("?".into(), |it| format!("{it:02}"));
            Err(wrong_version(&format!(
                "v{}.{}",
                shown(major),
                shown(minor)
            )))
        }
    }
}

fn archive_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    Some(name.strip_prefix("lib")?.strip_suffix(".a")?.to_owned())
}

fn missing(package: &str, error: &pkg_config::Error) -> String {
    let first = error.to_string();
    let first = first.lines().find(|line| !line.trim().is_empty());
    format!(
        "the feature `spdk` needs SPDK v{SPDK_VERSION} installed with its pkg-config files (and \
         PKG_CONFIG_PATH naming their folder if it is not a usual one); `{package}` was not found \
         ({}). How to build and install SPDK: https://spdk.io/doc/getting_started.html",
        first.unwrap_or_default().trim()
    )
}

fn wrong_version(found: &str) -> String {
    format!(
        "the feature `spdk` needs SPDK v{SPDK_VERSION}, and the installed one is {found}; install \
         v{SPDK_VERSION}: https://spdk.io/doc/getting_started.html"
    )
}

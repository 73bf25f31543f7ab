//! The shim's own test (`shim_test.c`) under gcc's AddressSanitizer, which finds leaks too.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn the_shim_is_clean_under_the_address_sanitizer() {
    if !cfg!(feature = "link") {
        println!(
            "skipped: the_shim_is_clean_under_the_address_sanitizer: the feature `spdk` is off"
        );
        return;
    }
    let folder = std::env::temp_dir().join(format!("lobos-spdk-shim-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let program = folder.join("shim_test");
    let packages = [
        "spdk_event",
        "spdk_event_bdev",
        "spdk_event_accel",
        "spdk_event_sock",
        "spdk_bdev_malloc",
        "spdk_sock_posix",
        "spdk_blob",
        "spdk_blob_bdev",
        "spdk_env_dpdk",
        "libdpdk",
    ];
    let words = pkg_config("--libs", &packages);
    let is_archive = |word: &&String| word.starts_with("-lspdk") || word.starts_with("-l:librte");
    let archives: BTreeSet<_> = words.iter().filter(is_archive).collect();
    let paths: BTreeSet<_> = words.iter().filter(|word| word.starts_with("-L")).collect();
    let system = pkg_config("--libs", &["spdk_syslibs"]);
    let system = system.iter().filter(|word| {
        let is_dpdk = word.contains("rte_") || word.starts_with("-Wl,");
        !is_dpdk && !word.starts_with("-L")
    });
    let built = Command::new("gcc")
        .args(["-g", "-O1", "-std=gnu11", "-fsanitize=address,undefined"])
        .arg("-fno-sanitize-recover=undefined")
        .args(pkg_config("--cflags", &["spdk_event"]))
        .args(["tests/shim_test.c", "c/shim.c", "-o"])
        .arg(&program)
        .args(paths)
        .arg("-Wl,--no-as-needed,--whole-archive")
        .args(archives)
        .arg("-Wl,--no-whole-archive")
        .args(system)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    let ran = Command::new(&program).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
}

fn pkg_config(what: &str, packages: &[&str]) -> Vec<String> {
    let asked = Command::new("pkg-config")
        .args(["--static", what])
        .args(packages)
        .output()
        .unwrap();
    let text = String::from_utf8(asked.stdout).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

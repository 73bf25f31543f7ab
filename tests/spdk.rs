//! The clients and the crash tests of a store on SPDK, so that `cargo test --features spdk` runs
//! them too. They are Python programs: see `stage_spdk` in `tests/run.py`.

#[test]
fn clients_and_kills_on_spdk() {
    if !cfg!(feature = "spdk") {
        println!("skipped: clients_and_kills_on_spdk: the feature `spdk` is off");
        return;
    }
    let ran = std::process::Command::new("python3")
        .args(["tests/run.py", "spdk"])
        .env("LOBOS_BINARY", env!("CARGO_BIN_EXE_lobos"))
        .status()
        .unwrap();
    assert!(ran.success());
}

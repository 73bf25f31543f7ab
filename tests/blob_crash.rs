//! The blob engine loses nothing that it acknowledged: seeded runs on the simulated disk that end
//! in a crash, every cut point of one workload, a failure of every operation, every byte flipped.
//!
//! The oracle is a map from key to what was acknowledged and what was under way. A failing run
//! prints its seed; `LOBOS_CRASH_SEED=N` runs that seed alone, `LOBOS_CRASH_RUNS=N` more seeds.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that fails may panic"
)]

#[path = "blob_crash/model.rs"]
mod model;
#[path = "blob_crash/world.rs"]
mod world;

use lobos::io::sim::{Fault, FaultKind};

use world::World;

/// Crashes of one `make test`.
const RUNS: u64 = 700;
/// Seeds that no other test runs begin here.
const FURTHER_SEEDS: u64 = 1 << 32;
/// Crashes of each run.
const ROUNDS: u64 = 3;

#[test]
fn p1_p3_what_was_acknowledged_survives_every_crash() {
    let seeds: Vec<u64> = match number("LOBOS_CRASH_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("LOBOS_CRASH_RUNS").unwrap_or(RUNS)).collect(),
    };
    let threads = 2;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let seeds = seeds.iter().filter(move |seed| *seed % threads == thread);
            scope.spawn(move || {
                for seed in seeds {
                    println!("seed {seed}");
                    let _ = crash_run(*seed);
                }
            });
        }
    });
}

#[test]
fn p20_all_space_comes_back_when_everything_is_deleted() {
    for seed in 0..number("LOBOS_CRASH_RUNS").unwrap_or(RUNS / 4) {
        println!("seed {seed}");
        crash_run(FURTHER_SEEDS + seed).delete_everything();
    }
}

/// The world after the last recovery.
fn crash_run(seed: u64) -> World {
    let mut world = World::new(seed, false);
    for round in 0..ROUNDS {
        let ops = 20 + world.random.below(400);
        world.work_until_crash(ops, round);
        // Power may fail again while the engine recovers.
        if world.random.below(3) == 0 {
            let ops = world.random.below(30);
            world.recover_until_crash(ops);
        }
        world.verify();
    }
    world
}

#[test]
fn every_cut_of_a_workload_recovers() {
    let mut world = World::new(77, true);
    world.work(60);
    let cuts = world.disk.trace_len();
    assert!(cuts > 100, "{cuts}");
    for cut in 0..=cuts {
        for seed in 0..2 {
            world.check_cut(cut, seed);
        }
    }
}

#[test]
fn p9_a_failure_of_any_operation_loses_nothing_acknowledged() {
    let clean = World::new(5, false);
    let formatted = clean.disk.operations();
    let mut probe = World::new(5, false);
    probe.work(25);
    let operations = probe.disk.operations();
    for operation in formatted..operations {
        for and_later in [false, true] {
            let mut world = World::new(5, false);
            world.disk.set_faults(vec![Fault {
                operation,
                and_later,
                kind: FaultKind::Error(5),
            }]);
            world.work_despite_failures(25);
            world.disk.set_faults(Vec::new());
            world.disk.crash(operation);
            world.verify();
        }
    }
}

#[test]
fn p5_no_flipped_bit_gives_wrong_bytes() {
    let mut world = World::new(9, false);
    world.work(25);
    world.close();
    world.work(6);
    for block in world.disk.used_blocks() {
        // A sample of each block, dense where there is little in it; `LOBOS_CRASH_FLIP_STEP=1`
        // flips every byte.
        let content = world.disk.block(block);
        let end = content
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(1, |at| at + 1);
        let sample = if end < 600 { 41 } else { 997 };
        let step = number("LOBOS_CRASH_FLIP_STEP").unwrap_or(sample) as usize;
        for at in (0..end).step_by(step) {
            let damaged = world.disk.fork();
            damaged.flip(block * 4096 + at as u64, 1 << (at % 8));
            world.check_damaged(&damaged, block, at);
        }
    }
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

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

use std::sync::atomic::{AtomicUsize, Ordering};

use lobos::engine::{Durability, EngineError, Versioning};
use lobos::io::sim::{Fault, FaultKind, SimRandom};

use world::{Loss, World};

/// Runs of the longest test in `make test`.
const RUNS: u64 = 500;
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
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    println!("seed {seed}");
                    let run = std::panic::catch_unwind(|| crash_run(*seed));
                    // Nothing more is run once a seed has failed.
                    if let Err(why) = run {
                        next.store(seeds.len(), Ordering::Relaxed);
                        std::panic::resume_unwind(why);
                    }
                }
            });
        }
    });
}

#[test]
fn p2_power_may_fail_at_any_operation_of_a_recovery() {
    for seed in 0..number("LOBOS_CRASH_RUNS").map_or(4, |runs| runs / 100 + 1) {
        println!("seed {seed}");
        let mut world = World::new(FURTHER_SEEDS * 2 + seed, false);
        // What the dead process wrote is readable, and not durable until somebody flushes it.
        for round in 0..2 {
            let ops = 20 + world.random.below(200);
            world.work_until_crash(ops, round, Loss::Process);
        }
        for operations in 0.. {
            let mut is_cut = false;
            for _ in 0..3 {
                let mut fork = world.fork();
                // Another survival each time.
                fork.random = SimRandom::new(world.random.next());
                is_cut = fork.recover_until_crash(operations);
                fork.verify();
            }
            if !is_cut {
                break;
            }
        }
    }
}

#[test]
fn p20_all_space_comes_back_when_everything_is_deleted() {
    for seed in 0..number("LOBOS_CRASH_RUNS").unwrap_or(RUNS / 4) {
        println!("seed {seed}");
        crash_run(FURTHER_SEEDS + seed).delete_everything();
    }
}

#[test]
fn i3_space_that_is_used_again_at_once_costs_nothing_acknowledged() {
    let mut tight = World::new(FURTHER_SEEDS * 3, false);
    tight.fill();
    for seed in 0..number("LOBOS_CRASH_RUNS").unwrap_or(RUNS / 4) {
        println!("seed {seed}");
        let mut world = tight.fork();
        world.reseed(seed);
        crash_rounds(&mut world);
        if seed % 4 == 0 {
            world.delete_everything();
        }
    }
}

/// Recovery reads the data of the last batch, also of an object that the same batch replaced.
#[test]
fn i3_what_a_batch_frees_is_not_used_before_a_further_block_is_durable() {
    let mut tight = World::new(FURTHER_SEEDS * 7, false);
    tight.fill();
    for seed in 0..number("LOBOS_CRASH_RUNS").unwrap_or(RUNS / 4) {
        println!("seed {seed}");
        let mut world = tight.fork();
        world.reseed(seed);
        world.replace_in_one_batch_and_reuse();
        world.verify();
    }
}

/// Two deletes in relaxed mode, of which power loss leaves the second alone: it does not count, and
/// never will, also when the first is asked for again and gives the very same record.
#[test]
fn i5_a_record_that_recovery_dropped_never_comes_back() {
    let mut world = World::new(FURTHER_SEEDS * 4, false);
    world.put_all(&["k", "z"]);
    world.close();
    world.set_durability(Durability::Relaxed);
    let mut dropped = 0;
    for seed in 0..200 {
        let mut world = world.fork();
        world.reseed(seed);
        world.delete_then_lose_power(&["k", "z"]);
        if world.present(&["k", "z"]) != ["k", "z"] {
            continue;
        }
        world.delete_then_lose_power(&["k"]);
        assert!(world.present(&["z"]) == ["z"], "seed {seed}");
        dropped += 1;
    }
    assert!(dropped > 20, "the case came up {dropped} times");
}

#[test]
fn relaxed_a_power_loss_takes_only_the_newest_of_each_client() {
    for seed in 0..number("LOBOS_CRASH_RUNS").unwrap_or(RUNS / 5) {
        println!("seed {seed}");
        let mut world = World::new(FURTHER_SEEDS * 5 + seed, false);
        world.set_durability(Durability::Relaxed);
        for round in 0..ROUNDS {
            let durable = world.acknowledged();
            let ops = 20 + world.random.below(400);
            let loss = match world.random.below(3) {
                0 => Loss::Process,
                _ => Loss::Power,
            };
            world.work_until_crash(ops, round, loss);
            match loss {
                Loss::Power => world.verify_relaxed(durable),
                Loss::Process => world.verify(),
            }
        }
    }
}

#[test]
fn relaxed_what_is_older_than_the_window_survives_a_power_loss() {
    let mut world = World::new(FURTHER_SEEDS * 6, false);
    world.set_durability(Durability::Relaxed);
    for round in 0..100 {
        world.put_and_wait_for_the_window(["a", "b", "c"][round % 3]);
        world.verify();
    }
}

/// The world after the last recovery.
fn crash_run(seed: u64) -> World {
    let mut world = World::new(seed, false);
    if seed % 2 == 1 {
        world.set_versioning(Versioning::Enabled);
    }
    crash_rounds(&mut world);
    world
}

fn crash_rounds(world: &mut World) {
    for round in 0..ROUNDS {
        if world.keeps_versions() {
            let versioning = match world.random.below(3) {
                0 => Versioning::Suspended,
                _ => Versioning::Enabled,
            };
            world.set_versioning(versioning);
        }
        let ops = 20 + world.random.below(400);
        let loss = match world.random.below(3) {
            0 => Loss::Process,
            _ => Loss::Power,
        };
        world.work_until_crash(ops, round, loss);
        // Power may fail again while the engine recovers.
        if world.random.below(3) == 0 || loss == Loss::Process && world.random.below(2) == 0 {
            let ops = world.random.below(30);
            let _ = world.recover_until_crash(ops);
        }
        if world.random.below(4) == 0 {
            world.spoil_a_superblock();
        }
        world.verify();
    }
}

#[test]
fn every_cut_of_a_workload_recovers() {
    for versioning in [None, Some(Versioning::Enabled)] {
        let mut world = World::new(77, true);
        if let Some(versioning) = versioning {
            world.set_versioning(versioning);
        }
        world.work(60);
        let cuts = world.disk.trace_len();
        assert!(cuts > 100, "{cuts}");
        for cut in 0..=cuts {
            for seed in 0..2 {
                world.check_cut(cut, seed);
            }
        }
    }
}

#[test]
fn p9_a_failure_of_any_operation_loses_nothing_acknowledged() {
    let new = || {
        let mut world = World::new(5, false);
        world.set_versioning(Versioning::Enabled);
        world
    };
    let mut probe = new();
    let formatted = probe.disk.operations();
    probe.work(25);
    let operations = probe.disk.operations();
    for operation in formatted..operations {
        for and_later in [false, true] {
            let mut world = new();
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
    world.work(10);
    world.set_versioning(Versioning::Enabled);
    world.work(15);
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

#[test]
fn p8_an_index_at_its_budget_refuses_new_keys_and_nothing_else() {
    let mut world = World::new(FURTHER_SEEDS * 8, false);
    world.put_all(&["old", "older"]);
    world.close();
    world.set_index_budget();
    let outcomes = world.put_and_delete(&["new", "old", "newer"]);
    assert!(
        matches!(
            outcomes[..],
            [
                (Some(EngineError::IndexFull { .. }), true),
                (None, true),
                // The delete has made room.
                (None, true),
            ]
        ),
        "{outcomes:?}"
    );
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

//! The simulator must do what it says, or the crash suite proves nothing.

use std::collections::BTreeSet;

use super::*;

const SIZE_BYTES: u64 = 64 * BLOCK_BYTES as u64;
const AT: u64 = BLOCK_BYTES as u64;

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

fn filled(device: &Device, blocks: usize, byte: u8) -> DmaBuf {
    let mut buffer = device.buffers().take(blocks * BLOCK_BYTES);
    buffer.fill(byte);
    buffer
}

async fn write(device: &Device, offset_bytes: u64, blocks: usize, byte: u8) -> io::Result<()> {
    device
        .write(offset_bytes, filled(device, blocks, byte))
        .await
        .0
}

async fn read(device: &Device, offset_bytes: u64, blocks: usize) -> io::Result<Vec<u8>> {
    let buffer = device.buffers().take_empty(blocks * BLOCK_BYTES);
    let (result, buffer) = device.read(offset_bytes, buffer).await;
    result.map(|()| buffer.to_vec())
}

#[test]
fn what_was_flushed_survives_every_crash_and_the_rest_survives_in_every_mixture() {
    let mut seen = BTreeSet::new();
    let mut torn = 0;
    for seed in 0..200 {
        let disk = SimDisk::new(SimPlan::new(seed, SIZE_BYTES));
        let device = disk.device();
        run(async {
            write(&device, 0, 2, 1).await.unwrap();
            device.flush().await.unwrap();
            write(&device, AT, 1, 2).await.unwrap();
            write(&device, 2 * AT, 1, 3).await.unwrap();
            assert_eq!(read(&device, AT, 1).await.unwrap(), [2; BLOCK_BYTES]);
        });
        disk.crash(seed);
        assert!(run(device.flush()).is_err(), "the old device has no power");
        assert_eq!(disk.block(0), [1; BLOCK_BYTES]);
        let (second, third) = (disk.block(1), disk.block(2));
        assert!(second.iter().all(|byte| [1, 2].contains(byte)));
        for sector in second.chunks(512) {
            assert!(sector.iter().all(|byte| Some(byte) == sector.first()));
        }
        torn += usize::from(second.contains(&1) && second.contains(&2));
        seen.insert((second[0], third[0]));
    }
    assert_eq!(seen, [(1, 0), (1, 3), (2, 0), (2, 3)].into());
    assert!(torn > 10);
}

#[test]
fn a_flush_covers_only_writes_that_were_answered_before_it() {
    let mut lost = 0;
    for seed in 0..200 {
        let disk = SimDisk::new(SimPlan::new(seed, SIZE_BYTES));
        let device = disk.device();
        let (written, flushed) = run(async {
            futures_util::future::join(write(&device, 0, 1, 7), device.flush()).await
        });
        written.unwrap();
        flushed.unwrap();
        disk.crash(seed);
        lost += usize::from(disk.block(0) != [7; BLOCK_BYTES]);
    }
    assert!(lost > 50, "lost in {lost} of 200");
}

#[test]
fn one_seed_is_one_run_and_seeds_differ() {
    let order = |seed| {
        let disk = SimDisk::new(SimPlan::new(seed, SIZE_BYTES));
        let device = &disk.device();
        run(async {
            let order = Mutex::new(Vec::new());
            let writes = (0..8u8).map(|index| {
                let order = &order;
                async move {
                    write(device, u64::from(index) * AT, 1, index)
                        .await
                        .unwrap();
                    order.lock().unwrap().push(index);
                }
            });
            futures_util::future::join_all(writes).await;
            order.into_inner().unwrap()
        })
    };
    assert_eq!(order(5), order(5));
    let orders: BTreeSet<_> = (0..20).map(order).collect();
    assert!(orders.len() > 15);
}

#[test]
fn a_cut_gives_what_was_flushed_before_it() {
    let disk = SimDisk::new(SimPlan {
        is_traced: true,
        ..SimPlan::new(3, SIZE_BYTES)
    });
    let device = disk.device();
    let mut durable = Vec::new();
    run(async {
        for step in 1..=5u8 {
            write(&device, 0, 1, step).await.unwrap();
            device.flush().await.unwrap();
            durable.push(disk.trace_len());
        }
    });
    for cut in 0..=disk.trace_len() {
        let acknowledged = durable.iter().filter(|&&at| at <= cut).count();
        for seed in 0..20 {
            let image = disk.image_at(cut, seed);
            let content = image.block(0);
            let range = acknowledged..=acknowledged + 1;
            assert!(
                content
                    .iter()
                    .all(|&byte| range.contains(&usize::from(byte))),
                "cut {cut}, seed {seed}"
            );
            let device = image.device();
            assert_eq!(run(read(&device, 0, 1)).unwrap(), content);
        }
    }
}

#[test]
fn a_fork_goes_its_own_way() {
    let disk = SimDisk::new(SimPlan::new(1, SIZE_BYTES));
    run(write(&disk.device(), 0, 1, 1)).unwrap();
    let fork = disk.fork();
    run(write(&disk.device(), 0, 1, 2)).unwrap();
    fork.crash(0);
    assert!(fork.block(0) == [1; BLOCK_BYTES] || fork.block(0).contains(&0));
    assert_eq!(disk.block(0), [2; BLOCK_BYTES]);
}

#[test]
fn planned_faults_happen_to_the_operation_that_they_name() {
    let fault = |operation, kind| Fault {
        operation,
        and_later: false,
        kind,
    };
    let disk = SimDisk::new(SimPlan {
        faults: vec![
            fault(0, FaultKind::Lost),
            fault(1, FaultKind::Misdirected { to_block: 9 }),
            fault(2, FaultKind::Corrupt { at: 5000, mask: 1 }),
            fault(3, FaultKind::Error(libc::EIO)),
            fault(5, FaultKind::Corrupt { at: 3, mask: 0x80 }),
            fault(6, FaultKind::Error(libc::ENOSPC)),
        ],
        ..SimPlan::new(1, SIZE_BYTES)
    });
    let device = disk.device();
    run(async {
        write(&device, 0, 1, 1).await.unwrap();
        write(&device, AT, 1, 2).await.unwrap();
        write(&device, 2 * AT, 2, 4).await.unwrap();
        let error = write(&device, 4 * AT, 1, 3).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(read(&device, AT, 1).await.unwrap(), [0; BLOCK_BYTES]);
        assert_eq!(read(&device, 9 * AT, 1).await.unwrap()[3], 2 ^ 0x80);
        let error = device.flush().await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    });
    assert_eq!(disk.block(0), [0; BLOCK_BYTES]);
    assert_eq!(disk.block(3)[5000 - BLOCK_BYTES], 5);
    assert_eq!(disk.operations(), 7);
}

#[test]
fn a_flush_after_a_failed_flush_makes_nothing_durable_that_the_first_lost() {
    let lost = (0..100).filter(|&seed| {
        let disk = SimDisk::new(SimPlan {
            faults: vec![Fault {
                operation: 1,
                and_later: false,
                kind: FaultKind::Error(libc::EIO),
            }],
            ..SimPlan::new(seed, SIZE_BYTES)
        });
        let device = disk.device();
        run(async {
            write(&device, 0, 1, 1).await.unwrap();
            device.flush().await.unwrap_err();
            device.flush().await.unwrap();
        });
        disk.crash(seed);
        disk.block(0) != [1; BLOCK_BYTES]
    });
    assert!(lost.count() > 20);
}

#[test]
fn a_discarded_range_reads_as_zeros_or_as_before() {
    let mut seen = BTreeSet::new();
    for seed in 0..20 {
        let disk = SimDisk::new(SimPlan::new(seed, SIZE_BYTES));
        let device = disk.device();
        run(async {
            write(&device, 0, 1, 1).await.unwrap();
            device.discard(0, AT).await.unwrap();
            seen.insert(read(&device, 0, 1).await.unwrap()[9]);
        });
    }
    assert_eq!(seen, [0, 1].into());
}

#[test]
fn a_killed_process_loses_only_what_was_in_flight() {
    let disk = SimDisk::new(SimPlan::new(1, SIZE_BYTES));
    let device = disk.device();
    run(async {
        write(&device, 0, 1, 1).await.unwrap();
        let mut started = Box::pin(write(&device, AT, 4, 2));
        let once = |context: &mut Context<'_>| Poll::Ready(started.as_mut().poll(context));
        assert!(std::future::poll_fn(once).await.is_pending());
    });
    assert_eq!(disk.in_flight(), 1);
    disk.kill(7);
    assert_eq!((disk.block(0), disk.in_flight()), ([1; BLOCK_BYTES], 0));
    assert!(disk.used_blocks().len() <= 5);
    let device = disk.device();
    assert_eq!(run(read(&device, 0, 1)).unwrap(), [1; BLOCK_BYTES]);
}

//! Real files, through the ring and through threads.

use std::future::poll_fn;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Command;
use std::task::Poll;

use futures_util::future::join_all;

use super::*;

const SIZE_BYTES: u64 = 8 << 20;

/// A way to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Pool,
    Uring,
    /// A ring as kernels before 6.1 make it.
    PlainRing,
    /// Through a ring, where every transfer of several blocks comes back short.
    ShortSteps,
}

/// The ways that this machine has.
fn ways() -> Vec<Way> {
    match Uring::missing() {
        None => vec![Way::Pool, Way::Uring, Way::PlainRing, Way::ShortSteps],
        Some(missing) => {
            println!("skipped: io::device::tests::uring: {missing}");
            vec![Way::Pool]
        }
    }
}

fn options(way: Way) -> OpenOptions {
    OpenOptions {
        prefer: match way {
            Way::Pool => Prefer::Pool,
            Way::Uring | Way::PlainRing | Way::ShortSteps => Prefer::Uring,
        },
        idle_buffer_bytes: 1 << 20,
        ..OpenOptions::default()
    }
}

fn open(path: &Path, way: Way) -> Result<Device, DeviceError> {
    let mut device = Device::open(path, &options(way))?;
    if let Device::Uring(uring) = &mut device {
        let tuning = &mut Arc::get_mut(uring).unwrap().tuning;
        tuning.is_deferred = way != Way::PlainRing;
        if way == Way::ShortSteps {
            tuning.step_bytes_max = 2 * BLOCK_BYTES;
        }
    }
    Ok(device)
}

fn image(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("image");
    create_file(&path, SIZE_BYTES).unwrap();
    path
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

async fn poll_once<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

fn filled(device: &Device, size_bytes: usize, byte: u8) -> DmaBuf {
    let mut buffer = device.buffers().take(size_bytes);
    buffer.fill(byte);
    buffer
}

async fn read(device: &Device, offset_bytes: u64, size_bytes: usize) -> io::Result<Vec<u8>> {
    let buffer = device.buffers().take_empty(size_bytes);
    let (result, buffer) = device.read(offset_bytes, buffer).await;
    result.map(|()| buffer.to_vec())
}

#[test]
fn what_is_written_is_read_back_in_every_size() {
    for way in ways() {
        let dir = tempfile::tempdir().unwrap();
        let device = open(&image(&dir), way).unwrap();
        assert_eq!(device.size_bytes(), SIZE_BYTES);
        run(async {
            for (index, blocks) in [1usize, 2, 7, 64, 257].into_iter().enumerate() {
                let byte = u8::try_from(index + 1).unwrap();
                let at = (index * BLOCK_BYTES) as u64;
                let buffer = filled(&device, blocks * BLOCK_BYTES, byte);
                let (result, buffer) = device.write(at, buffer).await;
                result.unwrap();
                assert_eq!(buffer.len(), blocks * BLOCK_BYTES);
                device.flush().await.unwrap();
                let read = read(&device, at, blocks * BLOCK_BYTES).await.unwrap();
                assert!(read.len() == blocks * BLOCK_BYTES && read.iter().all(|&b| b == byte));
            }
        });
    }
}

#[test]
fn after_a_short_transfer_the_broken_block_moves_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir);
    for direct in [true, false] {
        let options = OpenOptions {
            direct,
            ..options(Way::Pool)
        };
        let Device::Pool(pool) = Device::open(&path, &options).unwrap() else {
            panic!("threads were asked for");
        };
        let media = &pool.media;
        let is_direct = media.buffered_because.is_none();
        // Bytes done before, bytes that moved, bytes wanted: where the next transfer begins.
        for (done, count, size, next) in [
            (0, 8192, 8192, 8192),
            (0, 4096, 8192, 4096),
            (0, 5000, 8192, if is_direct { 4096 } else { 5000 }),
            (4096, 9000, 65536, if is_direct { 12288 } else { 13096 }),
        ] {
            assert_eq!(media.progress(done, count, size).unwrap(), next);
        }
        // Less than a block of a direct transfer gets nobody further.
        assert_eq!(media.progress(4096, 100, 8192).is_err(), is_direct);
    }
}

#[test]
fn ranges_that_do_not_fit_are_refused_with_the_buffer_given_back() {
    for way in ways() {
        let dir = tempfile::tempdir().unwrap();
        let device = open(&image(&dir), way).unwrap();
        run(async {
            for at in [1, 512, SIZE_BYTES, u64::MAX - 4095] {
                let (result, buffer) = device.write(at, filled(&device, 4096, 9)).await;
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
                assert_eq!(buffer[0], 9);
                assert!(read(&device, at, 4096).await.is_err());
            }
        });
    }
}

#[test]
fn many_in_flight_all_arrive() {
    for way in ways() {
        let dir = tempfile::tempdir().unwrap();
        let device = &open(&image(&dir), way).unwrap();
        run(async {
            let writes = (0..2000u64).map(|index| async move {
                let byte = u8::try_from(index % 251).unwrap();
                let buffer = filled(device, BLOCK_BYTES, byte);
                device.write(index * BLOCK_BYTES as u64, buffer).await.0
            });
            for result in join_all(writes).await {
                result.unwrap();
            }
            device.flush().await.unwrap();
            let all = read(device, 0, 2000 * BLOCK_BYTES).await.unwrap();
            for (index, block) in all.chunks(BLOCK_BYTES).enumerate() {
                assert!(block.iter().all(|&byte| usize::from(byte) == index % 251));
            }
        });
    }
}

#[test]
fn a_dropped_future_leaves_its_buffer_to_the_device() {
    for way in ways() {
        let dir = tempfile::tempdir().unwrap();
        let device = open(&image(&dir), way).unwrap();
        run(async {
            for round in 0..200u64 {
                let at = (round % 4) * (1 << 20);
                let mut dropped = Box::pin(device.write(at, filled(&device, 1 << 20, 0xaa)));
                // A thread may have finished already; a ring has not.
                let _begun = poll_once(&mut dropped).await;
                if round % 2 == 0 {
                    tokio::task::yield_now().await;
                }
                drop(dropped);
                // Memory that is handed out now is not the one in flight.
                let other = filled(&device, 1 << 20, 0x55);
                tokio::task::yield_now().await;
                assert!(other.iter().all(|&byte| byte == 0x55));
            }
        });
        // Transfers in flight keep the lock; the end of the loop waits for them.
        let path = dir.path().join("image");
        drop(device);
        let device = open(&path, way).unwrap();
        let bytes = run(read(&device, 0, 4 << 20)).unwrap();
        for block in bytes.chunks(BLOCK_BYTES) {
            assert!([[0xaa; BLOCK_BYTES].as_slice(), [0; BLOCK_BYTES].as_slice()].contains(&block));
        }
    }
}

#[test]
fn every_event_loop_has_its_own_ring_and_may_end_and_come_again() {
    for way in ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = image(&dir);
        let device = open(&path, way).unwrap();
        let threads: Vec<_> = (0..4u8)
            .map(|index| {
                let device = device.clone();
                std::thread::spawn(move || {
                    for round in 0..3u8 {
                        run(async {
                            let at = u64::from(index * 3 + round) * BLOCK_BYTES as u64;
                            let buffer = filled(&device, BLOCK_BYTES, index * 3 + round);
                            device.write(at, buffer).await.0.unwrap();
                            device.flush().await.unwrap();
                        });
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let bytes = run(read(&device, 0, 12 * BLOCK_BYTES)).unwrap();
        for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            assert!(block.iter().all(|&byte| usize::from(byte) == index));
        }
    }
}

#[test]
fn a_device_has_one_owner_or_several_readers() {
    for way in ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = image(&dir);
        let shared = OpenOptions {
            access: Access::Shared,
            ..options(way)
        };
        let owner = open(&path, way).unwrap();
        for refused in [options(way), shared.clone()] {
            let error = Device::open(&path, &refused).unwrap_err();
            assert!(matches!(error, DeviceError::InUse { .. }), "{error}");
        }
        run(async {
            owner.write(0, filled(&owner, 4096, 1)).await.0.unwrap();
            owner.flush().await.unwrap();
            // Free at once, although this loop's ring is still there.
            drop(owner);
            let first = Device::open(&path, &shared).unwrap();
            let second = Device::open(&path, &shared).unwrap();
            assert!(open(&path, way).is_err());
            assert_eq!(read(&first, 0, 4096).await.unwrap(), [1; 4096]);
            let (result, _) = second.write(0, filled(&second, 4096, 1)).await;
            assert!(result.is_err());
            assert!(!second.describe().is_writable);
        });
    }
}

#[test]
fn what_is_no_device_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let options = OpenOptions::default();
    let error = Device::open(dir.path(), &options).unwrap_err();
    assert!(matches!(error, DeviceError::WrongKind { .. }));
    let error = Device::open(&dir.path().join("none"), &options).unwrap_err();
    assert!(
        error.to_string().contains("none: cannot open it"),
        "{error}"
    );
    let path = image(&dir);
    assert!(matches!(
        create_file(&path, 4096),
        Err(DeviceError::Exists { .. })
    ));
    let large = dir.path().join("large");
    let error = create_file(&large, 1 << 60).unwrap_err();
    assert!(matches!(error, DeviceError::NoRoom { .. }), "{error}");
    assert!(!large.exists());
}

#[test]
fn a_file_grows_and_does_not_shrink() {
    for way in ways() {
        let dir = tempfile::tempdir().unwrap();
        let device = open(&image(&dir), way).unwrap();
        assert_eq!(device.grow(SIZE_BYTES + 5000).unwrap(), SIZE_BYTES + 4096);
        assert!(matches!(device.grow(4096), Err(DeviceError::Shrink { .. })));
        assert_eq!(device.refresh_size().unwrap(), SIZE_BYTES + 4096);
        run(async {
            device
                .write(SIZE_BYTES, filled(&device, 4096, 3))
                .await
                .0
                .unwrap();
            assert_eq!(read(&device, SIZE_BYTES, 4096).await.unwrap(), [3; 4096]);
        });
    }
}

#[test]
fn zeroed_and_discarded_ranges_of_a_file_read_as_zeros() {
    for way in ways() {
        let dir = tempfile::tempdir().unwrap();
        let device = open(&image(&dir), way).unwrap();
        run(async {
            device
                .write(0, filled(&device, 4 << 20, 7))
                .await
                .0
                .unwrap();
            device.zero(4096, (3 << 20) - 4096).await.unwrap();
            device.flush().await.unwrap();
            let bytes = read(&device, 0, 4 << 20).await.unwrap();
            let (kept, rest) = bytes.split_at(4096);
            let (zeroed, after) = rest.split_at((3 << 20) - 4096);
            assert!(kept.iter().chain(after).all(|&byte| byte == 7));
            assert!(zeroed.iter().all(|&byte| byte == 0));
            device.discard(0, 4096).await.unwrap();
            let byte = read(&device, 0, 4096).await.unwrap()[0];
            assert!(byte == 0 || byte == 7);
        });
    }
}

#[test]
fn buffered_transfers_are_named_and_work() {
    for way in ways() {
        let dir = tempfile::tempdir().unwrap();
        let buffered = OpenOptions {
            direct: false,
            ..options(way)
        };
        let device = Device::open(&image(&dir), &buffered).unwrap();
        let info = device.describe();
        assert!(!info.is_direct && info.missing.iter().any(|text| text.contains("page cache")));
        run(async {
            device.write(0, filled(&device, 8192, 5)).await.0.unwrap();
            device.flush().await.unwrap();
            assert_eq!(read(&device, 4096, 4096).await.unwrap(), [5; 4096]);
        });
    }
}

#[test]
fn a_loop_block_device_works_and_has_one_owner() {
    let name = "io::device::tests::a_loop_block_device_works_and_has_one_owner";
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir);
    let made = Command::new("losetup")
        .args(["--find", "--show"])
        .arg(&path)
        .output();
    let Some(made) = made.ok().filter(|made| made.status.success()) else {
        println!("skipped: {name}: no loop device can be made (needs root and losetup)");
        return;
    };
    let loop_path = PathBuf::from(String::from_utf8(made.stdout).unwrap().trim());
    let tried = std::panic::catch_unwind(|| use_loop_device(&loop_path));
    let freed = Command::new("losetup")
        .arg("--detach")
        .arg(&loop_path)
        .status();
    assert!(freed.is_ok_and(|status| status.success()));
    tried.unwrap();
}

fn use_loop_device(path: &Path) {
    for way in ways() {
        let device = open(path, way).unwrap();
        let info = device.describe();
        assert!(info.is_block_device && info.is_direct, "{info:?}");
        assert_eq!(device.size_bytes(), SIZE_BYTES);
        let error = open(path, way).unwrap_err();
        assert!(matches!(error, DeviceError::InUse { .. }), "{error}");
        assert!(matches!(
            device.grow(2 * SIZE_BYTES),
            Err(DeviceError::NoRoom { .. })
        ));
        run(async {
            device
                .write(4096, filled(&device, 1 << 20, 8))
                .await
                .0
                .unwrap();
            device.flush().await.unwrap();
            device.zero(8192, 8192).await.unwrap();
            device.discard(1 << 19, 1 << 19).await.unwrap();
            let bytes = read(&device, 4096, 12288).await.unwrap();
            assert_eq!(bytes, [[8; 4096], [0; 4096], [0; 4096]].concat());
        });
    }
}

//! Bdevs of SPDK's for the contract: SPDK runs once in this process, with a few bdevs of each kind,
//! and a test has one of them for itself.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use lobos::clock::Entropy;
use lobos::engine::blob::BlobEngine;
use lobos::io::device::{Device, create_file};
use lobos::io::spdk::{Found, PciAccess, Spdk, SpdkOptions, SpdkProcess, StoreOptions, find};
use serde_json::json;

/// One bdev with a formatted store on it, until it is dropped.
pub(crate) struct Bdev {
    name: String,
    open: Mutex<Option<Arc<Spdk>>>,
}

struct Shared {
    process: Arc<SpdkProcess>,
    free: Mutex<Vec<String>>,
    freed: Condvar,
    _directory: tempfile::TempDir,
}

impl Bdev {
    /// Waits for a free bdev of this kind and formats it.
    pub(crate) async fn empty(kind: &str) -> Self {
        let shared = shared();
        let mut free = shared.free.lock().unwrap();
        let name = loop {
            match free.iter().position(|name| name.starts_with(kind)) {
                Some(index) => break free.swap_remove(index),
                None => free = shared.freed.wait(free).unwrap(),
            }
        };
        drop(free);
        let bdev = Self {
            name,
            open: Mutex::new(None),
        };
        let device = match bdev.find() {
            Found::Store(device) => device,
            Found::Nothing(place) => {
                let unfinished = place.create(1 << 20).expect("a blobstore is made");
                unfinished.finish().expect("the blobstore is found")
            }
            Found::Occupied(place) => panic!("{place:?} holds something else"),
        };
        let device = Device::Spdk(bdev.keep(device));
        BlobEngine::format(&device, &Entropy::system(), true)
            .await
            .expect("it is formatted");
        bdev
    }

    /// The device after its blobstore was unloaded and loaded again.
    pub(crate) fn device(&self) -> Device {
        self.close();
        match self.find() {
            Found::Store(device) => Device::Spdk(self.keep(device)),
            other => panic!("there was a store, and now {other:?}"),
        }
    }

    fn find(&self) -> Found {
        let options = StoreOptions {
            idle_buffer_bytes: 16 << 20,
            lock: None,
        };
        find(&shared().process, &self.name, &options).expect("the bdev is there")
    }

    fn keep(&self, device: Arc<Spdk>) -> Arc<Spdk> {
        *self.open.lock().unwrap() = Some(Arc::clone(&device));
        device
    }

    fn close(&self) {
        if let Some(device) = self.open.lock().unwrap().take() {
            device.close().expect("the device closes");
        }
    }
}

impl Drop for Bdev {
    fn drop(&mut self) {
        self.close();
        let shared = shared();
        shared.free.lock().unwrap().push(self.name.clone());
        shared.freed.notify_all();
    }
}

fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut methods = vec![json!({"method": "bdev_set_options", "params": {
            "bdev_io_pool_size": 8191, "bdev_io_cache_size": 256, "bdev_auto_examine": false}})];
        let mut free = Vec::new();
        for index in 0..BDEVS {
            let file = |kind: &str| -> PathBuf {
                let file = directory.path().join(format!("{kind}{index}.img"));
                create_file(&file, IMAGE_BYTES).expect("the image is made");
                file
            };
            let blocks = IMAGE_BYTES / 4096;
            let name = |kind: &str| format!("{kind}{index}");
            methods.push(json!({"method": "bdev_malloc_create", "params": {
                "name": name("Malloc"), "num_blocks": blocks, "block_size": 4096}}));
            methods.push(json!({"method": "bdev_aio_create", "params": {
                "name": name("Aio"), "filename": file("aio"), "block_size": 512}}));
            methods.push(json!({"method": "bdev_uring_create", "params": {
                "name": name("Uring"), "filename": file("uring"), "block_size": 4096}}));
            free.extend(["Malloc", "Aio", "Uring"].map(name));
        }
        let config = json!({"subsystems": [
            {"subsystem": "iobuf", "config": [{"method": "iobuf_set_options",
                "params": {"small_pool_count": 1024, "large_pool_count": 64}}]},
            {"subsystem": "bdev", "config": methods}]});
        let options = SpdkOptions {
            cores: vec![0],
            config_json: config.to_string(),
            rpc: None,
            pci: PciAccess::None,
            no_huge: true,
            memory_mib: 1024,
        };
        Shared {
            process: SpdkProcess::start(options).expect("SPDK starts"),
            free: Mutex::new(free),
            freed: Condvar::new(),
            _directory: directory,
        }
    })
}

const BDEVS: u64 = 3;
const IMAGE_BYTES: u64 = 100 << 20;

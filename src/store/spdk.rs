//! The blob store on SPDK: SPDK started, its device found or made, the engine on it.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{StoreError, refused};
use crate::clock::{Clock, Entropy};
use crate::config::{Spdk, SpdkBdev};
use crate::engine::Durability;
use crate::engine::blob::{BlobEngine, BlobMemory, BlobSettings};
use crate::io::device::{Device, create_file};
use crate::io::spdk::Spdk as SpdkDevice;
use crate::io::spdk::{
    Found, PciAccess, SpdkError, SpdkOptions, SpdkPlace, SpdkProcess, StoreOptions, find,
};

/// A store, and what was done to open it, in lines for the operator.
#[derive(Debug)]
pub struct Opened {
    pub engine: BlobEngine,
    pub lines: Vec<String>,
}

/// Starts SPDK and opens the store for serving; makes it on a device that is empty. Blocks while
/// the device is looked for, as does all of a start.
pub async fn open(settings: &Spdk, clock: Clock, entropy: Entropy) -> Result<Opened, StoreError> {
    let (bdev, options) = start_options(settings)?;
    let lock = make_file(&settings.bdev)?;
    let process = SpdkProcess::start(options)?;
    let store_options = StoreOptions {
        idle_buffer_bytes: settings.buffers_bytes,
        lock,
    };
    let mut lines = Vec::new();
    let device = match find(&process, &bdev, &store_options)? {
        Found::Store(device) => {
            lines.push("Existing blobstore loaded".to_owned());
            device
        }
        Found::Nothing(place) => make(place, settings, &entropy, &mut lines).await?,
        Found::Occupied(place) if settings.force => {
            make(place, settings, &entropy, &mut lines).await?
        }
        Found::Occupied(place) => {
            let (name, product) = place.describe();
            let error = StoreError::SpdkOccupied {
                place: format!("{name} ({product})"),
            };
            place.close();
            return Err(error);
        }
    };
    let (name, product) = device.describe();
    lines.insert(0, format!("SPDK device {name} ({product}) opened"));
    lines.push(format!(
        "Blobstore io unit size: {}",
        device.io_unit_bytes()
    ));
    check_durability(settings, &device)?;
    let blob = BlobSettings {
        durability: settings.durability,
        clock,
        entropy,
        memory: BlobMemory::default(),
        discards: false,
    };
    let began = std::time::Instant::now();
    let path = PathBuf::from(format!("spdk:{name}"));
    let engine = BlobEngine::open(Device::Spdk(device), blob)
        .await
        .map_err(|source| refused(&path, source))?;
    engine
        .ensure_first_bucket()
        .await
        .map_err(|source| StoreError::FirstBucket { path, source })?;
    let objects = engine.info().objects;
    let took = began.elapsed();
    lines.push(format!("Index of {objects} objects rebuilt in {took:.1?}"));
    Ok(Opened { engine, lines })
}

/// Makes a store of all that the device has. Whatever interrupts this, the next start begins anew.
async fn make(
    place: SpdkPlace,
    settings: &Spdk,
    entropy: &Entropy,
    lines: &mut Vec<String>,
) -> Result<Arc<SpdkDevice>, StoreError> {
    let path = PathBuf::from(format!("spdk:{}", place.describe().0));
    let unfinished = place.create(settings.cluster_bytes)?;
    let device = Device::Spdk(Arc::clone(unfinished.device()));
    BlobEngine::format(&device, entropy, true)
        .await
        .map_err(|source| refused(&path, source))?;
    device.flush().await.map_err(|source| SpdkError::Store {
        name: path.display().to_string().into(),
        doing: "flush it",
        source,
    })?;
    drop(device);
    let device = unfinished.finish()?;
    lines.push(format!(
        "New blobstore created with clusters of {} bytes",
        settings.cluster_bytes
    ));
    Ok(device)
}

/// `strict` means something only where a flush does, or where the operator says that nothing is
/// lost without one.
fn check_durability(settings: &Spdk, device: &Arc<SpdkDevice>) -> Result<(), StoreError> {
    let can_lose = settings.may_lose_writes && !device.can_flush();
    if settings.durability == Durability::Strict && can_lose {
        let (name, product) = device.describe();
        let error = StoreError::SpdkCannotFlush {
            place: format!("{name} ({product})"),
        };
        device.close()?;
        return Err(error);
    }
    Ok(())
}

/// Makes the file of an `aio` or `uring` bdev if it is missing and a size is given; gives its path,
/// to be locked.
fn make_file(bdev: &SpdkBdev) -> Result<Option<PathBuf>, StoreError> {
    let (SpdkBdev::Aio { path, size_bytes } | SpdkBdev::Uring { path, size_bytes }) = bdev else {
        return Ok(None);
    };
    match size_bytes {
        Some(size_bytes) if !path.exists() => create_file(path, *size_bytes)?,
        None if !path.exists() => return Err(StoreError::SpdkFileMissing { path: path.clone() }),
        _ => {}
    }
    Ok(Some(path.clone()))
}

/// The name of the bdev to use, and how SPDK is started so that it is there.
fn start_options(settings: &Spdk) -> Result<(String, SpdkOptions), StoreError> {
    let file = |path: &PathBuf| path.display().to_string();
    let block_bytes = 4096;
    let (name, pci, method) = match &settings.bdev {
        SpdkBdev::Nvme { pci } => {
            let attach = json!({"name": "Nvme0", "trtype": "PCIe", "traddr": pci});
            let method = ("bdev_nvme_attach_controller", attach);
            (
                "Nvme0n1".to_owned(),
                PciAccess::One(pci.clone()),
                Some(method),
            )
        }
        SpdkBdev::Malloc { size_bytes } => {
            let blocks = size_bytes / block_bytes;
            let disk = json!({"name": "Malloc0", "num_blocks": blocks, "block_size": block_bytes});
            let method = ("bdev_malloc_create", disk);
            ("Malloc0".to_owned(), PciAccess::None, Some(method))
        }
        SpdkBdev::Aio { path, .. } => {
            let disk = json!({"name": "Aio0", "filename": file(path), "block_size": block_bytes});
            (
                "Aio0".to_owned(),
                PciAccess::None,
                Some(("bdev_aio_create", disk)),
            )
        }
        SpdkBdev::Uring { path, .. } => {
            let disk = json!({"name": "Uring0", "filename": file(path), "block_size": block_bytes});
            let method = ("bdev_uring_create", disk);
            ("Uring0".to_owned(), PciAccess::None, Some(method))
        }
        SpdkBdev::Json { name, .. } => (name.to_string(), PciAccess::Any, None),
    };
    let mut config = match &settings.bdev {
        SpdkBdev::Json { file, .. } => read_json(file)?,
        _ => json!({"subsystems": []}),
    };
    let method = method.map(|(method, params)| json!({"method": method, "params": params}));
    complete(&mut config, method);
    // Without a device on the bus there is none to look for.
    let uses_pci = config.to_string().contains("\"PCIe\"");
    let options = SpdkOptions {
        cores: settings.cores.clone(),
        config_json: config.to_string(),
        rpc: settings.rpc.clone(),
        pci: match pci {
            PciAccess::Any if !uses_pci => PciAccess::None,
            pci => pci,
        },
        no_huge: settings.no_huge,
        memory_mib: settings.memory_mib,
    };
    Ok((name, options))
}

fn read_json(file: &PathBuf) -> Result<Value, StoreError> {
    let wrong = |why: String| StoreError::SpdkJson {
        path: file.clone(),
        why,
    };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// Puts before what is there: no bdev is claimed by a module that finds something on it, an NVMe
/// drive flushes when it is told to, and pools are as large as one store needs.
fn complete(config: &mut Value, method: Option<Value>) {
    let has = |config: &Value, method: &str| config.to_string().contains(method);
    let mut bdev = Vec::new();
    if !has(config, "\"bdev_set_options\"") {
        bdev.push(json!({"method": "bdev_set_options", "params": {
            "bdev_io_pool_size": 8191, "bdev_io_cache_size": 256, "bdev_auto_examine": false}}));
    }
    if !has(config, "\"bdev_nvme_set_options\"") {
        bdev.push(json!({"method": "bdev_nvme_set_options", "params": {"enable_flush": true}}));
    }
    let iobuf = json!({"subsystem": "iobuf", "config": [{"method": "iobuf_set_options",
        "params": {"small_pool_count": 1024, "large_pool_count": 64}}]});
    let has_iobuf = has(config, "\"iobuf_set_options\"");
    let Some(subsystems) = config.get_mut("subsystems").and_then(Value::as_array_mut) else {
        // SPDK says what is wrong with it.
        return;
    };
    let is_bdev =
        |subsystem: &&mut Value| subsystem.get("subsystem").and_then(Value::as_str) == Some("bdev");
    let found = subsystems.iter_mut().find(is_bdev);
    match found.and_then(|found| found.get_mut("config")?.as_array_mut()) {
        Some(methods) => {
            bdev.append(methods);
            *methods = bdev;
            methods.extend(method);
        }
        None => {
            bdev.extend(method);
            subsystems.push(json!({"subsystem": "bdev", "config": bdev}));
        }
    }
    if !has_iobuf {
        subsystems.insert(0, iobuf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_configured_of_spdk_stays_and_what_matters_stands_before_it() {
        let mut config = json!({"subsystems": [{"subsystem": "bdev", "config": [
            {"method": "bdev_nvme_set_options", "params": {"enable_flush": true}},
            {"method": "bdev_raid_create", "params": {}}]}]});
        complete(&mut config, None);
        let methods: Vec<_> = config["subsystems"][1]["config"]
            .as_array()
            .unwrap()
            .iter()
            .map(|method| method["method"].as_str().unwrap().to_owned())
            .collect();
        let expected = [
            "bdev_set_options",
            "bdev_nvme_set_options",
            "bdev_raid_create",
        ];
        assert_eq!(methods, expected);
        assert_eq!(config["subsystems"][0]["subsystem"], "iobuf");
    }
}

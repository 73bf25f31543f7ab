//! `[spdk_blobstore]`: the blob store on a bdev of SPDK's.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::raw;
use super::units::Size;
use super::{ConfigError, invalid};
use crate::engine::Durability;

/// The blob store on SPDK.
#[derive(Clone, Debug)]
pub struct Spdk {
    pub bdev: SpdkBdev,
    /// Of a blobstore that is made.
    pub cluster_bytes: u32,
    /// Each runs a reactor, which takes all of its time.
    pub cores: Vec<u32>,
    /// What SPDK takes at its start, beside the size of a malloc bdev.
    pub memory_mib: u32,
    pub no_huge: bool,
    pub durability: Durability,
    /// `false`: the operator says that the device loses nothing that it has taken.
    pub may_lose_writes: bool,
    /// What is on the device and is no store of Lobos' may be destroyed.
    pub force: bool,
    /// SPDK's own control socket.
    pub rpc: Option<PathBuf>,
    pub buffers_bytes: usize,
}

/// What the store lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpdkBdev {
    /// An NVMe drive at a PCI address.
    Nvme { pci: Box<str> },
    /// Memory, for tests: it is lost with the process.
    Malloc { size_bytes: u64 },
    Aio {
        path: PathBuf,
        size_bytes: Option<u64>,
    },
    Uring {
        path: PathBuf,
        size_bytes: Option<u64>,
    },
    /// A bdev that a configuration file of SPDK's makes.
    Json { file: PathBuf, name: Box<str> },
}

/// Whether the device may lose what it has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolatileCache {
    /// As the bdev says.
    #[default]
    Ask,
    None,
}

/// `has_other_store`: there is a blob store beside.
pub(super) fn build(
    raw: raw::SpdkBlobstore,
    base: &Path,
    durability: Option<Durability>,
    has_other_store: bool,
) -> Result<Option<Spdk>, ConfigError> {
    let Some(bdev) = build_bdev(&raw, base)? else {
        return Ok(None);
    };
    if has_other_store {
        return Err(invalid(
            "`blob.path` and [spdk_blobstore] both name a blob store; there can be one, so keep \
             one of them",
        ));
    }
    let cluster = raw.cluster_sz.map_or(1 << 20, |size| size.bytes);
    let cluster_bytes = u32::try_from(cluster)
        .ok()
        .filter(|bytes| (64 << 10..=1 << 30).contains(bytes) && bytes.is_power_of_two())
        .ok_or_else(|| {
            invalid("`spdk_blobstore.cluster_sz` must be a power of two from 64 KiB to 1 GiB")
        })?;
    let memory = raw.memory.map_or(512 << 20, |size| size.bytes);
    if !(128 << 20..=64 << 30).contains(&memory) {
        return Err(invalid("`spdk_blobstore.memory` must be 128 MiB to 64 GiB"));
    }
    let own = match &bdev {
        SpdkBdev::Malloc { size_bytes } => *size_bytes,
        _ => 0,
    };
    let memory_mib = u32::try_from((memory + own).div_ceil(1 << 20))
        .map_err(|_| invalid("`spdk_blobstore.malloc` is more than SPDK can take"))?;
    let buffers = raw.buffers.map_or(64 << 20, |size| size.bytes);
    if buffers > memory {
        return Err(invalid(
            "`spdk_blobstore.buffers` is more than `spdk_blobstore.memory`, which holds them",
        ));
    }
    Ok(Some(Spdk {
        bdev,
        cluster_bytes,
        cores: cores(raw.reactor_mask.as_deref().unwrap_or("0x1"))?,
        memory_mib,
        no_huge: raw.no_huge.unwrap_or(false),
        durability: durability.or(raw.durability).unwrap_or_default(),
        may_lose_writes: raw.volatile_cache.unwrap_or_default() == VolatileCache::Ask,
        force: raw.force.unwrap_or(false),
        rpc: raw.rpc.map(|path| base.join(path)),
        buffers_bytes: usize::try_from(buffers).unwrap_or(usize::MAX),
    }))
}

fn build_bdev(raw: &raw::SpdkBlobstore, base: &Path) -> Result<Option<SpdkBdev>, ConfigError> {
    let size = |size: &Option<Size>| size.map(|size| size.bytes);
    let nvme = raw.pci.clone().map(|pci| SpdkBdev::Nvme { pci });
    let malloc = size(&raw.malloc).map(|size_bytes| SpdkBdev::Malloc { size_bytes });
    let aio = raw.aio.as_ref().map(|path| SpdkBdev::Aio {
        path: base.join(path),
        size_bytes: size(&raw.size),
    });
    let uring = raw.uring.as_ref().map(|path| SpdkBdev::Uring {
        path: base.join(path),
        size_bytes: size(&raw.size),
    });
    let json = match (&raw.json, &raw.bdev) {
        (Some(file), Some(name)) => Some(SpdkBdev::Json {
            file: base.join(file),
            name: name.clone(),
        }),
        (None, None) => None,
        _ => {
            return Err(invalid(
                "`spdk_blobstore.json` and `spdk_blobstore.bdev` go together: the file that makes \
                 bdevs, and the name of the one to be used",
            ));
        }
    };
    let mut given = [nvme, malloc, aio, uring, json].into_iter().flatten();
    let bdev = given.next();
    if given.next().is_some() {
        return Err(invalid(
            "[spdk_blobstore] names several devices; keep one of `pci`, `malloc`, `aio`, `uring` \
             and `json`",
        ));
    }
    let has_file = matches!(bdev, Some(SpdkBdev::Aio { .. } | SpdkBdev::Uring { .. }));
    if raw.size.is_some() && !has_file {
        return Err(invalid(
            "`spdk_blobstore.size` is given without a file: it goes with `aio` or `uring`",
        ));
    }
    Ok(bdev)
}

/// The cores of a mask such as `0x1` or `3`, in hexadecimal as SPDK reads it.
fn cores(mask: &str) -> Result<Vec<u32>, ConfigError> {
    let digits = mask.strip_prefix("0x").unwrap_or(mask);
    match u64::from_str_radix(digits, 16) {
        Ok(bits) if bits != 0 => Ok((0..64).filter(|core| bits >> core & 1 == 1).collect()),
        _ => Err(ConfigError::Invalid(format!(
            "`spdk_blobstore.reactor_mask` is `{mask}`; it is a mask of cores in hexadecimal, \
             such as \"0x1\" for core 0"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(source: &str) -> Result<Option<Spdk>, String> {
        let raw = toml::from_str(source).map_err(|error| error.to_string())?;
        build(raw, Path::new("/etc"), None, false).map_err(|error| error.to_string())
    }

    #[test]
    fn one_device_is_named_and_its_defaults_are_the_documented_ones() {
        let spdk = built("pci = \"0000:c1:00.0\"\n").unwrap().unwrap();
        let pci = "0000:c1:00.0".into();
        assert_eq!(spdk.bdev, SpdkBdev::Nvme { pci });
        assert_eq!((spdk.cluster_bytes, spdk.memory_mib), (1 << 20, 512));
        assert_eq!(spdk.cores, [0]);
        assert!(spdk.may_lose_writes && !spdk.no_huge && !spdk.force);
        assert!(built("cluster_sz = \"1 MiB\"\n").unwrap().is_none());
        let malloc = built("malloc = \"1 GiB\"\nreactor_mask = \"0x5\"\n");
        let malloc = malloc.unwrap().unwrap();
        assert_eq!((malloc.memory_mib, malloc.cores), (1536, vec![0, 2]));
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_its_key() {
        for (source, part) in [
            ("pci = \"0000:c1:00.0\"\nmalloc = \"1 GiB\"\n", "several"),
            (
                "malloc = \"1 GiB\"\nsize = \"1 GiB\"\n",
                "`spdk_blobstore.size`",
            ),
            ("json = \"a.json\"\n", "`spdk_blobstore.bdev`"),
            (
                "aio = \"a\"\ncluster_sz = 100000\n",
                "`spdk_blobstore.cluster_sz`",
            ),
            (
                "aio = \"a\"\nreactor_mask = \"0\"\n",
                "`spdk_blobstore.reactor_mask`",
            ),
            (
                "aio = \"a\"\nmemory = \"1 MiB\"\n",
                "`spdk_blobstore.memory`",
            ),
            (
                "aio = \"a\"\nbuffers = \"1 GiB\"\n",
                "`spdk_blobstore.buffers`",
            ),
        ] {
            let error = built(source).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}

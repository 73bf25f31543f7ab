//! Certificate and key.

use std::fs;
use std::path::{Path, PathBuf};

use super::{ConfigError, Tls, raw};

/// Both files must be there; `tls::load` looks into them.
pub(super) fn build_tls(raw: raw::Tls, base: &Path) -> Result<Tls, ConfigError> {
    let readable = |key: &str, path: PathBuf| match fs::File::open(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(ConfigError::Invalid(format!(
            "`tls.{key}` names {}, which cannot be read: {error}",
            path.display()
        ))),
    };
    Ok(Tls {
        cert: readable("cert", base.join(raw.cert))?,
        key: readable("key", base.join(raw.key))?,
    })
}

//! Certificates: read at start and again when the operator says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_rustls::rustls;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config;

/// Why there is no TLS. Names the file and what must be in it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the certificate chain {}: {source}; it must be a PEM file", path.display())]
    Cert { path: PathBuf, source: pem::Error },
    #[error("{} holds no certificate; it must be a PEM file with the chain, the server's first", path.display())]
    NoCert { path: PathBuf },
    #[error("cannot read the private key {}: {source}; it must be a PEM file", path.display())]
    Key { path: PathBuf, source: pem::Error },
    #[error("the certificate {} and the key {} do not work together: {source}", cert.display(), key.display())]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
    #[error("TLS tickets cannot be made: {source}")]
    Tickets { source: rustls::Error },
}

/// Certificates that were read, and where to read them again.
#[derive(Clone, Debug)]
pub struct Certificates {
    files: config::Tls,
    current: Arc<ArcSwap<ServerConfig>>,
}

impl Certificates {
    pub fn read(files: &config::Tls) -> Result<Self, TlsError> {
        Ok(Self {
            files: files.clone(),
            current: Arc::new(ArcSwap::from(load(files)?)),
        })
    }

    /// Reads them again; if they do not fit together, the old ones stay.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(load(&self.files)?);
        Ok(())
    }

    /// The settings that each new connection takes.
    pub fn current(&self) -> &Arc<ArcSwap<ServerConfig>> {
        &self.current
    }
}

/// The settings of new connections: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
pub fn load(files: &config::Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = read_chain(&files.cert)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::Key {
        path: files.key.clone(),
        source,
    })?;
    let provider = Arc::new(ring::default_provider());
    let pair = |source| TlsError::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = ring::Ticketer::new().map_err(|source| TlsError::Tickets { source })?;
    Ok(Arc::new(config))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::Cert {
        path: path.into(),
        source,
    };
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::NoCert { path: path.into() });
    }
    Ok(chain)
}

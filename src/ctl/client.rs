//! A connection to the control plane: TCP, TLS or a Unix socket, HTTP/2 over it.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};

use super::CtlError;
use crate::config::{CONTROL_PORT, Listen};
use crate::conn::LocalExecutor;
use crate::control::proto::control_plane_client::ControlPlaneClient;

pub(super) type Client = ControlPlaneClient<Channel>;

/// Connects to `address`, or to where a server listens unless it is told otherwise.
pub(super) async fn connect(
    address: Option<Listen>,
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
) -> Result<Client, CtlError> {
    let address = address.unwrap_or_else(|| Listen::Tcp {
        host: "127.0.0.1".into(),
        port: CONTROL_PORT,
    });
    let token = token_file.as_deref().map(bearer).transpose()?;
    let unreachable = |why: String| CtlError::Unreachable {
        address: address.to_string(),
        why,
    };
    let reached = tokio::time::timeout(CONNECT_MAX, reach(&address, ca.as_deref())).await;
    let sender = match reached {
        Ok(Ok(sender)) => sender,
        Ok(Err(Failed::Local(why))) => return Err(CtlError::Local(why)),
        Ok(Err(Failed::Remote(why))) => return Err(unreachable(why)),
        Err(_) => return Err(unreachable("it took too long".to_owned())),
    };
    let origin = match (&address, &ca) {
        (Listen::Unix(_), _) => Uri::from_static("http://localhost"),
        (Listen::Tcp { .. }, ca) => {
            let scheme = if ca.is_some() { "https" } else { "http" };
            let uri = format!("{scheme}://{address}").parse();
            uri.map_err(|error| CtlError::Local(format!("{address}: {error}")))?
        }
    };
    Ok(ControlPlaneClient::with_origin(
        Channel { sender, token },
        origin,
    ))
}

enum Failed {
    /// What this side was given makes no sense.
    Local(String),
    Remote(String),
}

async fn reach(address: &Listen, ca: Option<&Path>) -> Result<SendRequest<Body>, Failed> {
    let remote = |error: std::io::Error| Failed::Remote(error.to_string());
    match (address, ca) {
        (Listen::Unix(path), _) => {
            handshake(UnixStream::connect(path).await.map_err(remote)?).await
        }
        (Listen::Tcp { host, port }, None) => {
            let socket = TcpStream::connect((&**host, *port)).await.map_err(remote)?;
            handshake(socket).await
        }
        (Listen::Tcp { host, port }, Some(ca)) => {
            let name = ServerName::try_from(host.to_string());
            let name = name.map_err(|error| Failed::Local(format!("{host}: {error}")))?;
            let settings = trusting(ca).map_err(Failed::Local)?;
            let socket = TcpStream::connect((&**host, *port)).await.map_err(remote)?;
            let tls = TlsConnector::from(Arc::new(settings)).connect(name, socket);
            handshake(tls.await.map_err(remote)?).await
        }
    }
}

async fn handshake<S>(socket: S) -> Result<SendRequest<Body>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = http2::Builder::new(LocalExecutor);
    builder.timer(TokioTimer::new());
    let (sender, connection) = builder
        .handshake(TokioIo::new(socket))
        .await
        .map_err(|error| Failed::Remote(error.to_string()))?;
    tokio::task::spawn_local(async move {
        // Its end is told by the calls that it cuts.
        let _ = connection.await;
    });
    Ok(sender)
}

fn trusting(ca: &Path) -> Result<ClientConfig, String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("{}: {error}", ca.display());
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca).map_err(|error| unreadable(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unreadable(&error))?;
    let mut settings = builder.with_root_certificates(roots).with_no_client_auth();
    settings.alpn_protocols = vec![b"h2".to_vec()];
    Ok(settings)
}

/// The header that carries the token of a file.
fn bearer(file: &Path) -> Result<HeaderValue, CtlError> {
    let unusable = |why: &dyn std::fmt::Display| {
        CtlError::Local(format!("the token file {}: {why}", file.display()))
    };
    let mut text = String::new();
    std::fs::File::open(file)
        .and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| unusable(&error))?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
        .map_err(|_| unusable(&"it holds no token"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// One HTTP/2 connection as tonic's client wants it.
#[derive(Clone, Debug)]
pub(super) struct Channel {
    sender: SendRequest<Body>,
    token: Option<HeaderValue>,
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        Box::pin(self.sender.send_request(request))
    }
}

const CONNECT_MAX: Duration = Duration::from_secs(10);
const TOKEN_BYTES_MAX: u64 = 4096;

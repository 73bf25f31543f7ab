//! Listening sockets: bound here, or handed in by the service manager.

use std::io;
use std::net::{self, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockAddr, Type};

use crate::config::Listen;
use crate::s3::Local;
use crate::shard::Socket;

/// One listening socket. A Unix socket's file is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Listening,
    local: Arc<Local>,
    /// As the operator may paste it: `127.0.0.1:8080`, `unix:/run/lobos.sock`.
    name: String,
}

#[derive(Debug)]
enum Listening {
    Tcp(net::TcpListener),
    Unix {
        socket: unix::net::UnixListener,
        /// The file to remove at the end, if it is still this socket's.
        file: Option<SocketFile>,
    },
}

/// Why Lobos does not listen there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {listen}: {source}{}", hint(source))]
    Bind { listen: String, source: io::Error },
    #[error("cannot listen on {}: another server answers there", path.display())]
    InUse { path: PathBuf },
    #[error("cannot listen on {}: it exists and is no socket; remove it or choose another path", path.display())]
    NoSocket { path: PathBuf },
    #[error(
        "the socket number {index} that the service manager handed in cannot be used: {source}"
    )]
    HandedIn { index: usize, source: io::Error },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program listens there, choose another port with --listen"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has the address",
        _ => "",
    }
}

impl Listener {
    pub fn bind(listen: &Listen) -> Result<Self, ListenError> {
        match listen {
            Listen::Tcp { host, port } => {
                Self::bind_tcp(host, *port).map_err(|source| ListenError::Bind {
                    listen: listen.to_string(),
                    source,
                })
            }
            Listen::Unix(path) => Self::bind_unix(path),
        }
    }

    fn bind_tcp(host: &str, port: u16) -> io::Result<Self> {
        let mut addresses = (host, port).to_socket_addrs()?;
        let address = addresses
            .next()
            .ok_or_else(|| io::Error::other("the name has no address"))?;
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let name = Some(host).filter(|host| host.parse::<net::IpAddr>().is_err());
        Self::tcp(socket.into(), name)
    }

    fn tcp(socket: net::TcpListener, host: Option<&str>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let local = Local {
            ip: Some(address.ip().to_canonical()),
            host: host.map(Into::into),
            ..Local::default()
        };
        Ok(Self {
            socket: Listening::Tcp(socket),
            local: Arc::new(local),
            name: address.to_string(),
        })
    }

    fn bind_unix(path: &Path) -> Result<Self, ListenError> {
        remove_stale(path)?;
        let bound = || -> io::Result<Self> {
            let socket =
                socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            socket.listen(BACKLOG)?;
            Ok(Self {
                socket: Listening::Unix {
                    socket: OwnedFd::from(socket).into(),
                    file: SocketFile::of(path),
                },
                local: Arc::default(),
                name: format!("unix:{}", path.display()),
            })
        };
        bound().map_err(|source| ListenError::Bind {
            listen: format!("unix:{}", path.display()),
            source,
        })
    }

    /// The sockets that systemd or another process manager opened for this process.
    pub fn handed_in() -> Result<Vec<Self>, ListenError> {
        let mut handed = listenfd::ListenFd::from_env();
        (0..handed.len())
            .map(|index| {
                let taken = match handed.take_tcp_listener(index) {
                    Ok(Some(socket)) => Self::tcp(socket, None),
                    Ok(None) => Err(io::Error::other("it was handed in twice")),
                    Err(_) => Self::take_unix(&mut handed, index),
                };
                taken.map_err(|source| ListenError::HandedIn { index, source })
            })
            .collect()
    }

    fn take_unix(handed: &mut listenfd::ListenFd, index: usize) -> io::Result<Self> {
        let socket = handed
            .take_unix_listener(index)?
            .ok_or_else(|| io::Error::other("it was handed in twice"))?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let path = address.as_pathname().unwrap_or(Path::new("(unnamed)"));
        Ok(Self {
            name: format!("unix:{}", path.display()),
            socket: Listening::Unix { socket, file: None },
            local: Arc::default(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bound address; `None` for a Unix socket.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Listening::Tcp(socket) => socket.local_addr().ok(),
            Listening::Unix { .. } => None,
        }
    }

    /// Only programs of this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.local.ip.is_none_or(|ip| ip.is_loopback())
    }

    /// Joins the event loop that is running.
    pub fn watch(self) -> io::Result<Watched> {
        let door = match self.socket {
            Listening::Tcp(socket) => Door::Tcp(tokio::net::TcpListener::from_std(socket)?),
            Listening::Unix { socket, file } => Door::Unix {
                socket: tokio::net::UnixListener::from_std(socket)?,
                _file: file,
            },
        };
        Ok(Watched {
            door,
            local: self.local,
        })
    }
}

/// A listening socket on an event loop.
#[derive(Debug)]
pub struct Watched {
    door: Door,
    local: Arc<Local>,
}

#[derive(Debug)]
enum Door {
    Tcp(tokio::net::TcpListener),
    Unix {
        socket: tokio::net::UnixListener,
        _file: Option<SocketFile>,
    },
}

impl Watched {
    /// The next connection, free of this event loop.
    pub async fn accept(&self) -> io::Result<(Socket, Local)> {
        match &self.door {
            Door::Unix { socket, .. } => {
                let socket = socket.accept().await?.0.into_std()?;
                Ok((Socket::Unix(socket), Local::clone(&self.local)))
            }
            Door::Tcp(socket) => {
                let (socket, peer) = socket.accept().await?;
                let socket = socket.into_std()?;
                socket.set_nodelay(true)?;
                let mut local = self.local_of(&socket)?;
                local.peer = Some(peer.ip().to_canonical());
                Ok((Socket::Tcp(socket), local))
            }
        }
    }

    /// A socket that listens on all addresses learns from each connection which one was meant.
    fn local_of(&self, socket: &net::TcpStream) -> io::Result<Local> {
        let mut local = Local::clone(&self.local);
        if local.ip.is_some_and(|ip| ip.is_unspecified()) {
            local.ip = Some(socket.local_addr()?.ip().to_canonical());
        }
        Ok(local)
    }
}

/// Removes a socket file that no server answers behind.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !meta.file_type().is_socket() {
        return Err(ListenError::NoSocket { path: path.into() });
    }
    match unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| ListenError::Bind {
                listen: format!("unix:{}", path.display()),
                source,
            })
        }
        _ => Err(ListenError::InUse { path: path.into() }),
    }
}

/// The file of a bound Unix socket.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> Option<Self> {
        let (device, inode) = Self::ids(path)?;
        Some(Self {
            path: path.into(),
            device,
            inode,
        })
    }

    fn ids(path: &Path) -> Option<(u64, u64)> {
        let meta = std::fs::symlink_metadata(path).ok()?;
        Some((meta.st_dev(), meta.st_ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::ids(&self.path) == Some((self.device, self.inode)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Connections that wait in the kernel; it cuts this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listen = Listen::Unix(path.clone());
        drop(unix::net::UnixListener::bind(&path).unwrap());
        let first = Listener::bind(&listen).unwrap();
        let second = Listener::bind(&listen).unwrap_err();
        assert!(matches!(second, ListenError::InUse { .. }), "{second}");
        drop(first);
        assert!(!path.exists(), "the file goes with its listener");
        std::fs::write(&path, "data").unwrap();
        let file = Listener::bind(&listen).unwrap_err();
        assert!(matches!(file, ListenError::NoSocket { .. }), "{file}");
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn port_zero_gets_a_name_that_can_be_connected_to() {
        let listen = Listen::Tcp {
            host: "127.0.0.1".into(),
            port: 0,
        };
        let listener = Listener::bind(&listen).unwrap();
        net::TcpStream::connect(listener.name()).unwrap();
        assert!(listener.is_loopback());
        let again: Listen = listener.name().parse().unwrap();
        let error = Listener::bind(&again).unwrap_err().to_string();
        assert!(error.contains("another program listens there"), "{error}");
    }
}

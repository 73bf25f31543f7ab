//! Who may call the control plane. Nobody is known by a built-in secret: a caller on this machine
//! is known by the user that holds its end of the connection, any other by a token.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::io::peer;

/// The other end of a connection, found out once, before a byte of it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Root, the user that this process runs as, or a stranger with the token.
    Trusted { who: String },
    /// Anybody else; a token may still let its calls in.
    Stranger { who: String },
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trusted { who } | Self::Stranger { who } => f.write_str(who),
        }
    }
}

/// User ids as this process sees them.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    own: u32,
    /// Stands for every user of another namespace, so it is nobody's.
    overflow: u32,
}

impl Ids {
    pub fn of_process() -> Self {
        let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid");
        let overflow = overflow.ok().and_then(|text| text.trim().parse().ok());
        Self {
            own: rustix::process::geteuid().as_raw(),
            overflow: overflow.unwrap_or(OVERFLOW_UID),
        }
    }

    fn judge(self, uid: u32) -> Caller {
        if (uid == 0 || uid == self.own) && uid != self.overflow {
            return Caller::Trusted {
                who: format!("uid {uid}"),
            };
        }
        Caller::Stranger {
            who: format!("uid {uid}"),
        }
    }

    pub fn of_unix(self, socket: &UnixStream) -> Caller {
        match rustix::net::sockopt::socket_peercred(socket) {
            Ok(peer) => self.judge(peer.uid.as_raw()),
            Err(errno) => Caller::Stranger {
                who: format!("a Unix socket without credentials ({errno})"),
            },
        }
    }

    /// Only a connection that its maker still holds open counts: the kernel reports what was left
    /// behind as root's.
    pub fn of_tcp(self, socket: &TcpStream) -> Caller {
        let addresses = socket
            .peer_addr()
            .and_then(|peer| Ok((peer, socket.local_addr()?)));
        match addresses {
            Ok((peer, local)) if is_loopback(peer) && is_loopback(local) => {
                match peer::socket_owner(peer, local) {
                    Ok(owner) if owner.established && owner.inode != 0 => self.judge(owner.uid),
                    Ok(_) => Caller::Stranger {
                        who: format!("{peer}, which was closed at once"),
                    },
                    Err(error) => Caller::Stranger {
                        who: format!("{peer}, whose owner is not known ({error})"),
                    },
                }
            }
            Ok((peer, _)) => Caller::Stranger {
                who: peer.to_string(),
            },
            Err(error) => Caller::Stranger {
                who: format!("a connection that is gone ({error})"),
            },
        }
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The token that lets strangers in, if one is configured.
#[derive(Debug)]
pub struct Token {
    text: Option<Zeroizing<String>>,
}

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the token file {} cannot be read: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the token file {} can be read by others (mode {mode:04o}); run chmod 600 on it", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "the token file {} must hold one line of {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} visible \
         ASCII characters, such as `openssl rand -hex 32` prints",
        path.display()
    )]
    Weak { path: PathBuf },
}

impl Token {
    pub fn read(file: Option<&Path>) -> Result<Self, TokenError> {
        let Some(path) = file else {
            return Ok(Self { text: None });
        };
        let io_error = |source| TokenError::Io {
            path: path.into(),
            source,
        };
        let file = fs::File::open(path).map_err(io_error)?;
        let mode = file.metadata().map_err(io_error)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Exposed {
                path: path.into(),
                mode,
            });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(2 * TOKEN_BYTES_MAX as u64)
            .read_to_string(&mut text)
            .map_err(io_error)?;
        let token = Zeroizing::new(text.trim().to_owned());
        let is_visible = token.bytes().all(|b| b.is_ascii_graphic());
        if !is_visible || !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
            return Err(TokenError::Weak { path: path.into() });
        }
        Ok(Self { text: Some(token) })
    }

    pub fn is_set(&self) -> bool {
        self.text.is_some()
    }

    /// Whether a call carries it.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.text else {
            return false;
        };
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        let given = value.as_bytes();
        let Some((scheme, given)) = given.split_at_checked(BEARER.len()) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(BEARER) && token.as_bytes().ct_eq(given).into()
    }
}

const BEARER: &[u8] = b"Bearer ";
const TOKEN_BYTES_MIN: usize = 16;
const TOKEN_BYTES_MAX: usize = 1024;
/// What the kernel uses unless it is told otherwise.
const OVERFLOW_UID: u32 = 65534;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn root_and_the_own_user_are_trusted_and_the_overflow_user_never_is() {
        let ids = Ids {
            own: 1000,
            overflow: 65534,
        };
        for uid in [0, 1000] {
            assert!(matches!(ids.judge(uid), Caller::Trusted { .. }), "{uid}");
        }
        for uid in [1, 1001, 65534, u32::MAX] {
            assert!(matches!(ids.judge(uid), Caller::Stranger { .. }), "{uid}");
        }
        let nobody = Ids { own: 65534, ..ids };
        assert!(matches!(nobody.judge(65534), Caller::Stranger { .. }));
    }

    #[test]
    fn a_token_is_taken_whole_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "0123456789abcdef\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let token = Token::read(Some(&path)).unwrap();
        let has = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            token.is_in(&headers)
        };
        assert!(has(&["Bearer 0123456789abcdef"]) && has(&["bearer 0123456789abcdef"]));
        for wrong in [
            &["Bearer 0123456789abcdeg"] as &[_],
            &["Bearer 0123456789abcdef0"],
            &["Bearer "],
            &["Bearer"],
            &["Basic 0123456789abcdef"],
            &["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"],
            &[],
        ] {
            assert!(!has(wrong), "{wrong:?}");
        }
        let none = Token::read(None).unwrap();
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, "Bearer ".parse().unwrap());
        assert!(!none.is_in(&headers) && !none.is_set());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Token::read(Some(&path)),
            Err(TokenError::Exposed { .. })
        ));
        for weak in ["short\n", "has spaces in its midst\n", ""] {
            fs::write(&path, weak).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(
                matches!(Token::read(Some(&path)), Err(TokenError::Weak { .. })),
                "{weak}"
            );
        }
    }
}

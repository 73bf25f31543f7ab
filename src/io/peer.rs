//! Which user's socket is at the other end of a TCP connection within this machine.
//!
//! The kernel's socket diagnostics (`sock_diag(7)`, `inet_diag.h`) are asked for the one socket
//! whose local address is the peer's and whose remote address is ours.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use rustix::net::{recv, send, socket_with};

/// A TCP socket, as the kernel describes it to a third party.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    /// The user that made the socket, as this process's user namespace knows it. 0 also for a
    /// socket that no process has any more: look at `inode` and `established`.
    pub uid: u32,
    /// 0: no process holds the socket.
    pub inode: u32,
    /// Neither side has begun to close the connection.
    pub established: bool,
}

/// The socket of a connection's other end. `peer` and `local` are the addresses of our end; IPv4
/// in IPv6 counts as IPv4. An error if there is no such socket on this machine.
pub fn socket_owner(peer: SocketAddr, local: SocketAddr) -> io::Result<SocketOwner> {
    let (peer, local) = (canonical(peer), canonical(local));
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let protocol = Some(netlink::SOCK_DIAG);
    let diagnostics = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
    send(&diagnostics, &question(peer, local)?, SendFlags::empty())?;
    // The kernel answers within the call that asked.
    let mut reply = [0; REPLY_BYTES_MAX];
    let (size, _) = recv(&diagnostics, &mut reply, RecvFlags::empty())?;
    answer(reply.get(..size).unwrap_or_default(), peer, local)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// `struct nlmsghdr`, then `struct inet_diag_req_v2`.
fn question(peer: SocketAddr, local: SocketAddr) -> io::Result<Vec<u8>> {
    let family = match (peer.ip(), local.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => AddressFamily::INET,
        (IpAddr::V6(_), IpAddr::V6(_)) => AddressFamily::INET6,
        _ => return Err(malformed("two families of addresses")),
    };
    let mut message = Vec::with_capacity(QUESTION_BYTES);
    message.extend(
        u32::try_from(QUESTION_BYTES)
            .unwrap_or_default()
            .to_ne_bytes(),
    );
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port: one question on a socket of its own needs neither.
    message.extend([0; 8]);
    message.push(u8::try_from(family.as_raw()).unwrap_or_default());
    message.push(IPPROTO_TCP);
    // No extensions, padding, every state.
    message.extend([0, 0]);
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(socket_id(peer, local));
    // No interface, no cookie.
    message.extend([0; 4]);
    message.extend([0xff; 8]);
    Ok(message)
}

/// The ports and addresses of `struct inet_diag_sockid`: first those of the socket asked for.
fn socket_id(peer: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let mut id = Vec::with_capacity(SOCKET_ID_BYTES);
    id.extend(peer.port().to_be_bytes());
    id.extend(local.port().to_be_bytes());
    for address in [peer.ip(), local.ip()] {
        match address {
            IpAddr::V4(address) => {
                id.extend(address.octets());
                id.extend([0; 12]);
            }
            IpAddr::V6(address) => id.extend(address.octets()),
        }
    }
    id
}

/// `struct nlmsghdr`, then `struct inet_diag_msg` or an error number.
fn answer(reply: &[u8], peer: SocketAddr, local: SocketAddr) -> io::Result<SocketOwner> {
    let short = || malformed("a short answer");
    let kind = u16::from_ne_bytes(field(reply, 4).ok_or_else(short)?);
    if kind == NLMSG_ERROR {
        let error = i32::from_ne_bytes(field(reply, HEADER_BYTES).ok_or_else(short)?);
        return Err(io::Error::from_raw_os_error(error.saturating_neg()));
    }
    if kind != SOCK_DIAG_BY_FAMILY {
        return Err(malformed("an answer of another kind"));
    }
    let state: [u8; 1] = field(reply, HEADER_BYTES + 1).ok_or_else(short)?;
    let id: [u8; SOCKET_ID_BYTES] = field(reply, HEADER_BYTES + 4).ok_or_else(short)?;
    let uid = u32::from_ne_bytes(field(reply, HEADER_BYTES + 64).ok_or_else(short)?);
    let inode = u32::from_ne_bytes(field(reply, HEADER_BYTES + 68).ok_or_else(short)?);
    if !is_asked_for(&id, peer, local) {
        return Err(malformed("an answer about another socket"));
    }
    Ok(SocketOwner {
        uid,
        inode,
        established: state == [TCP_ESTABLISHED],
    })
}

/// An IPv4 connection of an IPv6 socket is described with mapped addresses.
fn is_asked_for(id: &[u8], peer: SocketAddr, local: SocketAddr) -> bool {
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    id == socket_id(peer, local) || id == socket_id(mapped(peer), mapped(local))
}

fn field<const N: usize>(reply: &[u8], at: usize) -> Option<[u8; N]> {
    reply.get(at..)?.first_chunk().copied()
}

fn malformed(what: &str) -> io::Error {
    io::Error::other(format!("socket diagnostics: {what}"))
}

const HEADER_BYTES: usize = 16;
const SOCKET_ID_BYTES: usize = 36;
const QUESTION_BYTES: usize = HEADER_BYTES + 56;
const REPLY_BYTES_MAX: usize = 4096;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const IPPROTO_TCP: u8 = 6;
const TCP_ESTABLISHED: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Shutdown, TcpListener, TcpStream};

    fn owner_of_accepted(listen: &str, connect: &str) -> io::Result<SocketOwner> {
        let listener = TcpListener::bind(listen)?;
        let port = listener.local_addr()?.port();
        let _client = TcpStream::connect((connect, port))?;
        let (server, peer) = listener.accept()?;
        socket_owner(peer, server.local_addr()?)
    }

    #[test]
    fn a_live_connection_is_its_makers_in_every_family() {
        let own = rustix::process::geteuid().as_raw();
        for (listen, connect) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("127.0.0.1:0", "::ffff:127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
            ("[::]:0", "::1"),
        ] {
            let owner = match owner_of_accepted(listen, connect) {
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                    println!("skipped: socket_owner of {connect}: this machine has no IPv6");
                    continue;
                }
                owner => owner.unwrap(),
            };
            assert!(
                owner.established && owner.inode != 0,
                "{connect}: {owner:?}"
            );
            assert_eq!(owner.uid, own, "{connect}");
        }
    }

    #[test]
    fn a_socket_that_its_process_closed_is_not_live() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        let local = server.local_addr().unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(!socket_owner(peer, local).unwrap().established);
        drop(client);
        let owner = socket_owner(peer, local);
        assert!(owner.is_err() || owner.is_ok_and(|owner| !owner.established && owner.inode == 0));
    }

    #[test]
    fn a_connection_that_is_not_there_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let nobody = SocketAddr::new(local.ip(), 1);
        assert!(socket_owner(nobody, local).is_err());
        // A listening socket is found where no connection is.
        let found = socket_owner(local, nobody);
        assert!(found.is_err() || found.is_ok_and(|owner| !owner.established));
    }
}

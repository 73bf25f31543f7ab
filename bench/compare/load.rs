//! The load that `compare.py` puts on a server, and the bare system calls that it compares PUT
//! with:
//!
//! ```text
//! load http METHOD ADDR:PORT TARGETS SIZE CONNECTIONS SECONDS
//! load bare DIRECTORY SIZE THREADS SECONDS
//! load append FILE SIZE WRITERS SECONDS
//! ```
//!
//! TARGETS is a file with one request target a line, each used once; behind a space may stand the
//! bytes of its body. SIZE is the bytes of all other bodies. FILE is written from its beginning to
//! its end, over and over; it must be there and hold no holes.
//! Prints one line of JSON: operations, seconds, p50_us, p99_us.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a load that cannot run has to end with the reason"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lobos::io::device::{Device, OpenOptions};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| -> usize { arguments[at].parse().expect("a number") };
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["http", method, address, targets, _, _, _] => {
            let targets = std::fs::read_to_string(targets).expect("the file of targets");
            let targets: Vec<&str> = targets.lines().collect();
            let sizes = targets
                .iter()
                .filter_map(|line| line.split_once(' ')?.1.parse().ok());
            let longest = vec![0x5a; sizes.max().unwrap_or(0).max(number(4))];
            let body = &longest[..number(4)];
            let next = AtomicUsize::new(0);
            run(number(5), number(6), || {
                let mut connection = Connection::open(method, address);
                let (next, targets, longest) = (&next, &targets, &longest);
                move || {
                    let Some(line) = targets.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        return false;
                    };
                    let (target, size) = line.split_once(' ').unwrap_or((line, ""));
                    let size = size.parse().unwrap_or(body.len());
                    connection.ask(target, &longest[..size]);
                    true
                }
            });
        }
        ["bare", directory, _, _, _] => {
            let body = vec![0x5a; number(2)];
            let next = AtomicUsize::new(0);
            run(number(3), number(4), || {
                let (next, body) = (&next, &body);
                let directory = Path::new(directory);
                let open = File::open(directory).expect("the directory");
                move || {
                    let name = next.fetch_add(1, Ordering::Relaxed);
                    store(directory, &open, name, body).expect("a file that is stored");
                    true
                }
            });
        }
        ["append", file, _, _, _] => append(Path::new(file), number(2), number(3), number(4)),
        _ => {
            eprintln!("usage: load http METHOD ADDR:PORT TARGETS SIZE CONNECTIONS SECONDS");
            eprintln!("       load bare DIRECTORY SIZE THREADS SECONDS");
            eprintln!("       load append FILE SIZE WRITERS SECONDS");
            std::process::exit(2);
        }
    }
}

/// What a durable PUT takes at least: a new file, its bytes on the media, its name, the name on
/// the media.
fn store(directory: &Path, open: &File, name: usize, body: &[u8]) -> std::io::Result<()> {
    let waiting = directory.join(format!("tmp{name}"));
    let mut file = File::create_new(&waiting)?;
    file.write_all(body)?;
    file.sync_data()?;
    std::fs::rename(waiting, directory.join(format!("key{name}")))?;
    open.sync_all()
}

/// What a group-committed store takes at least: the writes of all writers in flight together, one
/// behind the other on the disk, then one flush for them all.
fn append(file: &Path, size: usize, writers: usize, seconds: usize) {
    let device = Device::open(file, &OpenOptions::default()).expect("a file to write to");
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().expect("an event loop");
    runtime.block_on(async {
        let (start, mut taken, mut at) = (Instant::now(), Vec::new(), 0);
        while start.elapsed().as_secs() < seconds as u64 {
            let before = Instant::now();
            if at + (size * writers) as u64 > device.size_bytes() {
                at = 0;
            }
            let writes = (0..writers).map(|_| {
                let mut buffer = device.buffers().take_empty(size);
                buffer.append(&vec![0x5a; size]);
                buffer.pad();
                let offset_bytes = at;
                at += buffer.len() as u64;
                device.write(offset_bytes, buffer)
            });
            for (written, _) in futures_util::future::join_all(writes).await {
                written.expect("a write");
            }
            device.flush().await.expect("a flush");
            taken.extend(std::iter::repeat_n(before.elapsed(), writers));
        }
        report(start.elapsed(), taken);
    });
}

/// Runs one worker a thread, each again and again until the time is over or it says `false`.
fn run<W: FnMut() -> bool + Send>(threads: usize, seconds: usize, worker: impl Fn() -> W) {
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds as u64);
    let taken: Vec<Duration> = std::thread::scope(|scope| {
        let work = |mut work: W| {
            move || {
                let mut taken = Vec::new();
                loop {
                    let before = Instant::now();
                    if before >= end || !work() {
                        return taken;
                    }
                    taken.push(before.elapsed());
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work(worker()))).collect();
        let taken = threads.into_iter().map(|thread| thread.join());
        taken.flat_map(|taken| taken.expect("a worker")).collect()
    });
    report(start.elapsed(), taken);
}

fn report(elapsed: Duration, mut taken: Vec<Duration>) {
    let elapsed = elapsed.as_secs_f64();
    taken.sort_unstable();
    let at = |share: usize| taken.get(taken.len() * share / 100).copied();
    let micros = |share| at(share).unwrap_or_default().as_secs_f64() * 1e6;
    println!(
        r#"{{"operations": {}, "seconds": {elapsed:.3}, "p50_us": {:.1}, "p99_us": {:.1}}}"#,
        taken.len(),
        micros(50),
        micros(99),
    );
}

/// A connection that asks one thing after the other.
struct Connection<'a> {
    stream: TcpStream,
    method: &'a str,
    host: &'a str,
    buffer: Vec<u8>,
}

impl<'a> Connection<'a> {
    fn open(method: &'a str, address: &'a str) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("a socket option");
        Self {
            stream,
            method,
            host: address,
            buffer: vec![0; 64 << 10],
        }
    }

    /// Sends a request and reads the whole reply, which must be 200.
    fn ask(&mut self, target: &str, body: &[u8]) {
        let (method, host, size) = (self.method, self.host, body.len());
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
        if method == "PUT" {
            head.push_str(&format!("Content-Length: {size}\r\n"));
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes()).expect("a request");
        if method == "PUT" {
            self.stream.write_all(body).expect("a body");
        }
        let mut filled = 0;
        let end = loop {
            let count = self.stream.read(&mut self.buffer[filled..]);
            filled += count.ok().filter(|count| *count > 0).expect("a reply");
            let seen = &self.buffer[..filled];
            if let Some(at) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
        assert!(
            head.starts_with("http/1.1 200"),
            "{method} {target}: {head}"
        );
        let length = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
        let mut left = if method == "HEAD" { 0 } else { length }.saturating_sub(filled - end);
        while left > 0 {
            let count = self.stream.read(&mut self.buffer).unwrap_or(0);
            assert!(count > 0, "a reply broke off");
            left = left.saturating_sub(count);
        }
    }
}

//! What is said at start: to a person, a block to paste; to a program, one line a fact.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::shell_quoted;
use crate::credentials::KeyPair;
use crate::engine::Durability;
use crate::engine::blob::FIRST_BUCKET;

/// Everything that the banner tells.
#[derive(Debug)]
pub struct Facts {
    /// The first one is the endpoint.
    pub listeners: Vec<Address>,
    pub tls: bool,
    /// Where metrics are scraped, if anywhere.
    pub metrics: Option<Address>,
    /// Where the control plane is called, if anywhere.
    pub control: Option<Address>,
    pub buckets: Vec<Bucket>,
    /// Its first-level directories are buckets too.
    pub root: Option<PathBuf>,
    pub store: Option<Store>,
    /// What was done to open it.
    pub opened: Vec<String>,
    /// Of the directories.
    pub durability: Durability,
    pub region: Box<str>,
    pub access: Access,
}

/// A bound address: its name, and what a client connects to.
#[derive(Debug)]
pub struct Address {
    pub name: String,
    /// `None`: a Unix socket.
    pub tcp: Option<SocketAddr>,
}

#[derive(Debug)]
pub struct Bucket {
    pub name: String,
    pub directory: PathBuf,
    pub free_bytes: u64,
    /// What its file system cannot do.
    pub lacks: Vec<&'static str>,
}

/// The blob store.
#[derive(Debug)]
pub struct Store {
    pub path: PathBuf,
    pub size_bytes: u64,
    pub free_bytes: u64,
    /// How its file or device is reached.
    pub device: &'static str,
    /// What that way lacks, and why.
    pub lacks: Vec<Box<str>>,
    pub durability: Durability,
}

impl Facts {
    /// A directory is served, or may be.
    fn has_directories(&self) -> bool {
        self.root.is_some() || !self.buckets.is_empty()
    }
}

/// Who may do what, and the root user's keys.
#[derive(Debug)]
pub enum Access {
    /// No authentication.
    Open,
    /// The keys were generated and lie in this file.
    Generated { keys: KeyPair, file: PathBuf },
    /// The operator gave the keys.
    Configured { access_key: Box<str> },
}

/// For a terminal: aligned facts and a block to paste.
pub fn for_people(facts: &Facts) -> String {
    let mut text = format!("Lobos {}\n\n", env!("CARGO_PKG_VERSION"));
    let mut fact = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<11} {value}");
    };
    fact("Endpoint", &endpoint(facts).unwrap_or_default());
    for address in facts
        .listeners
        .iter()
        .skip(usize::from(endpoint(facts).is_some()))
    {
        fact("", &address.name);
    }
    if let Some(store) = &facts.store {
        fact("Blob store", &store_text(store));
        fact("Bucket", FIRST_BUCKET);
    }
    if let Some(root) = &facts.root {
        fact("Buckets in", &root.display().to_string());
    }
    for bucket in &facts.buckets {
        let free = size_text(bucket.free_bytes);
        let lacks = lacks_text(bucket);
        fact(
            "Bucket",
            &format!(
                "{}  {}  ({free} free{lacks})",
                bucket.name,
                bucket.directory.display()
            ),
        );
    }
    if facts.has_directories() {
        fact("Durability", facts.durability.as_str());
    }
    if let Some(metrics) = &facts.metrics {
        fact("Metrics", &metrics_place(metrics));
    }
    if let Some(control) = &facts.control {
        fact("Control", &control.name);
    }
    match &facts.access {
        Access::Open => fact(
            "Access",
            "open: everybody on this machine may read and write",
        ),
        Access::Generated { file, .. } => {
            fact(
                "Access",
                &format!("signed requests; the keys are in {}", file.display()),
            );
        }
        Access::Configured { access_key } => {
            fact(
                "Access",
                &format!("signed requests; the root user's access key is {access_key}"),
            );
        }
    }
    text.push('\n');
    text.push_str(&paste_block(facts));
    text.push('\n');
    text.push_str(&starting_lines(facts));
    text
}

/// Without a terminal: `key: value` lines that scripts may rely on, never a secret.
pub fn for_programs(facts: &Facts) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key}: {value}");
    };
    line("version", env!("CARGO_PKG_VERSION"));
    if let Some(endpoint) = endpoint(facts) {
        line("endpoint", &endpoint);
    }
    if let Some(store) = &facts.store {
        line("blob", &store.path.display().to_string());
        line("blob_size_bytes", &store.size_bytes.to_string());
        line("blob_free_bytes", &store.free_bytes.to_string());
        line("blob_device", store.device);
        for lack in &store.lacks {
            line("blob_lacks", lack);
        }
        line("blob_durability", store.durability.as_str());
    }
    if let Some(root) = &facts.root {
        line("root", &root.display().to_string());
    }
    for bucket in &facts.buckets {
        line(
            "bucket",
            &format!("{} {}", bucket.name, bucket.directory.display()),
        );
        line(
            "free_bytes",
            &format!("{} {}", bucket.name, bucket.free_bytes),
        );
        if !bucket.lacks.is_empty() {
            line(
                "lacks",
                &format!("{} {}", bucket.name, bucket.lacks.join(", ")),
            );
        }
    }
    if facts.has_directories() {
        line("durability", facts.durability.as_str());
    }
    line("region", &facts.region);
    if let Some(metrics) = &facts.metrics {
        line("metrics", &metrics_place(metrics));
    }
    if let Some(control) = &facts.control {
        line("control", &control.name);
    }
    match &facts.access {
        Access::Open => line("auth", "off"),
        Access::Generated { keys, file } => {
            line("auth", "required");
            line("access_key", &keys.access_key);
            line("key_file", &file.display().to_string());
        }
        Access::Configured { access_key } => {
            line("auth", "required");
            line("access_key", access_key);
        }
    }
    for address in &facts.listeners {
        let _ = writeln!(text, "Listening on {}", address.name);
    }
    text.push_str(&starting_lines(facts));
    text
}

/// The environment of an S3 client, to paste into a shell. Also what `lobos credentials` prints.
pub fn exports(keys: Option<&KeyPair>, endpoint: Option<&str>, region: &str) -> String {
    let mut text = String::new();
    let mut export = |name: &str, value: &str| {
        let _ = writeln!(text, "export {name}={}", shell_quoted(value));
    };
    if let Some(endpoint) = endpoint {
        export("AWS_ENDPOINT_URL", endpoint);
    }
    match keys {
        Some(keys) => {
            export("AWS_ACCESS_KEY_ID", &keys.access_key);
            export("AWS_SECRET_ACCESS_KEY", keys.secret_key.reveal());
        }
        // Clients want some key, the server ignores it.
        None => {
            export("AWS_ACCESS_KEY_ID", "any");
            export("AWS_SECRET_ACCESS_KEY", "any");
        }
    }
    export("AWS_REGION", region);
    export("AWS_DEFAULT_REGION", region);
    text
}

fn paste_block(facts: &Facts) -> String {
    let endpoint = endpoint(facts);
    let in_store = facts.store.is_some().then_some(FIRST_BUCKET);
    let bucket = in_store.or(facts.buckets.first().map(|bucket| bucket.name.as_str()));
    if endpoint.is_none() {
        let socket = facts.listeners.first().map(|address| address.name.as_str());
        let path = socket.unwrap_or_default().trim_start_matches("unix:");
        return format!(
            "curl --unix-socket {} http://localhost/-/healthz\n",
            shell_quoted(path)
        );
    }
    let mut text = match &facts.access {
        Access::Open => exports(None, endpoint.as_deref(), &facts.region),
        Access::Generated { keys, .. } => exports(Some(keys), endpoint.as_deref(), &facts.region),
        // The terminal is not where a secret that somebody else keeps should be.
        Access::Configured { access_key } => format!(
            "export AWS_ENDPOINT_URL={}\nexport AWS_ACCESS_KEY_ID={}\n\
             # Also: export AWS_SECRET_ACCESS_KEY=... with the secret key that was configured\n\
             export AWS_REGION={region}\nexport AWS_DEFAULT_REGION={region}\n",
            shell_quoted(&endpoint.unwrap_or_default()),
            shell_quoted(access_key),
            region = facts.region
        ),
    };
    match bucket {
        Some(bucket) => {
            let _ = writeln!(text, "aws s3 ls s3://{bucket}");
        }
        None => text.push_str("aws s3 ls\n"),
    }
    text
}

fn starting_lines(facts: &Facts) -> String {
    let mut text = String::new();
    for line in &facts.opened {
        let _ = writeln!(text, "{line}");
    }
    let root = facts.root.as_ref().map(|root| root.display().to_string());
    let buckets = facts.buckets.iter().map(|bucket| bucket.name.clone());
    let mut names: Vec<String> = match root {
        Some(root) => vec![root],
        None => buckets.collect(),
    };
    if facts.store.is_some() {
        names.insert(0, FIRST_BUCKET.to_owned());
    }
    for address in &facts.listeners {
        for name in &names {
            let _ = writeln!(
                text,
                "Starting S3 HTTP server for bucket {name} at {}",
                address.name
            );
        }
    }
    text
}

/// The URL of the first TCP listener; one that listens everywhere is reached by loopback.
fn endpoint(facts: &Facts) -> Option<String> {
    let address = facts.listeners.iter().find_map(|address| address.tcp)?;
    let scheme = if facts.tls { "https" } else { "http" };
    let shown = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            SocketAddr::from(([127, 0, 0, 1], address.port()))
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, address.port()))
        }
        address => address,
    };
    Some(format!("{scheme}://{shown}"))
}

fn metrics_place(address: &Address) -> String {
    match address.tcp {
        Some(_) => format!("http://{}/metrics", address.name),
        None => format!("/metrics at {}", address.name),
    }
}

/// `/srv/lobos.img  (10.0 GiB, 9.0 GiB free; io_uring; strict)`
fn store_text(store: &Store) -> String {
    let (size, free) = (size_text(store.size_bytes), size_text(store.free_bytes));
    let mut reached = String::from(store.device);
    for lack in &store.lacks {
        let _ = write!(reached, "; {lack}");
    }
    let durability = store.durability.as_str();
    format!(
        "{}  ({size}, {free} free; {reached}; {durability})",
        store.path.display()
    )
}

fn lacks_text(bucket: &Bucket) -> String {
    if bucket.lacks.is_empty() {
        return String::new();
    }
    format!("; without {}", bucket.lacks.join(", "))
}

/// `1.5 GiB`
pub fn size_text(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < units.len() {
        tenths /= 1024;
        unit += 1;
    }
    let name = units.get(unit).unwrap_or(&"B");
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SecretText;

    fn facts(access: Access) -> Facts {
        let address = Address {
            name: "127.0.0.1:8080".into(),
            tcp: Some(([127, 0, 0, 1], 8080).into()),
        };
        Facts {
            listeners: vec![address],
            tls: false,
            metrics: Some(Address {
                name: "127.0.0.1:9091".into(),
                tcp: Some(([127, 0, 0, 1], 9091).into()),
            }),
            control: Some(Address {
                name: "127.0.0.1:50051".into(),
                tcp: Some(([127, 0, 0, 1], 50051).into()),
            }),
            buckets: vec![Bucket {
                name: "demo".into(),
                directory: "/srv/demo".into(),
                free_bytes: 3 << 29,
                lacks: vec![],
            }],
            root: None,
            store: None,
            opened: Vec::new(),
            durability: Durability::Strict,
            region: "us-east-1".into(),
            access,
        }
    }

    fn generated() -> Access {
        Access::Generated {
            keys: KeyPair {
                access_key: "LOBOSABC".into(),
                secret_key: SecretText::new("s3cr3t's".into()),
            },
            file: "/state/credentials".into(),
        }
    }

    #[test]
    fn the_block_for_people_can_be_pasted() {
        let text = for_people(&facts(generated()));
        for line in [
            "export AWS_ENDPOINT_URL=http://127.0.0.1:8080",
            "export AWS_ACCESS_KEY_ID=LOBOSABC",
            r"export AWS_SECRET_ACCESS_KEY='s3cr3t'\''s'",
            "aws s3 ls s3://demo",
            "Starting S3 HTTP server for bucket demo at 127.0.0.1:8080",
        ] {
            assert!(text.lines().any(|is| is == line), "{line}\n{text}");
        }
        assert!(text.contains("1.5 GiB free"), "{text}");
    }

    #[test]
    fn the_block_says_which_line_a_configured_root_user_adds() {
        let access_key = "ann".into();
        let text = for_people(&facts(Access::Configured { access_key }));
        let line = "# Also: export AWS_SECRET_ACCESS_KEY=";
        assert!(text.lines().any(|is| is.starts_with(line)), "{text}");
    }

    #[test]
    fn a_blob_store_is_shown_with_how_its_device_is_reached() {
        let mut facts = facts(Access::Open);
        facts.buckets.clear();
        facts.store = Some(Store {
            path: "/srv/lobos.img".into(),
            size_bytes: 10 << 30,
            free_bytes: 9 << 30,
            device: "thread pool",
            lacks: vec!["io_uring is not available: Operation not permitted".into()],
            durability: Durability::Relaxed,
        });
        let text = for_people(&facts);
        for words in [
            "/srv/lobos.img  (10.0 GiB, 9.0 GiB free; thread pool; io_uring is not available: ",
            "; relaxed)\n",
            "aws s3 ls s3://lobos\n",
            "Starting S3 HTTP server for bucket lobos at 127.0.0.1:8080\n",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        let text = for_programs(&facts);
        for line in [
            "blob: /srv/lobos.img",
            "blob_free_bytes: 9663676416",
            "blob_device: thread pool",
            "blob_durability: relaxed",
        ] {
            assert!(text.lines().any(|is| is == line), "{line}\n{text}");
        }
        assert!(!text.lines().any(|line| line.starts_with("durability:")));
    }

    #[test]
    fn sec_secrets_the_lines_for_programs_name_the_key_file_only() {
        let text = for_programs(&facts(generated()));
        assert!(!text.contains("s3cr3t"), "{text}");
        for line in [
            "Listening on 127.0.0.1:8080",
            "endpoint: http://127.0.0.1:8080",
            "bucket: demo /srv/demo",
            "metrics: http://127.0.0.1:9091/metrics",
            "control: 127.0.0.1:50051",
            "auth: required",
            "key_file: /state/credentials",
            "Starting S3 HTTP server for bucket demo at 127.0.0.1:8080",
        ] {
            assert!(text.lines().any(|is| is == line), "{line}\n{text}");
        }
        assert!(for_programs(&facts(Access::Open)).contains("auth: off\n"));
    }
}

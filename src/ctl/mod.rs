//! `lobos ctl`: asks a running server, or changes it, over the gRPC service of its control plane.
//!
//! Reading order: [`Ctl`] (what may be said), [`run`], `client` (the connection), `act` (what each
//! command calls), `check` (with its progress), `top` and `trace` (what goes on until it is
//! stopped), `show` (what is printed).

mod act;
mod check;
mod client;
mod show;
mod top;
mod trace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::runtime::{Builder, LocalOptions};

pub(crate) use show::emit;

use crate::config::Listen;

/// What `lobos ctl` is told.
#[derive(Debug, Args)]
pub struct Ctl {
    /// Where the control plane listens, ADDR:PORT or unix:PATH [default: 127.0.0.1:50051]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "LOBOS_CONTROL",
        hide_env_values = true,
        global = true
    )]
    address: Option<Listen>,

    /// A file with the server's token, for callers that are not known by their user id
    #[arg(
        long,
        value_name = "FILE",
        env = "LOBOS_CONTROL_TOKEN_FILE",
        hide_env_values = true,
        global = true
    )]
    token_file: Option<PathBuf>,

    /// Speak TLS, and trust the certificates in this PEM file
    #[arg(
        long,
        value_name = "FILE",
        env = "LOBOS_CONTROL_CA",
        hide_env_values = true,
        global = true
    )]
    ca: Option<PathBuf>,

    /// Print JSON: one value, or one a line where there is no end
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Users and their keys
    #[command(subcommand)]
    User(User),
    /// Buckets
    #[command(subcommand)]
    Bucket(Bucket),
    /// Which server this is, how busy it is, and where the bytes lie
    Info,
    /// Operations, latencies and throughput, again and again
    Top(Top),
    /// Requests as they are answered
    Trace(Trace),
    /// Read all that is stored and compare it with its checksums and ETags
    Check(Check),
    /// Write a checkpoint of the blob store, so that its next start has less to replay
    Checkpoint,
    /// Stop accepting, finish what is in flight and end the server
    Drain,
    /// What the server is told while it runs
    #[command(subcommand)]
    Config(Config),
    /// Print the completions of a shell
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages of all commands into a directory
    Man { directory: PathBuf },
}

#[derive(Debug, Subcommand)]
enum User {
    /// Make a user; its secret is printed now and never again
    Add {
        name: String,
        #[command(flatten)]
        policy: Policy,
    },
    /// All users
    List,
    /// One user with its keys
    Show { name: String },
    /// Remove a user and its keys
    Rm { name: String },
    /// Let a user in again
    Enable { name: String },
    /// Keep a user out
    Disable { name: String },
    /// Make a further key pair
    AddKey {
        name: String,
        /// How long it is good for, such as 30d
        #[arg(long, value_name = "TIME", value_parser = span)]
        lifetime: Option<Duration>,
    },
    /// Make a new key pair and end an old one
    Rotate {
        name: String,
        /// The access key that ends; may be left out if there is one only
        #[arg(long)]
        key: Option<String>,
        /// How long the old one still works, such as 1h
        #[arg(long, value_name = "TIME", value_parser = span)]
        grace: Option<Duration>,
    },
    /// End a key pair
    RmKey { name: String, key: String },
    /// Say what a user may do, or print it
    Policy {
        name: String,
        #[command(flatten)]
        policy: Policy,
    },
}

#[derive(Debug, Args)]
#[group(id = "what", multiple = false)]
struct Policy {
    /// none, readonly, readwrite, writeonly or bucket-owner
    #[arg(id = "policy", long, value_name = "NAME")]
    name: Option<String>,
    /// A file with a policy document in JSON
    #[arg(id = "policy_file", long = "policy-file", value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Bucket {
    /// Make a bucket
    Create {
        name: String,
        /// The user who owns it [default: the root user]
        #[arg(long)]
        owner: Option<String>,
    },
    /// All buckets
    List,
    /// One bucket
    Info { name: String },
    /// Change what a bucket is like; what is not named stays
    Set {
        name: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Remove an empty bucket
    Rm { name: String },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Settings {
    /// When a write is answered: strict, relaxed, or server for what the server was started with
    #[arg(long, value_name = "WHEN", value_parser = ["strict", "relaxed", "server"])]
    durability: Option<String>,
    /// What ETags are: md5, fast, or server for what the server was started with
    #[arg(long, value_name = "MODE", value_parser = ["md5", "fast", "server"])]
    etag: Option<String>,
    /// The most bytes that all objects together may have, such as 10GiB; 0 for any number
    #[arg(long, value_name = "SIZE", value_parser = crate::config::bytes)]
    quota: Option<u64>,
    /// The user who owns it from now on
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
}

#[derive(Debug, Args)]
struct Check {
    /// Only this bucket
    #[arg(long, conflicts_with_all = ["watch", "stop"])]
    bucket: Option<String>,
    /// Begin nothing: watch the check that goes on, or show what the last one found
    #[arg(long, conflicts_with = "stop")]
    watch: bool,
    /// End the check that goes on
    #[arg(long)]
    stop: bool,
}

#[derive(Debug, Args)]
struct Top {
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = span)]
    interval: Duration,
    /// Looks after which it ends [default: none]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Debug, Args)]
struct Trace {
    /// Only requests for this bucket
    #[arg(long)]
    bucket: Option<String>,
    /// Only this operation, as S3 names it: GetObject
    #[arg(long)]
    operation: Option<String>,
    /// Only this HTTP status; one digit for all that begin with it
    #[arg(long)]
    status: Option<u32>,
    /// Only what took at least so long, such as 20ms
    #[arg(long, value_name = "TIME", value_parser = span)]
    latency: Option<Duration>,
    /// Requests after which it ends [default: none]
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Config {
    /// Read certificates, the token and the users again
    Reload,
    /// Change what is logged until the next start
    LogLevel {
        /// error, warn, info, debug, trace, or a filter such as warn,lobos=debug
        level: String,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CtlError {
    #[error("{0}")]
    Local(String),
    #[error("no server answers at {address}: {why}")]
    Unreachable { address: String, why: String },
    #[error("the connection to the server broke: {0}")]
    Broken(String),
    #[error("{}", told(.0))]
    Refused(tonic::Status),
}

impl From<tonic::Status> for CtlError {
    /// A status that was made on this side has the reason with it.
    fn from(status: tonic::Status) -> Self {
        match std::error::Error::source(&status) {
            Some(source) => Self::Broken(source.to_string()),
            None => Self::Refused(status),
        }
    }
}

/// A status as a sentence; its code only where the words do not say it.
fn told(status: &tonic::Status) -> String {
    match (status.code(), status.message()) {
        (code, "") => code.description().to_owned(),
        (_, words) => words.to_owned(),
    }
}

/// Runs one command. Status 0: done; 1: the server refused it; 3: no server answers. `whole` is
/// the command line of the program, for its completions.
pub fn run(asked: Ctl, mut whole: clap::Command) -> ExitCode {
    match asked.command {
        Command::Completions { shell } => {
            // Made in memory: clap panics where it cannot write, and a reader may go away.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut whole, "lobos", &mut script);
            emit(&String::from_utf8_lossy(&script));
            return ExitCode::SUCCESS;
        }
        Command::Man { directory } => return ended(manual(whole, &directory)),
        _ => {}
    }
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let done = match runtime {
        Ok(runtime) => runtime.block_on(perform(asked)),
        Err(error) => Err(CtlError::Local(error.to_string())),
    };
    ended(done)
}

/// A page for each command, as clap knows it.
fn manual(whole: clap::Command, directory: &Path) -> Result<(), CtlError> {
    std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(whole, directory))
        .map_err(|error| CtlError::Local(format!("{}: {error}", directory.display())))
}

fn ended(done: Result<(), CtlError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error}");
            match error {
                CtlError::Unreachable { .. } | CtlError::Broken(_) => ExitCode::from(3),
                CtlError::Local(_) | CtlError::Refused(_) => ExitCode::FAILURE,
            }
        }
    }
}

async fn perform(asked: Ctl) -> Result<(), CtlError> {
    let mut client = client::connect(asked.address, asked.token_file, asked.ca).await?;
    let json = asked.json;
    match asked.command {
        Command::User(user) => act::user(&mut client, user, json).await,
        Command::Bucket(bucket) => act::bucket(&mut client, bucket, json).await,
        Command::Config(config) => act::config(&mut client, config, json).await,
        Command::Info => act::info(&mut client, json).await,
        Command::Check(check) => check::run(&mut client, check, json).await,
        Command::Checkpoint => act::checkpoint(&mut client, json).await,
        Command::Drain => act::drain(&mut client, json).await,
        Command::Top(top) => top::run(&mut client, top, json).await,
        Command::Trace(trace) => trace::run(&mut client, trace, json).await,
        // Answered without a server.
        Command::Completions { .. } | Command::Man { .. } => Ok(()),
    }
}

/// A time such as `250ms`, `30s`, `5m`, `12h` or `90d`.
fn span(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is no time; write a number with ms, s, m, h or d, such as 30s");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = number.checked_mul(millis).filter(|millis| *millis > 0);
    millis.map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_a_unit() {
        assert_eq!(span("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(span("2d"), Ok(Duration::from_secs(2 * 86_400)));
        for wrong in [
            "",
            "5",
            "s",
            "-1s",
            "1 s",
            "0s",
            "1w",
            "99999999999999999999s",
        ] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}

//! The command line: what is asked, and the exit status of the answer.

mod blob;

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use zeroize::Zeroizing;

use crate::banner;
use crate::clock::{Clock, Entropy};
use crate::config::{BlobPlace, Config, Listen, Overrides, SecretText};
use crate::credentials::{KeyPair, Places, StateDir};
use crate::ctl;
use crate::engine::{Durability, ETagMode};
use crate::log;
use crate::server::{self, Ended, Start};
use crate::tls;

/// A fast local object store: directories, or a store of its own, served over S3.
#[derive(Debug, Parser)]
#[command(name = "lobos", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve directories or a blob store as buckets
    Serve(Box<Serve>),
    /// Check a configuration file and say what is wrong with it
    CheckConfig(Check),
    /// Print a fresh key pair for [[auth.user]]
    Keygen,
    /// Print the root user's keys again
    Credentials(Credentials),
    /// Make, look at, verify, export or grow a blob store
    #[command(subcommand)]
    Blob(blob::Verb),
    /// Ask a running server, or change it: users, buckets, what it does
    Ctl(ctl::Ctl),
}

#[derive(Debug, Args)]
struct Serve {
    /// Directories to serve, each as the bucket of its own name; made if missing
    #[arg(value_name = "DIR")]
    directories: Vec<PathBuf>,

    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct Options {
    /// Configuration file; what is given here or in the environment wins over it
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "LOBOS_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,

    /// Serve a directory as the bucket NAME; may be repeated
    #[arg(long, value_name = "NAME=DIR", env = "LOBOS_BUCKETS", hide_env_values = true,
          value_parser = name_and_directory)]
    bucket: Vec<(String, PathBuf)>,

    /// Serve each directory in DIR as a bucket and allow buckets to be created and deleted
    #[arg(long, value_name = "DIR", env = "LOBOS_ROOT", hide_env_values = true)]
    root: Option<PathBuf>,

    /// Serve the blob store in a file, made with SIZE (such as 10GiB) if missing, or on a device
    #[arg(
        long,
        value_name = "PATH[:SIZE]",
        env = "LOBOS_BLOB",
        hide_env_values = true
    )]
    blob: Option<BlobPlace>,

    /// Where to listen, ADDR:PORT or unix:PATH; may be repeated [default: 127.0.0.1:8080]
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "LOBOS_LISTEN",
        hide_env_values = true
    )]
    listen: Vec<Listen>,

    /// A domain whose sub-domains are buckets; may be repeated
    #[arg(
        long,
        value_name = "NAME",
        env = "LOBOS_DOMAIN",
        hide_env_values = true
    )]
    domain: Vec<String>,

    /// Ask for signed requests (the default) [env: LOBOS_AUTH=true or false]
    #[arg(long, overrides_with = "no_auth")]
    auth: bool,

    /// Answer everybody; on loopback addresses and Unix sockets only
    #[arg(long, overrides_with = "auth")]
    no_auth: bool,

    /// The region that clients are told [default: us-east-1]
    #[arg(
        long,
        value_name = "NAME",
        env = "LOBOS_REGION",
        hide_env_values = true
    )]
    region: Option<String>,

    /// When a write is answered: `strict` or `relaxed` [default: strict]
    #[arg(long, value_name = "MODE", env = "LOBOS_DURABILITY", hide_env_values = true,
          value_parser = durability)]
    durability: Option<Durability>,

    /// What ETags are made of: `md5`, or `fast` for random ones [default: md5]
    #[arg(long, value_name = "MODE", env = "LOBOS_ETAG", hide_env_values = true,
          value_parser = etag_mode)]
    etag: Option<ETagMode>,

    /// Threads that serve requests [default: one a core]
    #[arg(long, value_name = "N", env = "LOBOS_THREADS", hide_env_values = true)]
    threads: Option<usize>,

    #[command(flatten)]
    state: State,

    /// Print nothing at start
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
struct State {
    /// Where the generated keys are kept [default: ~/.local/state/lobos]
    #[arg(
        long,
        value_name = "DIR",
        env = "LOBOS_STATE_DIR",
        hide_env_values = true
    )]
    state_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Check {
    /// Configuration file
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "LOBOS_CONFIG",
        hide_env_values = true
    )]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Credentials {
    /// Configuration file
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "LOBOS_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,

    #[command(flatten)]
    state: State,
}

/// Runs what the command line asks for. Usage errors end with status 2, others with 1.
pub fn run() -> ExitCode {
    let command = with_twins(Cli::command(), &|name: &OsStr| env::var_os(name));
    let asked = command.get_matches_from(arguments());
    let cli = Cli::from_arg_matches(&asked).unwrap_or_else(|error| error.exit());
    let done = match cli.command {
        Some(Command::Serve(serve)) => run_serve(serve.directories, serve.options),
        Some(Command::CheckConfig(check)) => check_config(&check.config),
        Some(Command::Keygen) => keygen(),
        Some(Command::Credentials(asked)) => credentials(asked),
        Some(Command::Blob(verb)) => blob::run(verb),
        Some(Command::Ctl(asked)) => return ctl::run(asked, Cli::command()),
        None if cli.options.names_nothing() => return usage_error(),
        None => run_serve(Vec::new(), cli.options),
    };
    match done {
        Ok(status) => status,
        Err(error) => {
            eprintln!("Error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The command line. Called `lobosctl` (a link), the program is `lobos ctl`.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<_> = env::args_os().collect();
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == "lobosctl") {
        arguments.insert(1, "ctl".into());
    }
    arguments
}

/// A variable that is set to nothing counts as not set: what starts containers sets them all. The
/// twin of a flag that may be repeated holds a list, which commas part; the flag's own value does
/// not, for paths have commas.
fn with_twins(
    command: clap::Command,
    variable: &dyn Fn(&OsStr) -> Option<OsString>,
) -> clap::Command {
    command
        .mut_args(|arg| match arg.get_env().and_then(variable) {
            Some(value) if value.is_empty() => arg.env(Resettable::Reset),
            Some(value) if matches!(arg.get_action(), ArgAction::Append) => {
                // It is read once, and the command lives as long as the process.
                let value: &'static OsStr = value.leak();
                let items = value.as_bytes().split(|byte| *byte == b',');
                let listed = arg.env(Resettable::Reset).hide_default_value(true);
                listed.default_values(items.map(OsStr::from_bytes))
            }
            _ => arg,
        })
        .mut_subcommands(|command| with_twins(command, variable))
}

type Done = Result<ExitCode, Box<dyn std::error::Error>>;

fn usage_error() -> ExitCode {
    let usage = Cli::command().render_usage();
    eprintln!("Error: --config is required (or name a directory: lobos serve DIR)\n\n{usage}");
    eprintln!("\nFor more, try 'lobos --help'.");
    ExitCode::from(2)
}

fn run_serve(directories: Vec<PathBuf>, options: Options) -> Done {
    let quiet = options.quiet;
    let file = options.config.clone();
    let config = Config::load(file.as_deref(), options.into_overrides(directories)?)?;
    let log_level = log::start(&config.log)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let announce = move |facts: &banner::Facts| {
        let text = match (quiet, io::stdout().is_terminal()) {
            (true, _) => return,
            (false, true) => banner::for_people(facts),
            (false, false) => banner::for_programs(facts),
        };
        // Nobody may be there to read it; that is no reason not to serve.
        let _ = io::stdout().write_all(text.as_bytes());
        let _ = io::stdout().flush();
    };
    let start = Start {
        places: places(),
        clock: Clock::system(),
        entropy: Entropy::system(),
        log_level,
    };
    match server::run(config, start, announce)? {
        Ended::Clean => Ok(ExitCode::SUCCESS),
        // Threads may still work; nothing waits for them.
        Ended::AtOnce => std::process::exit(130),
    }
}

fn check_config(path: &Path) -> Done {
    let config = Config::load(Some(path), Overrides::default())?;
    log::check(&config.log)?;
    if let Some(files) = &config.tls {
        tls::load(files)?;
    }
    for warning in &config.warnings {
        eprintln!("Warning: {warning}");
    }
    ctl::emit(&format!("{}: ok\n", path.display()));
    Ok(ExitCode::SUCCESS)
}

fn keygen() -> Done {
    let keys = KeyPair::generate(&Entropy::system());
    let lines = Zeroizing::new(format!(
        "access_key = \"{}\"\nsecret_key = \"{}\"\n",
        keys.access_key,
        keys.secret_key.reveal()
    ));
    ctl::emit(&lines);
    Ok(ExitCode::SUCCESS)
}

fn credentials(asked: Credentials) -> Done {
    let overrides = Overrides {
        state_dir: asked.state.state_dir,
        root_user: root_user()?,
        region: variable("LOBOS_REGION"),
        ..Overrides::default()
    };
    let config = Config::load_unserved(asked.config.as_deref(), overrides)?;
    let server = config.server;
    let keys = match config.auth.root {
        Some(root) => KeyPair {
            access_key: root.access_key,
            secret_key: root.secret_key,
        },
        None => StateDir::find(server.state_dir.as_deref(), &places())?.existing_keys()?,
    };
    ctl::emit(&banner::exports(Some(&keys), None, &server.region));
    Ok(ExitCode::SUCCESS)
}

impl Options {
    /// Neither a file nor anything to serve is named.
    fn names_nothing(&self) -> bool {
        let has_place = self.root.is_some() || self.blob.is_some() || !self.bucket.is_empty();
        self.config.is_none() && !has_place
    }

    fn into_overrides(self, directories: Vec<PathBuf>) -> Result<Overrides, String> {
        Ok(Overrides {
            directories,
            buckets: self.bucket,
            root: self.root,
            blob: self.blob,
            listen: self.listen,
            domains: self.domain,
            auth: match (self.auth, self.no_auth) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => auth_in_environment()?,
            },
            region: self.region,
            durability: self.durability,
            etag: self.etag,
            threads: self.threads,
            state_dir: self.state.state_dir,
            log_level: variable("LOBOS_LOG"),
            root_user: root_user()?,
        })
    }
}

/// The twin of --auth and --no-auth, which clap would take for a third flag.
fn auth_in_environment() -> Result<Option<bool>, String> {
    match variable("LOBOS_AUTH").as_deref() {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(format!("LOBOS_AUTH is `{other}`; it is `true` or `false`")),
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The root user from the environment, under Lobos' names or MinIO's.
fn root_user() -> Result<Option<(String, SecretText)>, String> {
    for (user, password) in [
        ("LOBOS_ROOT_USER", "LOBOS_ROOT_PASSWORD"),
        ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"),
    ] {
        match (variable(user), variable(password)) {
            (Some(user), Some(secret)) => return Ok(Some((user, SecretText::new(secret)))),
            (None, None) => {}
            (Some(_), None) => {
                return Err(format!("{user} is set and {password} is not; set both"));
            }
            (None, Some(_)) => {
                return Err(format!("{password} is set and {user} is not; set both"));
            }
        }
    }
    Ok(None)
}

fn places() -> Places {
    let path = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    Places {
        xdg_state_home: path("XDG_STATE_HOME"),
        home: path("HOME"),
    }
}

fn name_and_directory(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => Ok((name.into(), dir.into())),
        _ => Err("write NAME=DIR, such as photos=./My Photos".to_owned()),
    }
}

fn etag_mode(text: &str) -> Result<ETagMode, String> {
    match text {
        "md5" => Ok(ETagMode::Md5),
        "fast" => Ok(ETagMode::Fast),
        _ => Err("it is `md5` or `fast`".to_owned()),
    }
}

fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "strict" => Ok(Durability::Strict),
        "relaxed" => Ok(Durability::Relaxed),
        _ => Err("it is `strict` or `relaxed`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_and_its_environment_twin_is_documented() {
        // The flags of `lobos ctl` stand with its commands.
        let documented = concat!(
            include_str!("../docs/configuration.md"),
            include_str!("../docs/control-plane.md")
        );
        let command = Cli::command();
        let mut commands = vec![&command];
        let mut arguments = Vec::new();
        while let Some(next) = commands.pop() {
            commands.extend(next.get_subcommands());
            arguments.extend(next.get_arguments());
        }
        let mut flags = 0;
        for arg in arguments {
            let flag = arg.get_long().map(|name| format!("--{name}"));
            let twin = arg.get_env().map(|name| format!("`{}`", name.display()));
            flags += usize::from(flag.is_some());
            for text in flag.iter().chain(&twin) {
                assert!(
                    documented.contains(text),
                    "{text} is in neither configuration.md nor control-plane.md"
                );
            }
        }
        assert!(flags > 15, "{flags}");
    }

    #[test]
    fn every_command_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_the_environment_holds_lists() {
        let variable = |name: &OsStr| match name.to_str() {
            Some("LOBOS_BUCKETS") => Some("one=./a,two=./b".into()),
            Some("LOBOS_LISTEN") => Some("127.0.0.1:1,unix:/x".into()),
            _ => None,
        };
        let serve = |arguments: &[&str]| {
            let all = ["lobos", "serve"].iter().chain(arguments);
            let asked = with_twins(Cli::command(), &variable).try_get_matches_from(all);
            match Cli::from_arg_matches(&asked.unwrap()).unwrap().command {
                Some(Command::Serve(serve)) => serve.options,
                _ => panic!("not a serve"),
            }
        };
        let bucket = |name: &str, dir: &str| (name.to_owned(), PathBuf::from(dir));
        let options = serve(&[]);
        assert_eq!(options.bucket, [bucket("one", "./a"), bucket("two", "./b")]);
        assert_eq!(options.listen.len(), 2);
        let options = serve(&["--bucket", "pics=./a,b", "--bucket", "x-y=c"]);
        let wanted = [bucket("pics", "./a,b"), bucket("x-y", "c")];
        assert_eq!(
            options.bucket, wanted,
            "the command line wins, commas and all"
        );
    }

    #[test]
    fn the_last_of_auth_and_no_auth_counts() {
        let auth = |arguments: &[&str]| {
            let all = ["lobos", "serve", "dir"].iter().chain(arguments);
            let Some(Command::Serve(serve)) = Cli::try_parse_from(all).unwrap().command else {
                panic!("not a serve");
            };
            serve.options.into_overrides(vec![]).unwrap().auth
        };
        assert_eq!(auth(&["--no-auth", "--auth"]), Some(true));
        assert_eq!(auth(&["--auth", "--no-auth"]), Some(false));
        assert_eq!(auth(&["--no-auth"]), Some(false));
    }
}

//! The `lobos` program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    lobos::cli::run()
}

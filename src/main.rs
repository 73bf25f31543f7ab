//! The `lobos` program; everything is in the library.

use std::process::ExitCode;

/// Requests make many small, short-lived allocations, which it is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lobos::cli::run()
}

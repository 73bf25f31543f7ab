//! Bugs that are planted to see that the crash suite catches them. A normal build has none: only
//! `--cfg lobos_mutants` compiles them in, and then the environment names the one that is active.

/// Whether the bug of that name is active.
#[cfg(lobos_mutants)]
pub(super) fn is_planted(name: &str) -> bool {
    std::env::var_os("LOBOS_MUTANT").is_some_and(|active| active == name)
}

#[cfg(not(lobos_mutants))]
pub(super) const fn is_planted(_name: &str) -> bool {
    false
}

//! Who asks, and how their request's body will be verified.
//!
//! Reading order: [`users`] (who there is), [`gate`] (the one `match` over the ways to
//! authenticate), `canonical` and `sigv4` (signature version 4 in the header), `presigned` (the
//! same in the query), `sigv2` (version 2 in both places), `post` (forms), [`chunked`] (bodies in
//! signed or unsigned chunks). Then what they may do: [`policy`].

mod canonical;
mod chunked;
mod gate;
pub mod policy;
mod post;
mod presigned;
mod sigv2;
mod sigv4;
mod users;

pub use chunked::{ChunkDecoder, ChunkFault, ChunkSigner, Step, TrailerLine};
pub use gate::{Authenticated, Gate, GateSettings, PayloadSpec};
pub use post::FormSignature;
pub(super) use post::missing as missing_field;
pub(super) use presigned::hoisted;
pub use users::{DuplicateKey, Identity, Secret, User, Users};

#[cfg(test)]
mod tests;

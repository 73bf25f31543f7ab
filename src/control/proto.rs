//! The messages and the service of `proto/loboscontrol.proto`: code that tonic generates, and
//! `tests/control_proto.rs` holds to the proto.

include!("../../proto/generated/loboscontrol.rs");

/// The proto itself, for callers that have none.
pub const DESCRIPTORS: &[u8] = include_bytes!("../../proto/generated/loboscontrol.bin");

/// The messages that carry a secret never print it.
mod redacted {
    use std::fmt;

    use super::{KeyPair, UserParams};

    impl fmt::Debug for UserParams {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Self { name, key, .. } = self;
            write!(f, "UserParams {{ name: {name:?}, key: {key:?}, .. }}")
        }
    }

    impl fmt::Debug for KeyPair {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Self { name, key, .. } = self;
            write!(f, "KeyPair {{ name: {name:?}, key: {key:?}, .. }}")
        }
    }
}

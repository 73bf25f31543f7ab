//! What must be there: for each key what was acknowledged, and what was under way at the crash.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Names the bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) seed: u64,
    pub(crate) size: usize,
}

impl Content {
    pub(crate) fn bytes(self) -> Bytes {
        let mut state = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D;
        let mut bytes = Vec::with_capacity(self.size + 8);
        while bytes.len() < self.size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate(self.size);
        bytes.into()
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) keys: BTreeMap<String, Key>,
    /// Every change of an acknowledged state, with the operations submitted by then.
    pub(crate) history: Vec<(usize, String, Option<Content>)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Key {
    /// `None`: absent.
    pub(crate) acked: Option<Content>,
    /// What would be there if what is under way succeeded.
    pub(crate) under_way: Vec<Option<Content>>,
}

impl Model {
    pub(crate) fn begin(&mut self, key: &str, next: Option<Content>) {
        self.keys
            .entry(key.into())
            .or_default()
            .under_way
            .push(next);
    }

    pub(crate) fn ack(&mut self, key: &str, now: Option<Content>, trace: usize) {
        let entry = self.keys.entry(key.into()).or_default();
        entry.acked = now;
        entry.under_way.clear();
        self.history.push((trace, key.into(), now));
    }

    /// The states from the one that held after `durable` acknowledgements on.
    pub(crate) fn allowed_since(&self, key: &str, durable: usize) -> Vec<Option<Content>> {
        let state = |(_, name, content): &(usize, String, Option<Content>)| {
            (name == key).then_some(*content)
        };
        let (before, after) = self.history.split_at(durable);
        let mut allowed = vec![before.iter().rev().find_map(state).unwrap_or(None)];
        allowed.extend(after.iter().filter_map(state));
        allowed.extend(self.under_way(key));
        allowed
    }

    /// How many acknowledgements there were, at least, when the key came to hold this.
    pub(crate) fn index_of(&self, key: &str, now: Option<Content>, durable: usize) -> usize {
        if self.allowed_since(key, durable).first() == Some(&now) {
            return durable;
        }
        let mut after = self.history.iter().enumerate().skip(durable);
        let found = after.find(|(_, (_, name, content))| name == key && *content == now);
        found.map_or(self.history.len(), |(index, _)| index + 1)
    }

    /// How many acknowledgements there were, of the first `newest`, with the last one of the key.
    pub(crate) fn newest_before(&self, key: &str, newest: usize) -> usize {
        let mut before = self.history.iter().take(newest);
        before
            .rposition(|(_, name, _)| name == key)
            .map_or(0, |index| index + 1)
    }

    fn under_way(&self, key: &str) -> Vec<Option<Content>> {
        let known = self.keys.get(key);
        known.map_or_else(Vec::new, |entry| entry.under_way.clone())
    }

    pub(crate) fn allowed(&self, key: &str) -> Vec<Option<Content>> {
        let Some(entry) = self.keys.get(key) else {
            return vec![None];
        };
        let mut allowed = vec![entry.acked];
        allowed.extend(&entry.under_way);
        allowed
    }
}

//! What must be there: for each key what was acknowledged, and what was under way at the crash.

use std::collections::BTreeMap;

use bytes::Bytes;
use lobos::engine::{VersionId, Versioning};

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

/// A version of a key, or a delete marker.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// `None`: it was acknowledged, and nobody was told its id.
    pub(crate) id: Option<VersionId>,
    /// `None`: a delete marker.
    pub(crate) content: Option<Content>,
}

impl Held {
    fn fits(&self, other: &Self) -> bool {
        let is_same = |id: &VersionId| other.id.as_ref().is_none_or(|known| known == id);
        self.content == other.content && self.id.as_ref().is_none_or(is_same)
    }
}

/// A key's versions, newest first. Where none are kept: its only one, or nothing.
pub(crate) type State = Vec<Held>;

pub(crate) fn fit(one: &State, other: &State) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.fits(other))
}

/// Something that may become of a key.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A write; `None`: a delete.
    Write(Option<Content>),
    /// A write that is older than the newest version, if it succeeds.
    Beneath(Content),
    Remove(VersionId),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) versioning: Option<Versioning>,
    pub(crate) keys: BTreeMap<String, Key>,
    /// Every change of an acknowledged state, with the operations submitted by then.
    pub(crate) history: Vec<(usize, String, State)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Key {
    pub(crate) acked: State,
    pub(crate) under_way: Vec<Op>,
}

impl Key {
    /// The bytes that are current.
    pub(crate) fn current(&self) -> Option<Content> {
        self.acked.first().and_then(|held| held.content)
    }
}

impl Model {
    pub(crate) fn begin(&mut self, key: &str, op: Op) {
        self.keys.entry(key.into()).or_default().under_way.push(op);
    }

    pub(crate) fn ack(&mut self, key: &str, now: State, trace: usize) {
        let entry = self.keys.entry(key.into()).or_default();
        entry.acked.clone_from(&now);
        entry.under_way.clear();
        self.history.push((trace, key.into(), now));
    }

    /// A write or a delete was acknowledged.
    pub(crate) fn wrote(&mut self, key: &str, now: Held, trace: usize) {
        let mut state = self.acked(key);
        let is_known = |held: &&mut Held| held.id.is_none() && held.content == now.content;
        if let Some(held) = state.iter_mut().find(is_known) {
            held.id = now.id;
        } else {
            state = self.after(&state, &Op::Write(now.content));
            if let Some(newest) = state.first_mut() {
                newest.id = now.id;
            }
        }
        self.ack(key, state, trace);
    }

    /// As [`Model::wrote`] of a write that came before the newest.
    pub(crate) fn wrote_beneath(&mut self, key: &str, now: Held, trace: usize) {
        if self.versioning != Some(Versioning::Enabled) {
            return self.settle(key);
        }
        let mut state = self.acked(key);
        state.insert(1, now);
        self.ack(key, state, trace);
    }

    pub(crate) fn removed(&mut self, key: &str, id: &VersionId, trace: usize) {
        let state = self.after(&self.acked(key), &Op::Remove(id.clone()));
        self.ack(key, state, trace);
    }

    /// Nothing is under way any more, and nothing else has become of it.
    pub(crate) fn settle(&mut self, key: &str) {
        self.keys.entry(key.into()).or_default().under_way.clear();
    }

    pub(crate) fn acked(&self, key: &str) -> State {
        let known = self.keys.get(key);
        known.map_or_else(Vec::new, |known| known.acked.clone())
    }

    fn after(&self, state: &State, op: &Op) -> State {
        let mut state = state.clone();
        let held = |content| Held { id: None, content };
        match (op, self.versioning) {
            (Op::Write(content), None) => return content.iter().map(|c| held(Some(*c))).collect(),
            (Op::Write(content), Some(Versioning::Enabled)) => state.insert(0, held(*content)),
            (Op::Write(content), Some(Versioning::Suspended)) => {
                state.retain(|held| held.id != Some(VersionId::Null));
                let id = Some(VersionId::Null);
                let content = *content;
                state.insert(0, Held { id, content });
            }
            (Op::Beneath(content), Some(Versioning::Enabled)) => {
                state.insert(1, held(Some(*content)));
            }
            (Op::Beneath(_), _) => {}
            (Op::Remove(id), _) => state.retain(|held| held.id.as_ref() != Some(id)),
        }
        state
    }

    /// What may be there if any of these operations succeeded, in any order.
    fn outcomes(&self, state: &State, ops: &[Op]) -> Vec<State> {
        let mut all = vec![state.clone()];
        for (at, op) in ops.iter().enumerate() {
            let rest: Vec<Op> = [&ops[..at], &ops[at + 1..]].concat();
            all.extend(self.outcomes(&self.after(state, op), &rest));
        }
        all
    }

    /// The states from the one that held after `durable` acknowledgements on.
    pub(crate) fn allowed_since(&self, key: &str, durable: usize) -> Vec<State> {
        let of_key =
            |(_, name, state): &(usize, String, State)| (name == key).then(|| state.clone());
        let (before, after) = self.history.split_at(durable);
        let mut allowed = vec![before.iter().rev().find_map(of_key).unwrap_or_default()];
        allowed.extend(after.iter().filter_map(of_key));
        allowed.extend(self.allowed(key));
        allowed
    }

    /// How many acknowledgements there were, at least, when the key came to hold this.
    pub(crate) fn index_of(&self, key: &str, now: &State, durable: usize) -> usize {
        let before = self.allowed_since(key, durable);
        if before.first().is_some_and(|before| fit(before, now)) {
            return durable;
        }
        let mut after = self.history.iter().enumerate().skip(durable);
        let found = after.find(|(_, (_, name, state))| name == key && fit(state, now));
        found.map_or(self.history.len(), |(index, _)| index + 1)
    }

    /// How many acknowledgements there were, of the first `newest`, with the last one of the key.
    pub(crate) fn newest_before(&self, key: &str, newest: usize) -> usize {
        let mut before = self.history.iter().take(newest);
        before
            .rposition(|(_, name, _)| name == key)
            .map_or(0, |index| index + 1)
    }

    pub(crate) fn allowed(&self, key: &str) -> Vec<State> {
        match self.keys.get(key) {
            Some(known) => self.outcomes(&known.acked, &known.under_way),
            None => vec![Vec::new()],
        }
    }
}

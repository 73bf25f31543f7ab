//! A leaf of the index: items in order, all in one buffer.

use std::sync::Arc;

use super::codec::{Cursor, put_bytes};
use super::index::Item;

/// Items with keys below `end`.
#[derive(Debug, Default)]
pub(super) struct Leaf {
    /// Where each item begins in `buffer`, in order of keys.
    starts: Vec<u32>,
    /// Key length, key, value length, value of each item, one behind the other.
    buffer: Vec<u8>,
    /// `None`: the last leaf.
    end: Option<Arc<[u8]>>,
}

impl Leaf {
    pub(super) fn covers(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_none_or(|end| key < &**end)
    }

    pub(super) fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    pub(super) fn is_full(&self) -> bool {
        self.starts.len() > ITEMS_MAX
            || (self.buffer.len() > BUFFER_BYTES_MAX && self.starts.len() > 1)
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let at = self.find(key).ok()?;
        self.item(at).map(|(_, value)| value)
    }

    /// Sets or removes a value; gives the old one.
    pub(super) fn replace(&mut self, key: &[u8], value: Option<&[u8]>) -> Option<Box<[u8]>> {
        let found = self.find(key);
        let (at, old) = match found {
            Ok(at) => (at, self.item(at).map(|(_, value)| value.into())),
            Err(at) => (at, None),
        };
        let span = self.start(at)..self.start(if old.is_some() { at + 1 } else { at });
        let mut new = Vec::new();
        if let Some(value) = value {
            put_bytes(&mut new, key);
            put_bytes(&mut new, value);
        }
        let (start, removed, added) = (span.start, span.len(), new.len());
        if self.buffer.capacity() < self.buffer.len() + added {
            // A little room only: a buffer that doubles wastes half of the index's memory.
            self.buffer.reserve_exact(added + self.buffer.len() / 16);
        }
        self.buffer.splice(span, new);
        match (old.is_some(), value.is_some()) {
            (true, false) => {
                self.starts.remove(at);
            }
            (false, true) => self.starts.insert(at, number(start)),
            _ => {}
        }
        let moved = if value.is_some() { at + 1 } else { at };
        for start in self.starts.iter_mut().skip(moved) {
            *start = number(*start as usize + added - removed);
        }
        old
    }

    /// Keeps the lower half; gives the upper and its first key.
    pub(super) fn split(&mut self) -> (Arc<[u8]>, Self) {
        let middle = self.starts.len() / 2;
        let cut = self.start(middle);
        let first: Arc<[u8]> = self.item(middle).map_or(&[][..], |(key, _)| key).into();
        let starts = self.starts.split_off(middle);
        let upper = Self {
            starts: starts
                .iter()
                .map(|start| number(*start as usize - cut))
                .collect(),
            buffer: self.buffer.split_off(cut),
            end: self.end.replace(Arc::clone(&first)),
        };
        self.buffer.shrink_to_fit();
        self.starts.shrink_to_fit();
        (first, upper)
    }

    pub(super) fn items_from(&self, from: &[u8], limit: usize) -> Vec<Item> {
        let (Ok(at) | Err(at)) = self.find(from);
        (at..self.starts.len())
            .take(limit)
            .filter_map(|at| self.item(at))
            .map(|(key, value)| (key.into(), value.into()))
            .collect()
    }

    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.starts.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.item(middle).map(|(other, _)| other.cmp(key)) {
                Some(std::cmp::Ordering::Less) => low = middle + 1,
                Some(std::cmp::Ordering::Equal) => return Ok(middle),
                _ => high = middle,
            }
        }
        Err(low)
    }

    fn start(&self, at: usize) -> usize {
        let start = self.starts.get(at).map(|start| *start as usize);
        start.unwrap_or(self.buffer.len())
    }

    fn item(&self, at: usize) -> Option<(&[u8], &[u8])> {
        let start = *self.starts.get(at)? as usize;
        let mut from = Cursor::new(self.buffer.get(start..)?);
        Some((from.bytes()?, from.bytes()?))
    }
}

/// A place in the buffer, which is far smaller than 4 GiB: an item takes less than 1 MiB.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

const ITEMS_MAX: usize = 512;
const BUFFER_BYTES_MAX: usize = 1 << 20;

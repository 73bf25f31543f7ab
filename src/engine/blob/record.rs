//! Records: what a journal block says, and the names of the tables that they change.

use super::codec::{Cursor, put_bytes, put_varint};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Table {
    Buckets,
    Objects,
    Uploads,
    Parts,
    /// Versions that are not current, and delete markers.
    Versions,
}

impl Table {
    pub(super) const ALL: [Self; 5] = [
        Self::Buckets,
        Self::Objects,
        Self::Uploads,
        Self::Parts,
        Self::Versions,
    ];

    pub(super) fn number(self) -> u8 {
        match self {
            Self::Buckets => 0,
            Self::Objects => 1,
            Self::Uploads => 2,
            Self::Parts => 3,
            Self::Versions => 4,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Names one item of the engine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ItemKey {
    pub(super) table: Table,
    /// 0 in [`Table::Buckets`].
    pub(super) bucket: u64,
    pub(super) key: Box<[u8]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) item: ItemKey,
    pub(super) change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Gone,
    Put {
        /// Its data was written for this record, so recovery must verify it.
        is_fresh: bool,
        value: Box<[u8]>,
    },
    /// All parts of the upload whose number is the key.
    PartsGone,
}

impl Record {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(match &self.change {
            Change::Gone => 0,
            Change::Put { is_fresh: true, .. } => 1,
            Change::Put { .. } => 2,
            Change::PartsGone => 3,
        });
        out.push(self.item.table.number());
        put_varint(out, self.item.bucket);
        put_bytes(out, &self.item.key);
        if let Change::Put { value, .. } = &self.change {
            put_bytes(out, value);
        }
    }

    pub(super) fn decode(from: &mut Cursor<'_>) -> Option<Self> {
        let kind = from.u8()?;
        let item = ItemKey {
            table: Table::from_number(from.u8()?)?,
            bucket: from.varint()?,
            key: from.bytes()?.into(),
        };
        let change = match kind {
            0 => Change::Gone,
            1 | 2 => Change::Put {
                is_fresh: kind == 1,
                value: from.bytes()?.into(),
            },
            3 => Change::PartsGone,
            _ => return None,
        };
        Some(Self { item, change })
    }
}

/// All records of a journal block's body; `None` if it does not hold exactly `count`.
pub(super) fn decode_all(body: &[u8], count: u32) -> Option<Vec<Record>> {
    let mut from = Cursor::new(body);
    let mut records = Vec::new();
    for _ in 0..count {
        records.push(Record::decode(&mut from)?);
    }
    from.is_empty().then_some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        let item = |table, key: &[u8]| ItemKey {
            table,
            bucket: 300,
            key: key.into(),
        };
        let records = [
            Record {
                item: item(Table::Objects, b"k"),
                change: Change::Put {
                    is_fresh: true,
                    value: [1; 200].into(),
                },
            },
            Record {
                item: item(Table::Uploads, b""),
                change: Change::Gone,
            },
            Record {
                item: item(Table::Parts, &[0; 8]),
                change: Change::PartsGone,
            },
        ];
        let mut body = Vec::new();
        for record in &records {
            record.encode(&mut body);
        }
        assert_eq!(decode_all(&body, 3).as_deref(), Some(&records[..]));
        assert_eq!(decode_all(&body, 2), None);
        assert_eq!(decode_all(&body, 4), None);
        for end in 0..body.len() {
            assert_eq!(decode_all(&body[..end], 3), None);
        }
    }
}

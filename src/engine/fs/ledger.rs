//! The ledger of an upload: which parts it has and where their bytes lie.
//!
//! `.lobos/uploads/<id>/parts` holds one line per fact and is only ever appended to, by whoever
//! holds the upload's lock. A line is the CRC-32 of the fact in eight hex digits, a space, the
//! fact as JSON, and a line feed. A crash can leave an unfinished line: it ends where the next one
//! begins, its checksum does not fit, and nobody was told of it. The last fact about a part holds.
//!
//! Nothing here touches a file.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::engine::{EngineError, Part, PartRef};
use crate::limits::OBJECT_BYTES_MAX;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fact {
    /// The file `data` consists of slots of this size; stated once, by the first part that begins.
    Slots {
        slot_bytes: u64,
    },
    Part(Committed),
}

/// A part that was acknowledged, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Committed {
    #[serde(flatten)]
    pub(super) part: Part,
    pub(super) place: Place,
}

/// Where the bytes of a part lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// In `data`, from `(number - 1) * slot_bytes` on.
    Slot,
    /// In a file of this name, from its start on.
    File(Box<str>),
}

impl Fact {
    pub(super) fn to_line(&self) -> Result<Vec<u8>, EngineError> {
        let json = serde_json::to_string(self).map_err(|_| EngineError::Corrupt {
            what: "a part of an upload cannot be written down",
        })?;
        Ok(format!("{:08x} {json}\n", checksum(json.as_bytes())).into_bytes())
    }

    fn from_line(line: &[u8]) -> Option<Self> {
        let (sum, json) = line.split_at_checked(9)?;
        let sum = std::str::from_utf8(sum).ok()?.strip_suffix(' ')?;
        let is_whole = u32::from_str_radix(sum, 16).ok()? == checksum(json);
        is_whole.then(|| serde_json::from_slice(json).ok())?
    }
}

/// What the lines say.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) slot_bytes: Option<u64>,
    pub(super) parts: BTreeMap<u32, Committed>,
    /// Numbers whose slot holds bytes that were acknowledged once: it is never written again.
    used_slots: BTreeSet<u32>,
    /// Bytes of the file that were taken in: whole lines.
    pub(super) read_bytes: u64,
}

/// Where a part that begins is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proposal {
    /// In its slot of `data`, if it gets the slot's lock.
    Slot(Slot),
    /// First the size of the slots has to be stated.
    State { slot_bytes: u64 },
    /// In a file of its own.
    File,
}

/// A slot of `data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) start_bytes: u64,
    pub(super) size_bytes: u64,
}

/// How the object is made from its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assembly {
    /// `data` already is the object, once it is cut off at this size.
    InPlace { size_bytes: u64 },
    /// The parts are copied one after the other.
    Copy,
}

impl Ledger {
    /// Takes in what follows the lines taken in so far. A last line without its end is left for
    /// the next time: somebody may be writing it.
    pub(super) fn take_in(&mut self, bytes: &[u8]) {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(line) = line.strip_suffix(b"\n") else {
                return;
            };
            self.read_bytes += line.len() as u64 + 1;
            match Fact::from_line(line) {
                Some(Fact::Slots { slot_bytes }) => {
                    self.slot_bytes.get_or_insert(slot_bytes);
                }
                Some(Fact::Part(committed)) => {
                    let number = committed.part.number;
                    if committed.place == Place::Slot {
                        self.used_slots.insert(number);
                    }
                    self.parts.insert(number, committed);
                }
                None => {}
            }
        }
    }

    /// Whether `data` must be there.
    pub(super) fn uses_slots(&self) -> bool {
        !self.used_slots.is_empty()
    }

    /// Where to write part `number` of this size.
    pub(super) fn propose(&self, number: u32, size_bytes: Option<u64>) -> Proposal {
        let Some(size_bytes) = size_bytes.filter(|size| *size > 0) else {
            return Proposal::File;
        };
        let Some(slot_bytes) = self.slot_bytes else {
            return Proposal::State {
                slot_bytes: size_bytes,
            };
        };
        let start_bytes = u64::from(number.saturating_sub(1)).saturating_mul(slot_bytes);
        let fits = size_bytes <= slot_bytes
            && start_bytes.saturating_add(slot_bytes) <= OBJECT_BYTES_MAX
            && !self.used_slots.contains(&number);
        if fits {
            Proposal::Slot(Slot {
                start_bytes,
                size_bytes,
            })
        } else {
            Proposal::File
        }
    }

    /// The parts that a completion names, if they still are what it names.
    pub(super) fn choose(&self, named: &[PartRef]) -> Result<Vec<&Committed>, EngineError> {
        let choose = |named: &PartRef| {
            let committed = self.parts.get(&named.number).filter(|committed| {
                committed.part.etag == named.etag && committed.part.size_bytes == named.size_bytes
            });
            committed.ok_or(EngineError::InvalidPart {
                number: named.number,
            })
        };
        named.iter().map(choose).collect()
    }

    /// `data` can become the object only if it holds all of it and nothing else that was
    /// acknowledged: should the completion fail, every part must still be there.
    pub(super) fn assembly(&self, chosen: &[&Committed]) -> Assembly {
        let (Some(slot_bytes), Some((last, others))) = (self.slot_bytes, chosen.split_last())
        else {
            return Assembly::Copy;
        };
        let numbered = (1..).zip(chosen).all(|(n, c)| c.part.number == n);
        let in_slots = chosen.iter().all(|c| c.place == Place::Slot);
        let uniform = others.iter().all(|c| c.part.size_bytes == slot_bytes);
        if !(numbered && in_slots && uniform && chosen.len() == self.parts.len()) {
            return Assembly::Copy;
        }
        let before_last = slot_bytes.saturating_mul(others.len() as u64);
        Assembly::InPlace {
            size_bytes: before_last.saturating_add(last.part.size_bytes),
        }
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes);
    // The upper half of a 32-bit checksum is zero.
    u32::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::engine::{Checksum, ChecksumAlgorithm, ChecksumKind, ETag};

    proptest::proptest! {
        #[test]
        fn sec_panics_no_lines_break_the_ledger(
            changes in proptest::collection::vec(
                (
                    proptest::prelude::any::<proptest::sample::Index>(),
                    proptest::prelude::any::<u8>(),
                ),
                0..20,
            ),
            cut in proptest::prelude::any::<proptest::sample::Index>(),
        ) {
            let mut lines = [slots(100), part(1, 100, Place::Slot), part(2, 7, Place::File("x".into()))].concat();
            for (at, byte) in changes {
                let at = at.index(lines.len());
                lines[at] = byte;
            }
            let mut ledger = Ledger::default();
            ledger.take_in(&lines[..cut.index(lines.len())]);
            proptest::prop_assert!(ledger.read_bytes <= lines.len() as u64);
            proptest::prop_assert!(ledger.parts.len() <= 2);
            let _ = ledger.propose(u32::MAX, Some(u64::MAX));
        }
    }

    #[test]
    fn facts_come_back_as_they_were_written() {
        let mut lines = slots(100);
        for number in [1, 2, 10_000] {
            lines.extend(part(number, 100, Place::Slot));
            lines.extend(part(number, 7, Place::File(format!("{number}-x").into())));
        }
        let mut ledger = Ledger::default();
        ledger.take_in(&lines);
        assert_eq!(ledger.read_bytes, lines.len() as u64);
        assert_eq!(ledger.slot_bytes, Some(100));
        assert_eq!(ledger.parts.len(), 3);
        let last = &ledger.parts[&10_000];
        assert_eq!(last.place, Place::File("10000-x".into()));
        assert_eq!(last.part, sample(10_000, 7));
    }

    #[test]
    fn an_unfinished_line_is_waited_for_and_a_torn_one_is_passed_over() {
        let (first, second) = (part(1, 5, Place::Slot), part(2, 5, Place::Slot));
        for cut in 0..second.len() {
            let mut ledger = Ledger::default();
            let torn = [&first[..], &second[..cut]].concat();
            ledger.take_in(&torn);
            assert_eq!(ledger.read_bytes, first.len() as u64);
            assert_eq!(ledger.parts.len(), 1);
            // Its writer went on.
            ledger.take_in(&second);
            assert_eq!(ledger.parts.len(), 2);
            // Or died, and the next one ended the line.
            let mut ledger = Ledger::default();
            let third = part(3, 5, Place::Slot);
            let whole = [&torn[..], b"\n", &third[..]].concat();
            ledger.take_in(&whole);
            assert_eq!(ledger.read_bytes, whole.len() as u64);
            let numbers: Vec<_> = ledger.parts.keys().copied().collect();
            assert_eq!(
                numbers,
                if cut == second.len() - 1 {
                    vec![1, 2, 3]
                } else {
                    vec![1, 3]
                }
            );
        }
    }

    #[test]
    fn a_flipped_bit_in_a_line_drops_it() {
        let line = part(1, 5, Place::Slot);
        for index in 0..line.len() - 1 {
            let mut damaged = line.clone();
            damaged[index] ^= 1;
            let mut ledger = Ledger::default();
            ledger.take_in(&damaged);
            // Only the case of a digit of the checksum says the same.
            assert!(ledger.parts.is_empty(), "byte {index}");
        }
    }

    #[test]
    fn a_slot_is_proposed_once_and_only_for_what_fits_it() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.propose(1, None), Proposal::File);
        assert_eq!(ledger.propose(1, Some(0)), Proposal::File);
        assert_eq!(
            ledger.propose(3, Some(9)),
            Proposal::State { slot_bytes: 9 }
        );
        ledger.take_in(&slots(9));
        // Whoever was second to state a size has to live with the first.
        ledger.take_in(&slots(50));
        let slot = |start_bytes, size_bytes| {
            Proposal::Slot(Slot {
                start_bytes,
                size_bytes,
            })
        };
        assert_eq!(ledger.propose(3, Some(9)), slot(18, 9));
        assert_eq!(ledger.propose(4, Some(1)), slot(27, 1));
        assert_eq!(ledger.propose(4, Some(10)), Proposal::File);
        ledger.take_in(&part(3, 9, Place::Slot));
        assert_eq!(ledger.propose(3, Some(9)), Proposal::File);
        ledger.take_in(&part(3, 9, Place::File("3-a".into())));
        assert_eq!(ledger.propose(3, Some(9)), Proposal::File);
        let mut large = Ledger::default();
        large.take_in(&slots(OBJECT_BYTES_MAX / 2));
        assert_eq!(large.propose(2, Some(5)), slot(OBJECT_BYTES_MAX / 2, 5));
        assert_eq!(large.propose(3, Some(5)), Proposal::File);
    }

    #[test]
    fn only_all_parts_in_full_slots_are_the_object_already() {
        let of = |parts: &[(u32, u64, bool)], chosen: &[u32]| {
            let mut ledger = Ledger::default();
            ledger.take_in(&slots(10));
            for (number, size, in_slot) in parts {
                let file = Place::File("f".into());
                let place = if *in_slot { Place::Slot } else { file };
                ledger.take_in(&part(*number, *size, place));
            }
            let named: Vec<_> = chosen.iter().map(|n| &ledger.parts[n]).collect();
            ledger.assembly(&named)
        };
        let in_place = |size_bytes| Assembly::InPlace { size_bytes };
        assert_eq!(of(&[(1, 10, true)], &[1]), in_place(10));
        assert_eq!(of(&[(1, 3, true)], &[1]), in_place(3));
        assert_eq!(of(&[(1, 10, true), (2, 10, true)], &[1, 2]), in_place(20));
        assert_eq!(of(&[(1, 10, true), (2, 1, true)], &[1, 2]), in_place(11));
        assert_eq!(of(&[(1, 9, true), (2, 10, true)], &[1, 2]), Assembly::Copy);
        assert_eq!(of(&[(1, 10, false)], &[1]), Assembly::Copy);
        assert_eq!(of(&[(2, 10, true)], &[2]), Assembly::Copy);
        assert_eq!(of(&[(1, 10, true), (3, 10, true)], &[1, 3]), Assembly::Copy);
        assert_eq!(of(&[(1, 10, true), (2, 10, true)], &[1]), Assembly::Copy);
        assert_eq!(of(&[], &[]), Assembly::Copy);
    }

    #[test]
    fn a_completion_gets_only_what_it_names() {
        let mut ledger = Ledger::default();
        ledger.take_in(&part(1, 5, Place::Slot));
        let named = PartRef {
            number: 1,
            etag: sample(1, 5).etag,
            size_bytes: 5,
        };
        assert_eq!(
            ledger.choose(std::slice::from_ref(&named)).unwrap().len(),
            1
        );
        let wrong = [
            PartRef {
                number: 2,
                ..named.clone()
            },
            PartRef {
                size_bytes: 6,
                ..named.clone()
            },
            PartRef {
                etag: ETag::new("other"),
                ..named
            },
        ];
        for wrong in wrong {
            let number = wrong.number;
            let answer = ledger.choose(&[wrong]);
            assert!(matches!(answer, Err(EngineError::InvalidPart { number: n }) if n == number));
        }
    }

    fn slots(slot_bytes: u64) -> Vec<u8> {
        Fact::Slots { slot_bytes }.to_line().unwrap()
    }

    fn part(number: u32, size_bytes: u64, place: Place) -> Vec<u8> {
        let part = sample(number, size_bytes);
        Fact::Part(Committed { part, place }).to_line().unwrap()
    }

    fn sample(number: u32, size_bytes: u64) -> Part {
        Part {
            number,
            size_bytes,
            etag: ETag::from_md5([7; 16]),
            modified: Timestamp::from_unix_seconds(5),
            checksum: Some(Checksum {
                algorithm: ChecksumAlgorithm::Crc32,
                kind: ChecksumKind::FullObject,
                digest: [1, 2, 3, 4].into(),
            }),
        }
    }
}

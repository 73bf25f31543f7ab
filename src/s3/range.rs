//! The Range header: one range in each of its forms.

use crate::engine::Range;

/// What a Range header asks of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// No range, several, or one that cannot be read: all of the object, as S3 answers those.
    All,
    Part(Range),
    /// Nothing of it lies within the object: 416.
    Outside,
}

/// Reads `bytes=a-b`, `bytes=a-` or `bytes=-n` against an object of `size_bytes`; an end beyond
/// the object is cut.
pub(super) fn parse(header: Option<&str>, size_bytes: u64) -> Asked {
    let Some(spec) = header.and_then(|raw| raw.trim().strip_prefix("bytes=")) else {
        return Asked::All;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Asked::All;
    };
    let (first, last) = (first.trim(), last.trim());
    let (start, end) = match (number(first), number(last)) {
        (Some(start), Some(end)) if start <= end => (start, end.saturating_add(1)),
        (Some(start), None) if last.is_empty() => (start, u64::MAX),
        (None, Some(suffix)) if first.is_empty() => {
            if suffix == 0 {
                return Asked::Outside;
            }
            (size_bytes.saturating_sub(suffix), u64::MAX)
        }
        _ => return Asked::All,
    };
    if start >= size_bytes {
        return Asked::Outside;
    }
    Asked::Part(Range {
        start_bytes: start,
        size_bytes: end.min(size_bytes) - start,
    })
}

/// Digits only; a number beyond 64 bits is as good as the largest.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start_bytes: u64, size_bytes: u64) -> Asked {
        Asked::Part(Range {
            start_bytes,
            size_bytes,
        })
    }

    #[test]
    fn each_form_is_cut_to_the_object() {
        for (header, asked) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=2-5", part(2, 4)),
            ("bytes=2-", part(2, 8)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-30", part(0, 10)),
            ("bytes=0-8388607", part(0, 10)),
            ("bytes=9-99999999999999999999999", part(9, 1)),
            ("bytes=10-", Asked::Outside),
            ("bytes=10-20", Asked::Outside),
            ("bytes=-0", Asked::Outside),
            ("bytes=5-2", Asked::All),
            ("bytes=", Asked::All),
            ("bytes=-", Asked::All),
            ("bytes=a-b", Asked::All),
            ("bytes=+1-2", Asked::All),
            ("bytes=0-1,3-4", Asked::All),
            ("lines=0-1", Asked::All),
        ] {
            assert_eq!(parse(Some(header), 10), asked, "{header}");
        }
        assert_eq!(parse(None, 10), Asked::All);
    }

    #[test]
    fn nothing_lies_within_an_empty_object() {
        assert_eq!(parse(Some("bytes=0-8388607"), 0), Asked::Outside);
        assert_eq!(parse(Some("bytes=-1"), 0), Asked::Outside);
    }
}

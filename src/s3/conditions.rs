//! Conditional headers: on reads with HTTP's precedence, on writes as a [`Precondition`].

use http::HeaderValue;
use http::header::{self, HeaderMap, HeaderName};

use super::error::{Code, S3Error};
use crate::clock::Timestamp;
use crate::engine::{Condition, ETag, Entry, Precondition};

/// The four headers that a read may carry, or their `x-amz-copy-source-` twins.
#[derive(Debug)]
pub(super) struct ReadConditions {
    if_match: Option<Condition>,
    if_none_match: Option<Condition>,
    if_modified_since: Option<Timestamp>,
    if_unmodified_since: Option<Timestamp>,
}

/// What a read's conditions say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Go,
    NotModified,
    Failed(&'static str),
}

impl ReadConditions {
    pub(super) fn of_read(headers: &HeaderMap) -> Self {
        Self::parse(
            headers,
            [header::IF_MATCH, header::IF_NONE_MATCH],
            [header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE],
        )
    }

    pub(super) fn of_copy_source(headers: &HeaderMap) -> Self {
        let name = HeaderName::from_static;
        Self::parse(
            headers,
            [
                name("x-amz-copy-source-if-match"),
                name("x-amz-copy-source-if-none-match"),
            ],
            [
                name("x-amz-copy-source-if-modified-since"),
                name("x-amz-copy-source-if-unmodified-since"),
            ],
        )
    }

    pub(super) fn of_rename_source(headers: &HeaderMap) -> Self {
        let name = HeaderName::from_static;
        Self::parse(
            headers,
            [
                name("x-amz-rename-source-if-match"),
                name("x-amz-rename-source-if-none-match"),
            ],
            [
                name("x-amz-rename-source-if-modified-since"),
                name("x-amz-rename-source-if-unmodified-since"),
            ],
        )
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holds_for_nothing() && self.if_none_match.is_none()
    }

    /// `If-None-Match: *` alone, which asks about no content.
    pub(super) fn is_absence(&self) -> bool {
        self.holds_for_nothing() && matches!(self.if_none_match, Some(Condition::Any))
    }

    /// Whether they hold where there is no entry.
    pub(super) fn holds_for_nothing(&self) -> bool {
        self.if_match.is_none()
            && self.if_modified_since.is_none()
            && self.if_unmodified_since.is_none()
    }

    fn parse(headers: &HeaderMap, etags: [HeaderName; 2], dates: [HeaderName; 2]) -> Self {
        let [is, is_not] = etags;
        let [since, until] = dates;
        Self {
            if_match: headers.get(is).and_then(etag_condition),
            if_none_match: headers.get(is_not).and_then(etag_condition),
            if_modified_since: headers.get(since).and_then(http_date),
            if_unmodified_since: headers.get(until).and_then(http_date),
        }
    }

    /// RFC 9110 section 13.2.2, which S3 follows: an ETag condition beats the date of its kind.
    pub(super) fn judge(&self, entry: &Entry) -> Verdict {
        let modified = entry.modified.unix_seconds();
        match (&self.if_match, self.if_unmodified_since) {
            (Some(condition), _) if !condition.matches(&entry.etag) => {
                return Verdict::Failed("If-Match");
            }
            (None, Some(until)) if modified > until.unix_seconds() => {
                return Verdict::Failed("If-Unmodified-Since");
            }
            _ => {}
        }
        match (&self.if_none_match, self.if_modified_since) {
            (Some(condition), _) if condition.matches(&entry.etag) => Verdict::NotModified,
            (None, Some(since)) if modified <= since.unix_seconds() => Verdict::NotModified,
            _ => Verdict::Go,
        }
    }

    /// For copy sources, where everything that does not hold is 412.
    pub(super) fn check_source(&self, entry: &Entry) -> Result<(), S3Error> {
        match self.judge(entry) {
            Verdict::Go => Ok(()),
            Verdict::NotModified => Err(failed("x-amz-copy-source-If-None-Match")),
            Verdict::Failed(condition) => Err(failed(condition)),
        }
    }
}

/// 412 with the condition that failed.
pub(super) fn failed(condition: &str) -> S3Error {
    S3Error::new(Code::PreconditionFailed).detail("Condition", condition)
}

/// The conditions of PUT, Copy and Complete: `If-Match`, or `If-None-Match`, which Amazon's S3
/// takes with `*` only.
pub(super) fn of_write(headers: &HeaderMap) -> Result<Precondition, S3Error> {
    let if_match = headers.get(header::IF_MATCH).and_then(etag_condition);
    let if_none_match = headers.get(header::IF_NONE_MATCH).and_then(etag_condition);
    if if_match.is_some() && if_none_match.is_some() {
        return Err(S3Error::with_message(
            Code::InvalidRequest,
            "If-Match and If-None-Match cannot both hold on a write; send one of them.",
        ));
    }
    Ok(Precondition {
        if_match,
        if_none_match,
        ..Precondition::default()
    })
}

/// The conditions of DELETE: ETag, modification time and size.
pub(super) fn of_delete(headers: &HeaderMap) -> Result<Precondition, S3Error> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let if_modified_at = match text("x-amz-if-match-last-modified-time") {
        None => None,
        Some(raw) => Some(parse_time(raw).ok_or_else(|| {
            S3Error::invalid_argument(
                "The time is neither an HTTP date nor ISO 8601.",
                "x-amz-if-match-last-modified-time",
                raw,
            )
        })?),
    };
    let if_size_bytes = match text("x-amz-if-match-size") {
        None => None,
        Some(raw) => Some(raw.parse().map_err(|_| {
            S3Error::invalid_argument("The size is not a number.", "x-amz-if-match-size", raw)
        })?),
    };
    Ok(Precondition {
        if_match: headers.get(header::IF_MATCH).and_then(etag_condition),
        if_none_match: None,
        if_modified_at,
        if_size_bytes,
    })
}

/// An HTTP date or ISO 8601.
pub(super) fn parse_time(raw: &str) -> Option<Timestamp> {
    let from_http = || {
        let at = httpdate::parse_http_date(raw).ok()?;
        let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Timestamp::from_unix_seconds(
            i64::try_from(since.as_secs()).ok()?,
        ))
    };
    let from_iso = || {
        let at: jiff::Timestamp = raw.parse().ok()?;
        Some(Timestamp::from_unix_nanos(
            i64::try_from(at.as_nanosecond()).ok()?,
        ))
    };
    from_http().or_else(from_iso)
}

/// ETags without quotes and weak ones are taken for the same tag, as S3 does.
pub(super) fn parse_etag(raw: &str) -> ETag {
    let raw = raw.trim();
    let raw = raw.strip_prefix("W/").unwrap_or(raw);
    let bare = raw
        .strip_prefix('"')
        .and_then(|raw| raw.strip_suffix('"'))
        .unwrap_or(raw);
    ETag::new(bare)
}

/// `None` for a header that is not text: an unreadable condition on a read is passed over.
fn etag_condition(value: &HeaderValue) -> Option<Condition> {
    let raw = value.to_str().ok()?.trim();
    if raw == "*" {
        return Some(Condition::Any);
    }
    Some(Condition::OneOf(raw.split(',').map(parse_etag).collect()))
}

fn http_date(value: &HeaderValue) -> Option<Timestamp> {
    parse_time(value.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            size_bytes: 3,
            etag: ETag::new("abc"),
            modified: Timestamp::from_unix_nanos(1_000_000_500_000_000_000),
            checksum: None,
            metadata: Default::default(),
            parts: [].into(),
            version: Default::default(),
            seal: None,
        }
    }

    fn judge(headers: &[(&'static str, &str)]) -> Verdict {
        let map = headers
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect();
        ReadConditions::of_read(&map).judge(&entry())
    }

    #[test]
    fn an_etag_condition_beats_the_date_of_its_kind() {
        let (before, at) = (
            "Sun, 09 Sep 2001 01:46:39 GMT",
            "Sun, 09 Sep 2001 01:55:00 GMT",
        );
        for (headers, verdict) in [
            (vec![("if-match", "\"abc\"")], Verdict::Go),
            (vec![("if-match", "*")], Verdict::Go),
            (vec![("if-match", "\"x\", W/\"abc\"")], Verdict::Go),
            (vec![("if-match", "\"x\"")], Verdict::Failed("If-Match")),
            (
                vec![("if-match", "abc"), ("if-unmodified-since", before)],
                Verdict::Go,
            ),
            (
                vec![("if-unmodified-since", before)],
                Verdict::Failed("If-Unmodified-Since"),
            ),
            (vec![("if-unmodified-since", at)], Verdict::Go),
            (vec![("if-none-match", "abc")], Verdict::NotModified),
            (
                vec![("if-none-match", "x"), ("if-modified-since", at)],
                Verdict::Go,
            ),
            (vec![("if-modified-since", at)], Verdict::NotModified),
            (vec![("if-modified-since", before)], Verdict::Go),
            (vec![("if-modified-since", "yesterday")], Verdict::Go),
            (
                vec![("if-match", "x"), ("if-none-match", "abc")],
                Verdict::Failed("If-Match"),
            ),
        ] {
            assert_eq!(judge(&headers), verdict, "{headers:?}");
        }
    }
}

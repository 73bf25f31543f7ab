//! Object lock: the bucket's configuration, the retention and the legal hold of a version, the
//! headers that give and show them, and who may bypass them. What they forbid, the engine keeps.

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use super::authorize::{self, Access};
use super::error::{Code, S3Error};
use super::payload::Want;
use super::reply::{self, Reply};
use super::request::ObjectRef;
use super::xml::{Element, Writer, malformed};
use super::{Call, conditions, get, versioning};
use crate::clock::Timestamp;
use crate::engine::{
    Bucket, BucketLock, Bypass, DefaultRetention, EngineError, Lock, LockChange, ObjectKey,
    Retention, RetentionMode, RetentionPeriod, Versioning,
};
use crate::limits::XML_BYTES_MAX;

/// GetObjectLockConfiguration.
pub(super) async fn get_of_bucket(bucket: &Bucket) -> Result<Reply, S3Error> {
    let Some(lock) = bucket.config().await?.lock else {
        return Err(Code::ObjectLockConfigurationNotFoundError.into());
    };
    let mut page = Writer::document("ObjectLockConfiguration");
    page.leaf("ObjectLockEnabled", "Enabled");
    if let Some(default) = lock.default {
        page.open("Rule");
        page.open("DefaultRetention");
        page.leaf("Mode", mode_name(default.mode));
        match default.period {
            RetentionPeriod::Days(days) => page.number("Days", days.into()),
            RetentionPeriod::Years(years) => page.number("Years", years.into()),
        }
        page.close("DefaultRetention");
        page.close("Rule");
    }
    Ok(reply::xml(page.finish("ObjectLockConfiguration")))
}

/// PutObjectLockConfiguration: of a bucket that keeps versions. It gets locks for good by that.
pub(super) async fn put_of_bucket(call: Call<'_>, bucket: &Bucket) -> Result<Reply, S3Error> {
    let (payload, _room) = call.payload(Want::default()).await?;
    let lock = parse_configuration(&payload.collect(XML_BYTES_MAX).await?)?;
    bucket
        .change_config(move |config| {
            if config.versioning != Some(Versioning::Enabled) && config.lock.is_none() {
                return Err(S3Error::with_message(
                    Code::InvalidBucketState,
                    "Versioning must be 'Enabled' on the bucket to apply a Object Lock \
                     configuration",
                ));
            }
            config.lock = Some(lock);
            Ok(())
        })
        .await?;
    Ok(reply::empty(StatusCode::OK))
}

fn parse_configuration(body: &[u8]) -> Result<BucketLock, S3Error> {
    let root = Element::parse(body, "ObjectLockConfiguration")?;
    root.only(&["ObjectLockEnabled", "Rule"])?;
    if root.one("ObjectLockEnabled")?.text.trim() != "Enabled" {
        return Err(malformed("ObjectLockEnabled is not Enabled"));
    }
    root.text_of("Rule")?;
    let Some(rule) = root.child("Rule") else {
        return Ok(BucketLock::default());
    };
    rule.only(&["DefaultRetention"])?;
    let retention = rule.one("DefaultRetention")?;
    retention.only(&["Mode", "Days", "Years"])?;
    let period = match (retention.text_of("Days")?, retention.text_of("Years")?) {
        (Some(days), None) => RetentionPeriod::Days(parse_period(days, RetentionPeriod::DAYS_MAX)?),
        (None, Some(years)) => {
            RetentionPeriod::Years(parse_period(years, RetentionPeriod::YEARS_MAX)?)
        }
        _ => return Err(malformed("it must have one of Days and Years")),
    };
    let mode = parse_mode(&retention.one("Mode")?.text)?;
    Ok(BucketLock {
        default: Some(DefaultRetention { mode, period }),
    })
}

fn parse_period(text: &str, most: u32) -> Result<u32, S3Error> {
    let number: i64 = text
        .trim()
        .parse()
        .map_err(|_| malformed("a period is not a whole number"))?;
    match u32::try_from(number) {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(S3Error::with_message(
            Code::InvalidRetentionPeriod,
            format!("Default retention period must be a positive integer value, at most {most}"),
        )),
    }
}

/// GetObjectRetention.
pub(super) async fn get_retention(
    call: &Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let lock = lock_of(call, bucket, object).await?;
    let retention = lock.retention.ok_or(Code::NoSuchObjectLockConfiguration)?;
    let mut page = Writer::document("Retention");
    page.leaf("Mode", mode_name(retention.mode));
    page.time("RetainUntilDate", retention.until);
    Ok(reply::xml(page.finish("Retention")))
}

/// GetObjectLegalHold.
pub(super) async fn get_legal_hold(
    call: &Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let lock = lock_of(call, bucket, object).await?;
    let is_on = lock.legal_hold.ok_or(Code::NoSuchObjectLockConfiguration)?;
    let mut page = Writer::document("LegalHold");
    page.leaf("Status", hold_name(is_on));
    Ok(reply::xml(page.finish("LegalHold")))
}

async fn lock_of(call: &Call<'_>, bucket: &Bucket, object: &ObjectRef) -> Result<Lock, S3Error> {
    if bucket.config().await?.lock.is_none() {
        return Err(EngineError::NoObjectLock.into());
    }
    Ok(get::find(call, bucket, object).await?.metadata.lock)
}

/// PutObjectRetention. Conditions of policies about retention mean what the body says.
pub(super) async fn put_retention(
    call: Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let bypass = bypass(access, &object.key).await?;
    let now = call.s3.clock.now();
    set(call, access, object, bypass, |body| {
        let retention = parse_retention(body, now)?;
        let mut says = HeaderMap::new();
        let lock = Lock {
            retention,
            legal_hold: None,
        };
        write(&mut says, &lock);
        Ok((LockChange::Retention(retention), says))
    })
    .await
}

/// PutObjectLegalHold.
pub(super) async fn put_legal_hold(
    call: Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    set(call, access, object, Bypass::Nothing, |body| {
        let is_on = parse_legal_hold(body)?;
        let mut says = HeaderMap::new();
        says.insert(LEGAL_HOLD, HeaderValue::from_static(hold_name(is_on)));
        Ok((LockChange::LegalHold(is_on), says))
    })
    .await
}

/// Reads the body, asks again about what it says, as if headers said it, and changes the lock of
/// the current version or of the one that the request names.
async fn set(
    call: Call<'_>,
    access: &Access<'_>,
    object: &ObjectRef,
    bypass: Bypass,
    parse: impl FnOnce(&[u8]) -> Result<(LockChange, HeaderMap), S3Error>,
) -> Result<Reply, S3Error> {
    let version = versioning::asked(&call)?;
    let (s3, local, who) = (call.s3, call.local, call.identity().clone());
    let mut asked: Parts = call.head.clone();
    let (payload, _room) = call.payload(Want::default()).await?;
    let (change, says) = parse(&payload.collect(XML_BYTES_MAX).await?)?;
    let action = match change {
        LockChange::Retention(_) => "s3:PutObjectRetention",
        LockChange::LegalHold(_) => "s3:PutObjectLegalHold",
    };
    // Only what the body says counts: what the request's own headers say changes no lock.
    for name in [MODE, UNTIL, LEGAL_HOLD] {
        asked.headers.remove(name);
    }
    asked.headers.extend(says);
    let saying = authorize::enter(s3, &who, &asked, local, &access.name).await?;
    saying.require(action, Some(&object.key)).await?;
    access
        .bucket
        .set_lock(&object.key, version.as_ref(), change, bypass)
        .await
        .map_err(|error| versioning::missing(error, object, version.as_ref()))?;
    Ok(reply::empty(StatusCode::OK))
}

/// `None`: an empty document, which takes the retention off.
fn parse_retention(body: &[u8], now: Timestamp) -> Result<Option<Retention>, S3Error> {
    let root = Element::parse(body, "Retention")?;
    root.only(&["Mode", "RetainUntilDate"])?;
    let (mode, until) = match (root.text_of("Mode")?, root.text_of("RetainUntilDate")?) {
        (None, None) => return Ok(None),
        (Some(mode), Some(until)) => (mode, until),
        _ => return Err(malformed("Mode and RetainUntilDate go together")),
    };
    let mode = parse_mode(mode)?;
    let until = conditions::parse_time(until.trim())
        .ok_or_else(|| malformed("RetainUntilDate is no date"))?;
    check_future(until, now)?;
    Ok(Some(Retention { mode, until }))
}

fn parse_legal_hold(body: &[u8]) -> Result<bool, S3Error> {
    let root = Element::parse(body, "LegalHold")?;
    root.only(&["Status"])?;
    hold_of(root.one("Status")?.text.trim()).ok_or_else(|| malformed("Status is not ON or OFF"))
}

fn parse_mode(text: &str) -> Result<RetentionMode, S3Error> {
    mode_of(text.trim()).ok_or_else(|| malformed("Mode is not GOVERNANCE or COMPLIANCE"))
}

/// The lock that the headers of a PUT, copy, CreateMultipartUpload or form give the new version.
pub(super) async fn of_write(access: &Access<'_>) -> Result<Lock, S3Error> {
    let lock = of_headers(&access.head().headers, access.s3().clock.now())?;
    // Before the body is asked for; the commit asks again.
    if !lock.is_empty() && access.bucket.config().await?.lock.is_none() {
        return Err(EngineError::NoObjectLock.into());
    }
    Ok(lock)
}

fn of_headers(headers: &HeaderMap, now: Timestamp) -> Result<Lock, S3Error> {
    let text = |name: &HeaderName| {
        let value = headers.get(name);
        value.map(|value| value.to_str().unwrap_or_default())
    };
    let retention = match (text(&MODE), text(&UNTIL)) {
        (None, None) => None,
        (Some(mode), Some(until)) => {
            let mode = mode_of(mode).ok_or_else(|| {
                S3Error::invalid_argument("Unknown wormMode directive.", MODE.as_str(), mode)
            })?;
            let until = conditions::parse_time(until).ok_or_else(|| {
                let message = "The retain until date must be provided in ISO 8601 format";
                S3Error::invalid_argument(message, UNTIL.as_str(), until)
            })?;
            check_future(until, now)?;
            Some(Retention { mode, until })
        }
        (mode, _) => {
            let missing = if mode.is_none() { MODE } else { UNTIL };
            return Err(S3Error::invalid_argument(
                "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be \
                 supplied",
                missing.as_str(),
                "",
            ));
        }
    };
    let legal_hold = match text(&LEGAL_HOLD) {
        None => None,
        Some(status) => Some(hold_of(status).ok_or_else(|| {
            let message = "Legal Hold must be either of 'ON' or 'OFF'";
            S3Error::invalid_argument(message, LEGAL_HOLD.as_str(), status)
        })?),
    };
    Ok(Lock {
        retention,
        legal_hold,
    })
}

fn check_future(until: Timestamp, now: Timestamp) -> Result<(), S3Error> {
    match until > now {
        true => Ok(()),
        false => Err(S3Error::invalid_argument(
            "The retain until date must be in the future!",
            UNTIL.as_str(),
            "",
        )),
    }
}

/// Whether a new bucket is to have locks.
pub(super) fn of_new_bucket(headers: &HeaderMap) -> Result<bool, S3Error> {
    flag(headers, "x-amz-bucket-object-lock-enabled")
}

/// What the caller wants to bypass, if it may.
pub(super) async fn bypass(access: &Access<'_>, key: &ObjectKey) -> Result<Bypass, S3Error> {
    if !flag(&access.head().headers, "x-amz-bypass-governance-retention")? {
        return Ok(Bypass::Nothing);
    }
    let action = "s3:BypassGovernanceRetention";
    access.require(action, Some(key)).await?;
    Ok(Bypass::Governance)
}

fn flag(headers: &HeaderMap, name: &'static str) -> Result<bool, S3Error> {
    let value = headers.get(name);
    match value.map(|value| value.to_str().unwrap_or_default()) {
        None => Ok(false),
        Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(text) => Err(S3Error::invalid_argument(
            "The header's value is neither true nor false.",
            name,
            text,
        )),
    }
}

/// The lock of a version, for GET and HEAD.
pub(super) fn write(headers: &mut HeaderMap, lock: &Lock) {
    if let Some(retention) = &lock.retention {
        headers.insert(MODE, HeaderValue::from_static(mode_name(retention.mode)));
        reply::insert(headers, UNTIL, &super::xml::iso(retention.until));
    }
    if let Some(is_on) = lock.legal_hold {
        headers.insert(LEGAL_HOLD, HeaderValue::from_static(hold_name(is_on)));
    }
}

/// A reply to GET or HEAD without what the caller may not know of the lock.
pub(super) async fn shown(mut reply: Reply, access: &Access<'_>, object: &ObjectRef) -> Reply {
    for (header, action) in [
        (MODE, "s3:GetObjectRetention"),
        (LEGAL_HOLD, "s3:GetObjectLegalHold"),
    ] {
        let headers = reply.headers_mut();
        if !headers.contains_key(&header) || access.require(action, Some(&object.key)).await.is_ok()
        {
            continue;
        }
        headers.remove(&header);
        if header == MODE {
            headers.remove(UNTIL);
        }
    }
    reply
}

fn mode_name(mode: RetentionMode) -> &'static str {
    match mode {
        RetentionMode::Governance => "GOVERNANCE",
        RetentionMode::Compliance => "COMPLIANCE",
    }
}

fn mode_of(name: &str) -> Option<RetentionMode> {
    match name {
        "GOVERNANCE" => Some(RetentionMode::Governance),
        "COMPLIANCE" => Some(RetentionMode::Compliance),
        _ => None,
    }
}

fn hold_name(is_on: bool) -> &'static str {
    if is_on { "ON" } else { "OFF" }
}

fn hold_of(name: &str) -> Option<bool> {
    match name {
        "ON" => Some(true),
        "OFF" => Some(false),
        _ => None,
    }
}

const MODE: HeaderName = HeaderName::from_static("x-amz-object-lock-mode");
const UNTIL: HeaderName = HeaderName::from_static("x-amz-object-lock-retain-until-date");
const LEGAL_HOLD: HeaderName = HeaderName::from_static("x-amz-object-lock-legal-hold");

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_seconds(1_700_000_000);

    #[test]
    fn a_configuration_is_read_strictly() {
        let parse = |inner: &str| {
            let body = format!("<ObjectLockConfiguration>{inner}</ObjectLockConfiguration>");
            parse_configuration(body.as_bytes()).map_err(|error| error.code)
        };
        let on = "<ObjectLockEnabled>Enabled</ObjectLockEnabled>";
        let rule = |inner: &str| {
            parse(&format!(
                "{on}<Rule><DefaultRetention>{inner}</DefaultRetention></Rule>"
            ))
        };
        assert_eq!(parse(on), Ok(BucketLock::default()));
        let default = rule("<Mode>COMPLIANCE</Mode><Years>100</Years>").unwrap();
        let expected = DefaultRetention {
            mode: RetentionMode::Compliance,
            period: RetentionPeriod::Years(100),
        };
        assert_eq!(default.default, Some(expected));
        for inner in [
            "",
            "<ObjectLockEnabled>Disabled</ObjectLockEnabled>",
            "<ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule/>",
            "<ObjectLockEnabled>Enabled</ObjectLockEnabled><Other/>",
        ] {
            assert_eq!(parse(inner), Err(Code::MalformedXML), "{inner}");
        }
        for (inner, code) in [
            ("<Mode>GOVERNANCE</Mode>", Code::MalformedXML),
            ("<Days>1</Days>", Code::MalformedXML),
            ("<Mode>governance</Mode><Days>1</Days>", Code::MalformedXML),
            ("<Mode>GOVERNANCE</Mode><Days>x</Days>", Code::MalformedXML),
            (
                "<Mode>GOVERNANCE</Mode><Days>1</Days><Years>1</Years>",
                Code::MalformedXML,
            ),
            (
                "<Mode>GOVERNANCE</Mode><Days>0</Days>",
                Code::InvalidRetentionPeriod,
            ),
            (
                "<Mode>GOVERNANCE</Mode><Years>-1</Years>",
                Code::InvalidRetentionPeriod,
            ),
            (
                "<Mode>GOVERNANCE</Mode><Days>36501</Days>",
                Code::InvalidRetentionPeriod,
            ),
        ] {
            assert_eq!(rule(inner), Err(code), "{inner}");
        }
    }

    #[test]
    fn a_retention_is_a_mode_and_a_date_to_come() {
        let parse = |inner: &str| {
            let body = format!("<Retention>{inner}</Retention>");
            parse_retention(body.as_bytes(), NOW).map_err(|error| error.code)
        };
        assert_eq!(parse(""), Ok(None));
        let text = "<Mode>GOVERNANCE</Mode><RetainUntilDate>2140-01-01T00:00:00Z</RetainUntilDate>";
        assert_eq!(
            parse(text).unwrap().map(|it| it.until.unix_seconds()),
            Some(5_364_662_400)
        );
        for (inner, code) in [
            ("<Mode>GOVERNANCE</Mode>", Code::MalformedXML),
            (
                "<Mode>abc</Mode><RetainUntilDate>2140-01-01T00:00:00Z</RetainUntilDate>",
                Code::MalformedXML,
            ),
            (
                "<Mode>COMPLIANCE</Mode><RetainUntilDate>soon</RetainUntilDate>",
                Code::MalformedXML,
            ),
            (
                "<Mode>COMPLIANCE</Mode><RetainUntilDate>2020-01-01T00:00:00Z</RetainUntilDate>",
                Code::InvalidArgument,
            ),
        ] {
            assert_eq!(parse(inner), Err(code), "{inner}");
        }
    }

    #[test]
    fn headers_give_a_lock_or_are_refused_by_name() {
        let lock = |pairs: &[(HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(name, HeaderValue::from_static(value));
            }
            of_headers(&headers, NOW).map_err(|error| error.code)
        };
        assert_eq!(lock(&[]), Ok(Lock::default()));
        let given = lock(&[
            (MODE, "COMPLIANCE"),
            (UNTIL, "2030-01-01T00:00:00.500Z"),
            (LEGAL_HOLD, "OFF"),
        ]);
        let given = given.unwrap();
        assert_eq!(given.legal_hold, Some(false));
        let mut shown = HeaderMap::new();
        write(&mut shown, &given);
        assert_eq!(shown[UNTIL], "2030-01-01T00:00:00.500Z");
        let refused = Err(Code::InvalidArgument);
        assert_eq!(lock(&[(MODE, "COMPLIANCE")]), refused);
        assert_eq!(lock(&[(UNTIL, "2030-01-01T00:00:00Z")]), refused);
        assert_eq!(lock(&[(LEGAL_HOLD, "on")]), refused);
        for (mode, until) in [
            ("compliance", "2030-01-01T00:00:00Z"),
            ("COMPLIANCE", "2020-01-01T00:00:00Z"),
            ("COMPLIANCE", "tomorrow"),
        ] {
            assert_eq!(lock(&[(MODE, mode), (UNTIL, until)]), refused);
        }
    }
}

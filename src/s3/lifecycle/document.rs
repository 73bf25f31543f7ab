//! The document of PutBucketLifecycleConfiguration, checked as S3 checks it, and read back.

use super::rules::{Expiration, Filter, Form, Noncurrent, Rule, Rules};
use crate::clock::{Entropy, Timestamp};
use crate::limits::{KEY_BYTES_MAX, LIFECYCLE_RULES_MAX, OBJECT_BYTES_MAX};
use crate::s3::conditions;
use crate::s3::error::{Code, S3Error};
use crate::s3::tags;
use crate::s3::xml::{Element, Writer, malformed};

/// Rules without an id get one.
pub(super) fn parse(body: &[u8], entropy: &Entropy) -> Result<Rules, S3Error> {
    let root = Element::parse(body, ROOT)?;
    root.only(&["Rule"])?;
    if !(1..=LIFECYCLE_RULES_MAX).contains(&root.children.len()) {
        return Err(malformed("it must have 1 to 1000 rules"));
    }
    let mut rules: Vec<Rule> = Vec::with_capacity(root.children.len());
    for element in &root.children {
        let mut rule = parse_rule(element)?;
        if rule.id.is_empty() {
            let digits = entropy.bytes::<16>().map(|byte| format!("{byte:02x}"));
            rule.id = digits.concat().into();
        }
        rules.push(rule);
    }
    let mut ids: Vec<&str> = rules.iter().map(|rule| &*rule.id).collect();
    ids.sort_unstable();
    let twice = |pair: &[&str]| matches!(pair, [a, b] if a == b);
    if let Some([id, _]) = ids.windows(2).find(|pair| twice(pair)) {
        let message = "Rule ID must be unique. Found same ID for more than one rule";
        return Err(S3Error::invalid_argument(message, "ID", *id));
    }
    Ok(Rules { rules })
}

fn parse_rule(element: &Element) -> Result<Rule, S3Error> {
    refuse_transitions(element)?;
    element.only(&[
        "ID",
        "Status",
        "Prefix",
        "Filter",
        "Expiration",
        "NoncurrentVersionExpiration",
        "AbortIncompleteMultipartUpload",
    ])?;
    let id = element.text_of("ID")?.unwrap_or_default();
    if id.chars().count() > ID_CHARS_MAX {
        let message = "ID length should not exceed allowed limit of 255";
        return Err(S3Error::invalid_argument(message, "ID", id));
    }
    let rule = Rule {
        id: id.into(),
        is_enabled: match element.one("Status")?.text.trim() {
            "Enabled" => true,
            "Disabled" => false,
            _ => return Err(malformed("Status is neither Enabled nor Disabled")),
        },
        filter: parse_filter(element)?,
        expiration: sole(element, "Expiration")?
            .map(parse_expiration)
            .transpose()?,
        noncurrent: sole(element, "NoncurrentVersionExpiration")?
            .map(parse_noncurrent)
            .transpose()?,
        abort_days: sole(element, "AbortIncompleteMultipartUpload")?
            .map(parse_abort)
            .transpose()?,
    };
    check(&rule)?;
    Ok(rule)
}

/// What a rule may not do together.
fn check(rule: &Rule) -> Result<(), S3Error> {
    let invalid = |message: String| Err(S3Error::with_message(Code::InvalidRequest, message));
    if rule.expiration.is_none() && rule.noncurrent.is_none() && rule.abort_days.is_none() {
        return invalid("At least one action needs to be specified in a rule".into());
    }
    let has_sizes =
        rule.filter.larger_than_bytes.is_some() || rule.filter.smaller_than_bytes.is_some();
    for (is_there, action) in [
        (rule.abort_days.is_some(), "AbortIncompleteMultipartUpload"),
        (
            matches!(rule.expiration, Some(Expiration::Marker(_))),
            "ExpiredObjectDeleteMarker",
        ),
    ] {
        if is_there && !rule.filter.tags.is_empty() {
            return invalid(format!("{action} cannot be specified with Tags."));
        }
        if is_there && has_sizes {
            return invalid(format!("{action} cannot be specified with Object Size."));
        }
    }
    Ok(())
}

/// There is one storage class. A rule that names another one is told so, never taken in part.
fn refuse_transitions(rule: &Element) -> Result<(), S3Error> {
    for name in ["Transition", "NoncurrentVersionTransition"] {
        let Some(transition) = rule.child(name) else {
            continue;
        };
        let class = transition.one("StorageClass")?.text.trim();
        if !CLASSES.contains(&class) {
            return Err(malformed("StorageClass is none that objects can go to"));
        }
        return Err(S3Error::with_message(
            Code::InvalidStorageClass,
            "This server has one storage class, STANDARD: no rule can move objects to another.",
        )
        .detail("StorageClassRequested", class));
    }
    Ok(())
}

fn parse_filter(rule: &Element) -> Result<Filter, S3Error> {
    let (prefix, filter) = (rule.text_of("Prefix")?, sole(rule, "Filter")?);
    let filter = match (prefix, filter) {
        (Some(prefix), None) => Filter {
            form: Form::Bare,
            prefix: Some(prefix.into()),
            ..Filter::default()
        },
        (None, Some(filter)) => match (filter.children.as_slice(), sole(filter, "And")?) {
            ([_], Some(and)) => {
                let parsed = parse_predicates(and, Form::And)?;
                if and.children.len() < 2 {
                    return Err(malformed("And must hold two conditions or more"));
                }
                parsed
            }
            ([] | [_], None) => parse_predicates(filter, Form::One)?,
            _ => return Err(malformed("Filter must hold one condition, or And")),
        },
        _ => return Err(malformed("a Rule must have one of Filter and Prefix")),
    };
    if filter
        .prefix
        .as_ref()
        .is_some_and(|it| it.len() > KEY_BYTES_MAX)
    {
        return Err(S3Error::with_message(
            Code::InvalidRequest,
            "The maximum size of a prefix is 1024.",
        ));
    }
    if let (Some(larger), Some(smaller)) = (filter.larger_than_bytes, filter.smaller_than_bytes)
        && larger >= smaller
    {
        return Err(S3Error::with_message(
            Code::InvalidRequest,
            "ObjectSizeLessThan has to be a value greater than ObjectSizeGreaterThan.",
        ));
    }
    Ok(filter)
}

fn parse_predicates(element: &Element, form: Form) -> Result<Filter, S3Error> {
    element.only(&[
        "Prefix",
        "Tag",
        "ObjectSizeGreaterThan",
        "ObjectSizeLessThan",
    ])?;
    let size = |name: &'static str, least: u64| match element.text_of(name)? {
        None => Ok(None),
        Some(text) => match text.trim().parse::<u64>() {
            Ok(size) if (least..=OBJECT_BYTES_MAX).contains(&size) => Ok(Some(size)),
            Ok(_) => Err(S3Error::invalid_argument(
                format!("'{name}' must be a size that an object can have"),
                name,
                text,
            )),
            Err(_) => Err(malformed(&format!("{name} is not a size"))),
        },
    };
    let filter = Filter {
        form,
        prefix: element.text_of("Prefix")?.map(Into::into),
        tags: tags::of_filter(element)?,
        larger_than_bytes: size("ObjectSizeGreaterThan", 0)?,
        smaller_than_bytes: size("ObjectSizeLessThan", 1)?,
    };
    Ok(filter)
}

fn parse_expiration(element: &Element) -> Result<Expiration, S3Error> {
    element.only(&["Days", "Date", "ExpiredObjectDeleteMarker"])?;
    let [only] = element.children.as_slice() else {
        return Err(malformed(
            "Expiration must hold one of Days, Date and ExpiredObjectDeleteMarker",
        ));
    };
    let text = only.text.trim();
    match only.name.as_str() {
        "Days" => Ok(Expiration::Days(days(
            text,
            "'Days' for Expiration action",
            "Days",
        )?)),
        "Date" => Ok(Expiration::Date(parse_date(text)?)),
        _ => match text {
            "true" => Ok(Expiration::Marker(true)),
            "false" => Ok(Expiration::Marker(false)),
            _ => Err(malformed(
                "ExpiredObjectDeleteMarker is neither true nor false",
            )),
        },
    }
}

fn parse_noncurrent(element: &Element) -> Result<Noncurrent, S3Error> {
    const NEWER: &str = "NewerNoncurrentVersions";
    element.only(&["NoncurrentDays", NEWER])?;
    let what = "'NoncurrentDays' for NoncurrentVersionExpiration action";
    let text = element.one("NoncurrentDays")?.text.trim();
    let newer_kept = match element.text_of(NEWER)? {
        None => 0,
        Some(text) => match text.trim().parse::<i64>().map(u32::try_from) {
            Ok(Ok(count)) if (1..=NEWER_KEPT_MAX).contains(&count) => count,
            Ok(_) => {
                let message = "'NewerNoncurrentVersions' must be 1 to 100";
                return Err(S3Error::invalid_argument(message, NEWER, text));
            }
            Err(_) => return Err(malformed("NewerNoncurrentVersions is not a number")),
        },
    };
    Ok(Noncurrent {
        days: days(text, what, "NoncurrentDays")?,
        newer_kept,
    })
}

fn parse_abort(element: &Element) -> Result<u32, S3Error> {
    const NAME: &str = "DaysAfterInitiation";
    element.only(&[NAME])?;
    let what = "'DaysAfterInitiation' for AbortIncompleteMultipartUpload action";
    days(element.one(NAME)?.text.trim(), what, NAME)
}

fn days(text: &str, what: &str, name: &str) -> Result<u32, S3Error> {
    let number: i64 = text
        .parse()
        .map_err(|_| malformed(&format!("{name} is not a whole number")))?;
    // S3's days are 32 bits with a sign.
    match i32::try_from(number).map(u32::try_from) {
        Ok(Ok(days)) if days > 0 => Ok(days),
        _ => Err(S3Error::invalid_argument(
            format!("{what} must be a positive integer"),
            name,
            text,
        )),
    }
}

fn parse_date(text: &str) -> Result<Timestamp, S3Error> {
    let day = || text.parse::<jiff::civil::Date>().ok();
    let of_day = || {
        let midnight = jiff::tz::Offset::UTC
            .to_timestamp(day()?.at(0, 0, 0, 0))
            .ok()?;
        Some(Timestamp::from_unix_seconds(midnight.as_second()))
    };
    let at = conditions::parse_time(text)
        .or_else(of_day)
        .ok_or_else(|| malformed("Date is no date of ISO 8601"))?;
    match at.unix_nanos.rem_euclid(86_400_000_000_000) {
        0 => Ok(at),
        _ => Err(S3Error::invalid_argument(
            "'Date' must be at midnight GMT",
            "Date",
            text,
        )),
    }
}

/// The child of that name, which may be missing but not be there twice.
fn sole<'a>(element: &'a Element, name: &str) -> Result<Option<&'a Element>, S3Error> {
    element.text_of(name)?;
    Ok(element.child(name))
}

pub(super) fn write(rules: &Rules) -> String {
    let mut page = Writer::document(ROOT);
    for rule in &rules.rules {
        page.open("Rule");
        page.leaf("ID", &rule.id);
        write_filter(&mut page, &rule.filter);
        page.leaf(
            "Status",
            if rule.is_enabled {
                "Enabled"
            } else {
                "Disabled"
            },
        );
        if let Some(expiration) = &rule.expiration {
            page.open("Expiration");
            match expiration {
                Expiration::Days(days) => page.number("Days", (*days).into()),
                Expiration::Date(date) => page.time("Date", *date),
                Expiration::Marker(is_removed) => {
                    page.boolean("ExpiredObjectDeleteMarker", *is_removed);
                }
            }
            page.close("Expiration");
        }
        if let Some(noncurrent) = &rule.noncurrent {
            page.open("NoncurrentVersionExpiration");
            page.number("NoncurrentDays", noncurrent.days.into());
            if noncurrent.newer_kept > 0 {
                page.number("NewerNoncurrentVersions", noncurrent.newer_kept.into());
            }
            page.close("NoncurrentVersionExpiration");
        }
        if let Some(days) = rule.abort_days {
            page.open("AbortIncompleteMultipartUpload");
            page.number("DaysAfterInitiation", days.into());
            page.close("AbortIncompleteMultipartUpload");
        }
        page.close("Rule");
    }
    page.finish(ROOT)
}

fn write_filter(page: &mut Writer, filter: &Filter) {
    let prefix = filter.prefix.as_deref();
    if filter.form == Form::Bare {
        page.leaf("Prefix", prefix.unwrap_or_default());
        return;
    }
    page.open("Filter");
    if filter.form == Form::And {
        page.open("And");
    }
    if let Some(prefix) = prefix {
        page.leaf("Prefix", prefix);
    }
    for (key, value) in &filter.tags {
        page.open("Tag");
        page.leaf("Key", key);
        page.leaf("Value", value);
        page.close("Tag");
    }
    if let Some(size) = filter.larger_than_bytes {
        page.number("ObjectSizeGreaterThan", size);
    }
    if let Some(size) = filter.smaller_than_bytes {
        page.number("ObjectSizeLessThan", size);
    }
    if filter.form == Form::And {
        page.close("And");
    }
    page.close("Filter");
}

const ROOT: &str = "LifecycleConfiguration";
const ID_CHARS_MAX: usize = 255;
const NEWER_KEPT_MAX: u32 = 100;
/// Where S3 moves objects to.
const CLASSES: [&str; 6] = [
    "GLACIER",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "DEEP_ARCHIVE",
    "GLACIER_IR",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_rules(inner: &str) -> Result<Rules, Code> {
        let body = format!("<LifecycleConfiguration>{inner}</LifecycleConfiguration>");
        let entropy = Entropy::from_fn(|bytes| bytes.fill(7));
        parse(body.as_bytes(), &entropy).map_err(|error| error.code)
    }

    fn one(inner: &str) -> Result<Rules, Code> {
        parse_rules(&format!("<Rule><Status>Enabled</Status>{inner}</Rule>"))
    }

    const DAYS: &str = "<Expiration><Days>1</Days></Expiration>";

    #[test]
    fn what_was_put_is_read_back() {
        let inner = "<Rule><ID>a</ID><Prefix>p/</Prefix><Status>Enabled</Status><Expiration>\
                     <Days>31</Days></Expiration></Rule><Rule><ID>b</ID><Filter><And>\
                     <Prefix>q&amp;</Prefix><Tag><Key>k</Key><Value>v</Value></Tag>\
                     <ObjectSizeGreaterThan>5</ObjectSizeGreaterThan>\
                     <ObjectSizeLessThan>9</ObjectSizeLessThan></And></Filter>\
                     <Status>Disabled</Status><NoncurrentVersionExpiration>\
                     <NoncurrentDays>2</NoncurrentDays><NewerNoncurrentVersions>3\
                     </NewerNoncurrentVersions></NoncurrentVersionExpiration></Rule>\
                     <Rule><ID>c</ID><Filter></Filter><Status>Enabled</Status><Expiration>\
                     <ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>\
                     <AbortIncompleteMultipartUpload><DaysAfterInitiation>4</DaysAfterInitiation>\
                     </AbortIncompleteMultipartUpload></Rule><Rule><ID>d</ID><Filter><Tag>\
                     <Key>k</Key><Value></Value></Tag></Filter><Status>Enabled</Status><Expiration>\
                     <Date>2030-01-01T00:00:00.000Z</Date></Expiration></Rule>";
        let rules = parse_rules(inner).unwrap();
        let text = write(&rules);
        assert!(text.contains(inner), "{text}");
        let json = serde_json::to_string(&rules).unwrap();
        assert_eq!(serde_json::from_str::<Rules>(&json).unwrap(), rules);
    }

    #[test]
    fn a_rule_without_an_id_gets_one() {
        let rules = one(&format!("<Prefix></Prefix>{DAYS}")).unwrap();
        assert_eq!(&*rules.rules[0].id, "07".repeat(16));
    }

    #[test]
    fn rules_are_checked_as_s3_checks_them() {
        use Code::{InvalidArgument, InvalidRequest, InvalidStorageClass, MalformedXML};
        let expire = |inner: &str| format!("<Prefix/><Expiration>{inner}</Expiration>");
        let filter = |inner: &str| format!("<Filter>{inner}</Filter>{DAYS}");
        let tag = "<Tag><Key>k</Key><Value>v</Value></Tag>";
        let rows = [
            (DAYS.to_owned(), MalformedXML),
            (format!("<Prefix/><Filter/>{DAYS}"), MalformedXML),
            ("<Prefix/>".to_owned(), InvalidRequest),
            (
                format!("<ID>{}</ID><Prefix/>{DAYS}", "i".repeat(256)),
                InvalidArgument,
            ),
            (expire(""), MalformedXML),
            (expire("<Days>0</Days>"), InvalidArgument),
            (expire("<Days>-1</Days>"), InvalidArgument),
            (expire("<Days>3000000000</Days>"), InvalidArgument),
            (expire("<Days>x</Days>"), MalformedXML),
            (expire("<Days>1</Days><Days>2</Days>"), MalformedXML),
            (
                expire("<Days>1</Days><Date>2030-01-01</Date>"),
                MalformedXML,
            ),
            (expire("<Date>2030-01-01T00:00:01Z</Date>"), InvalidArgument),
            (expire("<Date>soon</Date>"), MalformedXML),
            (
                expire("<ExpiredObjectDeleteMarker>1</ExpiredObjectDeleteMarker>"),
                MalformedXML,
            ),
            (filter(&format!("<Prefix/>{tag}")), MalformedXML),
            (filter(&format!("<And>{tag}</And>")), MalformedXML),
            (
                filter(&format!("<And><Prefix/>{tag}</And>{tag}")),
                MalformedXML,
            ),
            (filter(&format!("<And>{tag}{tag}</And>")), InvalidRequest),
            (
                filter("<ObjectSizeLessThan>0</ObjectSizeLessThan>"),
                InvalidArgument,
            ),
            (
                filter("<ObjectSizeLessThan>-1</ObjectSizeLessThan>"),
                MalformedXML,
            ),
            (
                filter(
                    "<And><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan>\
                     <ObjectSizeLessThan>5</ObjectSizeLessThan></And>",
                ),
                InvalidRequest,
            ),
            (
                format!(
                    "<Filter>{tag}</Filter><AbortIncompleteMultipartUpload><DaysAfterInitiation>1\
                     </DaysAfterInitiation></AbortIncompleteMultipartUpload>"
                ),
                InvalidRequest,
            ),
            (
                "<Prefix/><NoncurrentVersionExpiration><NoncurrentDays>0</NoncurrentDays>\
                 </NoncurrentVersionExpiration>"
                    .to_owned(),
                InvalidArgument,
            ),
            (
                "<Prefix/><NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays>\
                 <NewerNoncurrentVersions>101</NewerNoncurrentVersions>\
                 </NoncurrentVersionExpiration>"
                    .to_owned(),
                InvalidArgument,
            ),
            (
                "<Prefix/><Transition><Days>1</Days><StorageClass>GLACIER</StorageClass>\
                 </Transition>"
                    .to_owned(),
                InvalidStorageClass,
            ),
            (
                "<Prefix/><Transition><Days>1</Days><StorageClass>STANDARD</StorageClass>\
                 </Transition>"
                    .to_owned(),
                MalformedXML,
            ),
            ("<Prefix/><Other/>".to_owned(), MalformedXML),
        ];
        for (inner, code) in rows {
            assert_eq!(one(&inner), Err(code), "{inner}");
        }
        let rule = format!("<Rule><ID>a</ID><Status>Enabled</Status><Prefix/>{DAYS}</Rule>");
        assert_eq!(parse_rules(&rule.repeat(2)), Err(InvalidArgument));
        assert_eq!(parse_rules(""), Err(MalformedXML));
        assert_eq!(parse_rules(&rule.repeat(1001)), Err(MalformedXML));
        let enabled = rule.replace("Enabled", "enabled");
        assert_eq!(parse_rules(&enabled), Err(MalformedXML));
    }
}

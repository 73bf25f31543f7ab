//! Conditions: an operator, a key, and the values that it may have.

use std::borrow::Cow;
use std::net::IpAddr;

use base64::Engine as _;

use super::document::PolicyError;
use super::json::Json;
use super::names::is_condition_key;
use super::pattern::{ArnPattern, Lookup, Pattern, Syntax};

/// One key under one operator. All conditions of a statement must hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    /// In lower case.
    pub(super) key: Box<str>,
    quantifier: Quantifier,
    if_exists: bool,
    test: Test,
}

/// How a key with several values in the request is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantifier {
    None,
    /// Each must fit; none is fine.
    ForAllValues,
    /// One must fit.
    ForAnyValue,
}

/// What the operator compares with. With `negated`, a value fits if it equals none of them.
#[derive(Clone, Debug, PartialEq)]
enum Test {
    /// Whether the key must be absent.
    Null(bool),
    Text {
        how: TextMatch,
        negated: bool,
        values: Vec<Pattern>,
    },
    Arn {
        negated: bool,
        values: Vec<ArnPattern>,
    },
    Number {
        how: Compare,
        values: Vec<f64>,
    },
    /// In nanoseconds since 1970.
    Date {
        how: Compare,
        values: Vec<i128>,
    },
    Bool(Vec<bool>),
    Binary(Vec<Vec<u8>>),
    Ip {
        negated: bool,
        values: Vec<Network>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TextMatch {
    Equals,
    EqualsIgnoreCase,
    Like,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compare {
    Equals,
    NotEquals,
    LessThan,
    LessThanEquals,
    GreaterThan,
    GreaterThanEquals,
}

impl Condition {
    /// The value of a `Condition` element. `variables`: the policy's version has them.
    pub(super) fn parse_all(value: &Json, variables: bool) -> Result<Vec<Self>, PolicyError> {
        let Json::Object(operators) = value else {
            return Err(PolicyError::new("Condition is not an object"));
        };
        let mut all = Vec::new();
        for (operator, keys) in operators {
            let Json::Object(keys) = keys else {
                return Err(PolicyError::new(format!(
                    "the condition {operator} is not an object"
                )));
            };
            for (at, (key, values)) in keys.iter().enumerate() {
                let key = key.to_ascii_lowercase();
                let mut before = keys.iter().take(at);
                if !is_condition_key(&key) || before.any(|(k, _)| k.eq_ignore_ascii_case(&key)) {
                    return Err(PolicyError::new(format!(
                        "Policy has an invalid condition key: {key}"
                    )));
                }
                let values = scalars(values, operator)?;
                all.push(Self::parse(operator, key, &values, variables)?);
            }
        }
        Ok(all)
    }

    fn parse(
        operator: &str,
        key: String,
        values: &[Cow<'_, str>],
        variables: bool,
    ) -> Result<Self, PolicyError> {
        let (quantifier, rest) = match operator.split_once(':') {
            None => (Quantifier::None, operator),
            Some(("ForAllValues", rest)) => (Quantifier::ForAllValues, rest),
            Some(("ForAnyValue", rest)) => (Quantifier::ForAnyValue, rest),
            Some(_) => return Err(invalid_operator(operator)),
        };
        let (base, if_exists) = match rest.strip_suffix("IfExists") {
            Some(base) => (base, true),
            None => (rest, false),
        };
        let test =
            Test::parse(base, values, variables)?.ok_or_else(|| invalid_operator(operator))?;
        let decorated = if_exists || quantifier != Quantifier::None;
        if decorated && matches!(test, Test::Null(_)) {
            return Err(invalid_operator(operator));
        }
        Ok(Self {
            key: key.into(),
            quantifier,
            if_exists,
            test,
        })
    }

    pub(super) fn holds(&self, context: &Lookup<'_>) -> bool {
        let values = context(&self.key);
        if let Test::Null(wanted) = self.test {
            return values.is_empty() == wanted;
        }
        if values.is_empty() {
            return self.if_exists
                || match self.quantifier {
                    Quantifier::None => self.test.is_negated(),
                    Quantifier::ForAllValues => true,
                    Quantifier::ForAnyValue => false,
                };
        }
        let mut values = values.iter();
        let fits = |value: &Cow<'_, str>| self.test.fits(value, context);
        match self.quantifier {
            Quantifier::ForAllValues => values.all(fits),
            Quantifier::ForAnyValue => values.any(fits),
            // A key that should have one value has several: a negated operator must hold for all
            // of them, as it is the opposite of the plain one.
            Quantifier::None if self.test.is_negated() => values.all(fits),
            Quantifier::None => values.any(fits),
        }
    }

    pub(super) fn variables(&self) -> usize {
        match &self.test {
            Test::Text { values, .. } => values.iter().map(Pattern::variables).sum(),
            Test::Arn { values, .. } => values.iter().map(ArnPattern::variables).sum(),
            _ => 0,
        }
    }

    /// Whether it keeps a statement from being public, as S3 defines it: it holds the request to
    /// fixed accounts, places or resources.
    pub(super) fn narrows(&self) -> bool {
        if self.if_exists || self.quantifier == Quantifier::ForAllValues {
            return false;
        }
        match &self.test {
            Test::Ip {
                negated: false,
                values,
            } => *self.key == *"aws:sourceip" && values.iter().all(Network::is_narrow),
            Test::Text {
                negated: false,
                values,
                ..
            } => NARROWING_KEYS.contains(&&*self.key) && values.iter().all(Pattern::is_fixed),
            Test::Arn {
                negated: false,
                values,
            } => NARROWING_KEYS.contains(&&*self.key) && values.iter().all(ArnPattern::is_fixed),
            _ => false,
        }
    }
}

/// "The meaning of public" in S3's guide to Block Public Access.
const NARROWING_KEYS: [&str; 12] = [
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principalorgid",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceowner",
    "aws:sourcevpc",
    "aws:sourcevpce",
    "aws:userid",
    "s3:dataaccesspointaccount",
    "s3:dataaccesspointarn",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
];

impl Test {
    /// `Ok(None)`: there is no such operator.
    fn parse(
        operator: &str,
        values: &[Cow<'_, str>],
        variables: bool,
    ) -> Result<Option<Self>, PolicyError> {
        let text = |how, negated| {
            let syntax = Syntax {
                wildcards: how == TextMatch::Like,
                variables,
            };
            let values = each(values, |value| Pattern::parse(value, syntax))?;
            Ok(Some(Self::Text {
                how,
                negated,
                values,
            }))
        };
        let arn = |negated| {
            let values = each(values, |value| ArnPattern::parse(value, variables))?;
            Ok(Some(Self::Arn { negated, values }))
        };
        match operator {
            "StringEquals" => text(TextMatch::Equals, false),
            "StringNotEquals" => text(TextMatch::Equals, true),
            "StringEqualsIgnoreCase" => text(TextMatch::EqualsIgnoreCase, false),
            "StringNotEqualsIgnoreCase" => text(TextMatch::EqualsIgnoreCase, true),
            "StringLike" => text(TextMatch::Like, false),
            "StringNotLike" => text(TextMatch::Like, true),
            "ArnEquals" | "ArnLike" => arn(false),
            "ArnNotEquals" | "ArnNotLike" => arn(true),
            "IpAddress" | "NotIpAddress" => Ok(Some(Self::Ip {
                negated: operator == "NotIpAddress",
                values: each(values, |value| {
                    Network::parse(value).ok_or_else(|| unreadable(value, "IP address"))
                })?,
            })),
            "Bool" => each(values, truth).map(Self::Bool).map(Some),
            "BinaryEquals" => each(values, binary).map(Self::Binary).map(Some),
            "Null" => match each(values, truth)?.as_slice() {
                [absent] => Ok(Some(Self::Null(*absent))),
                _ => Err(PolicyError::new("Null takes one value, true or false")),
            },
            _ => Self::parse_ordered(operator, values),
        }
    }

    /// Numbers and dates.
    fn parse_ordered(operator: &str, values: &[Cow<'_, str>]) -> Result<Option<Self>, PolicyError> {
        let (is_date, compare) = match (
            operator.strip_prefix("Date"),
            operator.strip_prefix("Numeric"),
        ) {
            (Some(compare), _) => (true, compare),
            (None, Some(compare)) => (false, compare),
            (None, None) => return Ok(None),
        };
        let how = match compare {
            "Equals" => Compare::Equals,
            "NotEquals" => Compare::NotEquals,
            "LessThan" => Compare::LessThan,
            "LessThanEquals" => Compare::LessThanEquals,
            "GreaterThan" => Compare::GreaterThan,
            "GreaterThanEquals" => Compare::GreaterThanEquals,
            _ => return Ok(None),
        };
        Ok(Some(if is_date {
            let read = |value: &str| date(value).ok_or_else(|| unreadable(value, "date"));
            let values = each(values, read)?;
            Self::Date { how, values }
        } else {
            let read = |value: &str| number(value).ok_or_else(|| unreadable(value, "number"));
            let values = each(values, read)?;
            Self::Number { how, values }
        }))
    }

    fn is_negated(&self) -> bool {
        match self {
            Self::Text { negated, .. } | Self::Arn { negated, .. } | Self::Ip { negated, .. } => {
                *negated
            }
            Self::Number { how, .. } | Self::Date { how, .. } => *how == Compare::NotEquals,
            Self::Null(_) | Self::Bool(_) | Self::Binary(_) => false,
        }
    }

    /// Whether one value of the request fits. One that cannot be read as what the operator
    /// compares equals nothing.
    fn fits(&self, value: &str, context: &Lookup<'_>) -> bool {
        match self {
            // Looked at before.
            Self::Null(_) => false,
            Self::Text {
                how,
                negated,
                values,
            } => {
                let equal = |pattern: &Pattern| match how {
                    TextMatch::Equals | TextMatch::Like => pattern.matches(value, context),
                    TextMatch::EqualsIgnoreCase => pattern
                        .text(context)
                        .is_some_and(|text| text.to_lowercase() == value.to_lowercase()),
                };
                values.iter().any(equal) != *negated
            }
            Self::Arn { negated, values } => {
                values.iter().any(|arn| arn.matches(value, context)) != *negated
            }
            Self::Number { how, values } => how.fits(number(value), values),
            Self::Date { how, values } => how.fits(date(value), values),
            Self::Bool(values) => truth(value).is_ok_and(|value| values.contains(&value)),
            Self::Binary(values) => binary(value).is_ok_and(|value| values.contains(&value)),
            Self::Ip { negated, values } => {
                let address = value.parse::<IpAddr>().ok();
                let inside = address.is_some_and(|it| values.iter().any(|net| net.contains(it)));
                inside != *negated
            }
        }
    }
}

impl Compare {
    fn fits<T: PartialOrd>(self, value: Option<T>, values: &[T]) -> bool {
        let Some(value) = value else {
            return self == Self::NotEquals;
        };
        let mut values = values.iter();
        match self {
            Self::Equals => values.any(|it| value == *it),
            Self::NotEquals => values.all(|it| value != *it),
            Self::LessThan => values.any(|it| value < *it),
            Self::LessThanEquals => values.any(|it| value <= *it),
            Self::GreaterThan => values.any(|it| value > *it),
            Self::GreaterThanEquals => values.any(|it| value >= *it),
        }
    }
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            None => (text, None),
            Some((address, bits)) => (address, Some(bits)),
        };
        let address: IpAddr = address.parse().ok()?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let plain = |bits: &&str| bits.bytes().all(|b| b.is_ascii_digit());
        let bits = match bits {
            None => all,
            Some(bits) => Some(bits).filter(plain)?.parse().ok()?,
        };
        (bits <= all).then_some(Self { address, bits })
    }

    fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.bits.min(32));
                let head = |ip: std::net::Ipv4Addr| u64::from(u32::from(ip)) >> shift;
                head(net) == head(other)
            }
            (IpAddr::V6(net), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.bits.min(128));
                let head = |ip: std::net::Ipv6Addr| u128::from(ip).checked_shr(shift).unwrap_or(0);
                head(net) == head(other)
            }
            _ => false,
        }
    }

    /// Not so wide that S3 calls it public.
    fn is_narrow(&self) -> bool {
        self.bits >= if self.address.is_ipv4() { 8 } else { 32 }
    }
}

fn each<T>(
    values: &[Cow<'_, str>],
    read: impl Fn(&str) -> Result<T, PolicyError>,
) -> Result<Vec<T>, PolicyError> {
    values.iter().map(|value| read(value)).collect()
}

/// One scalar or a list of them, as text.
fn scalars<'a>(value: &'a Json, operator: &str) -> Result<Vec<Cow<'a, str>>, PolicyError> {
    let one = |value: &'a Json| match value {
        Json::Text(text) | Json::Number(text) => Ok(Cow::Borrowed(text.as_str())),
        Json::Bool(true) => Ok(Cow::Borrowed("true")),
        Json::Bool(false) => Ok(Cow::Borrowed("false")),
        Json::Null | Json::List(_) | Json::Object(_) => Err(PolicyError::new(format!(
            "a value of the condition {operator} is neither text nor a number nor a boolean"
        ))),
    };
    match value {
        Json::List(items) if items.is_empty() => Err(PolicyError::new(format!(
            "the condition {operator} has a key without values"
        ))),
        Json::List(items) => items.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

fn truth(text: &str) -> Result<bool, PolicyError> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(unreadable(text, "boolean")),
    }
}

fn binary(text: &str) -> Result<Vec<u8>, PolicyError> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(text);
    decoded.map_err(|_| unreadable(text, "base64"))
}

fn number(text: &str) -> Option<f64> {
    let legal = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    let value: f64 = Some(text)
        .filter(|text| text.chars().all(legal))?
        .parse()
        .ok()?;
    value.is_finite().then_some(value)
}

/// ISO 8601 or seconds since 1970.
fn date(text: &str) -> Option<i128> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Some(i128::from(seconds) * NANOS);
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.as_nanosecond());
    }
    let day: jiff::civil::Date = text.parse().ok()?;
    let at = jiff::tz::Offset::UTC
        .to_timestamp(day.at(0, 0, 0, 0))
        .ok()?;
    Some(at.as_nanosecond())
}

const NANOS: i128 = 1_000_000_000;

fn invalid_operator(operator: &str) -> PolicyError {
    PolicyError::new(format!("Invalid Condition type : {operator}"))
}

fn unreadable(value: &str, what: &str) -> PolicyError {
    PolicyError::new(format!("a condition's value is no {what}: {value}"))
}

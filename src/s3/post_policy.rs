//! The policy of a form: until when it is good, and what the fields must be ("POST policy" of S3's
//! API reference).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::conditions::parse_time;
use super::error::{Code, S3Error};
use crate::clock::Timestamp;

/// A policy that was read, not yet held against anything.
#[derive(Debug)]
pub(super) struct PostPolicy {
    expires: Timestamp,
    conditions: Vec<Condition>,
    /// The smallest and the largest file.
    length: Option<(u64, u64)>,
}

#[derive(Debug)]
struct Condition {
    /// In lower case.
    field: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Equals(String),
    StartsWith(String),
}

impl PostPolicy {
    /// Reads the base64 text of the form's field.
    pub(super) fn parse(text: &str) -> Result<Self, S3Error> {
        let bytes = STANDARD
            .decode(text.trim())
            .map_err(|_| invalid("it is not base64"))?;
        let document: Value =
            serde_json::from_slice(&bytes).map_err(|_| invalid("it is not JSON"))?;
        let expires = document
            .get("expiration")
            .ok_or_else(|| invalid("Policy missing expiration"))?
            .as_str()
            // The one form of ISO 8601 that S3 takes.
            .filter(|text| text.ends_with('Z') && text.contains('T'))
            .and_then(parse_time)
            .ok_or_else(|| invalid("Invalid 'expiration' value"))?;
        let listed = document
            .get("conditions")
            .ok_or_else(|| invalid("Policy missing conditions"))?
            .as_array()
            .ok_or_else(|| invalid("'conditions' is not a list"))?;
        let mut policy = Self {
            expires,
            conditions: Vec::new(),
            length: None,
        };
        for condition in listed {
            policy.add(condition)?;
        }
        Ok(policy)
    }

    fn add(&mut self, condition: &Value) -> Result<(), S3Error> {
        let (field, test) = match condition {
            Value::Object(pairs) => {
                let mut pairs = pairs.iter();
                let (Some((field, Value::String(value))), None) = (pairs.next(), pairs.next())
                else {
                    return Err(invalid(
                        "Invalid Simple-Condition: Simple-Conditions must have exactly one \
                         property specified",
                    ));
                };
                (field.as_str(), Test::Equals(value.clone()))
            }
            Value::Array(words) => match words.as_slice() {
                [Value::String(word), least, most]
                    if word.eq_ignore_ascii_case("content-length-range") =>
                {
                    let (Some(least), Some(most)) = (number(least), number(most)) else {
                        return Err(invalid("content-length-range takes two numbers of bytes"));
                    };
                    self.length = Some((least, most));
                    return Ok(());
                }
                [
                    Value::String(word),
                    Value::String(field),
                    Value::String(value),
                ] => {
                    let field = field
                        .strip_prefix('$')
                        .ok_or_else(|| invalid("the name of a field begins with '$'"))?;
                    let test = match word.to_ascii_lowercase().as_str() {
                        "eq" => Test::Equals(value.clone()),
                        "starts-with" => Test::StartsWith(value.clone()),
                        _ => return Err(invalid("a condition is neither eq nor starts-with")),
                    };
                    (field, test)
                }
                _ => return Err(invalid("a condition is not made of three words")),
            },
            _ => return Err(invalid("a condition is neither an object nor a list")),
        };
        self.conditions.push(Condition {
            field: field.to_ascii_lowercase(),
            test,
        });
        Ok(())
    }

    /// Holds it against the time, and against the fields: each must be named by a condition, and
    /// fulfil all that name it. `fields`: names in lower case; `bucket` is one of them.
    pub(super) fn check<'a>(
        &self,
        now: Timestamp,
        fields: impl Fn(&str) -> Option<&'a str>,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<(), S3Error> {
        if now > self.expires {
            return Err(denied("Policy expired.".into()));
        }
        for condition in &self.conditions {
            let value = fields(&condition.field);
            let (word, wanted) = match &condition.test {
                Test::Equals(wanted) => ("eq", wanted),
                Test::StartsWith(wanted) => ("starts-with", wanted),
            };
            if !value.is_some_and(|value| condition.holds(value)) {
                let field = &condition.field;
                return Err(denied(format!(
                    "Policy Condition failed: [\"{word}\", \"${field}\", \"{wanted}\"]"
                )));
            }
        }
        for name in names {
            let is_named = self.conditions.iter().any(|it| it.field == name);
            if !is_named && !is_free(name) {
                return Err(denied(format!("Extra input fields: {name}")));
            }
        }
        Ok(())
    }

    /// The largest file that it allows.
    pub(super) fn size_bytes_max(&self) -> Option<u64> {
        self.length.map(|(_, most)| most)
    }

    pub(super) fn check_size(&self, size_bytes: u64) -> Result<(), S3Error> {
        let Some((least, most)) = self.length else {
            return Ok(());
        };
        let code = match () {
            () if size_bytes < least => Code::EntityTooSmall,
            () if size_bytes > most => Code::EntityTooLarge,
            () => return Ok(()),
        };
        Err(S3Error::new(code)
            .detail("ProposedSize", size_bytes.to_string())
            .detail("MinSizeAllowed", least.to_string())
            .detail("MaxSizeAllowed", most.to_string()))
    }
}

impl Condition {
    /// A list of content types fulfils a condition if each of them does.
    fn holds(&self, value: &str) -> bool {
        match &self.test {
            Test::Equals(wanted) => value == wanted,
            Test::StartsWith(wanted) if self.field == "content-type" => {
                let mut kinds = value.split(',').map(str::trim);
                kinds.all(|kind| kind.starts_with(wanted.as_str()))
            }
            Test::StartsWith(wanted) => value.starts_with(wanted.as_str()),
        }
    }
}

/// Fields that need no condition.
fn is_free(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "awsaccesskeyid",
        "bucket",
        "file",
        "policy",
        "signature",
        "x-amz-signature",
    ];
    NAMES.contains(&name) || name.starts_with("x-ignore-") || name.starts_with(CHECKSUM)
}

/// A checksum allows nothing, it only makes sure of what is stored.
const CHECKSUM: &str = "x-amz-checksum-";

fn number(value: &Value) -> Option<u64> {
    value
        .as_u64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
}

fn invalid(why: &str) -> S3Error {
    S3Error::with_message(
        Code::InvalidPolicyDocument,
        format!("Invalid Policy: {why}."),
    )
}

fn denied(why: String) -> S3Error {
    S3Error::with_message(
        Code::AccessDenied,
        format!("Invalid according to Policy: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<PostPolicy, Code> {
        PostPolicy::parse(&STANDARD.encode(text)).map_err(|error| error.code)
    }

    fn check(conditions: &str, fields: &[(&str, &str)]) -> Result<(), Code> {
        let text =
            format!("{{\"expiration\": \"2030-01-01T00:00:00Z\", \"conditions\": [{conditions}]}}");
        let policy = policy(&text)?;
        let find = |name: &str| {
            let mut found = fields.iter().filter(|(field, _)| *field == name);
            found.next().map(|(_, value)| *value)
        };
        let names = fields.iter().map(|(name, _)| *name);
        policy
            .check(Timestamp::from_unix_seconds(1_700_000_000), find, names)
            .map_err(|error| error.code)
    }

    #[test]
    fn each_field_must_be_named_and_fit() {
        let key = ("key", "user/a");
        let both = "{\"Bucket\": \"b\"}, [\"Starts-With\", \"$Key\", \"user/\"]";
        assert_eq!(check(both, &[("bucket", "b"), key]), Ok(()));
        let denied = Err(Code::AccessDenied);
        assert_eq!(check(both, &[("bucket", "c"), key]), denied);
        assert_eq!(check(both, &[("bucket", "b"), ("key", "other/")]), denied);
        assert_eq!(check(both, &[key]), denied);
        let more = [("bucket", "b"), key, ("acl", "private")];
        assert_eq!(check(both, &more), denied);
        let free = [("bucket", "b"), key, ("x-ignore-me", "1"), ("policy", "p")];
        assert_eq!(check(both, &free), Ok(()));
        let kinds = "[\"starts-with\", \"$Content-Type\", \"image/\"]";
        let kind = |value| check(kinds, &[("content-type", value)]);
        assert_eq!(kind("image/png, image/gif"), Ok(()));
        assert_eq!(kind("image/png, text/html"), denied);
        assert_eq!(check("[\"eq\", \"$a\", \"\"]", &[("a", "x")]), denied);
    }

    #[test]
    fn a_policy_is_good_until_it_expires() {
        let text = "{\"expiration\": \"2020-01-01T00:00:00.000Z\", \"conditions\": []}";
        let policy = policy(text).unwrap();
        let at = |seconds| {
            let now = Timestamp::from_unix_seconds(seconds);
            policy.check(now, |_| None, [].into_iter()).is_ok()
        };
        assert!(at(1_577_836_800) && !at(1_577_836_801));
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for text in [
            "",
            "[]",
            "{\"conditions\": []}",
            "{\"expiration\": \"2030-01-01T00:00:00Z\"}",
            "{\"Expiration\": \"2030-01-01T00:00:00Z\", \"conditions\": []}",
            "{\"expiration\": \"tomorrow\", \"conditions\": []}",
            "{\"expiration\": \"2030-01-01 00:00:00+00:00\", \"conditions\": []}",
            "{\"expiration\": \"2030-01-01T00:00:00Z\", \"conditions\": {}}",
        ] {
            assert_eq!(
                policy(text).err(),
                Some(Code::InvalidPolicyDocument),
                "{text}"
            );
        }
        for condition in [
            "{}",
            "{\"a\": \"b\", \"c\": \"d\"}",
            "{\"a\": 1}",
            "[\"eq\", \"$a\"]",
            "[\"eq\", \"a\", \"b\"]",
            "[\"ends-with\", \"$a\", \"b\"]",
            "[\"content-length-range\", 0]",
            "[\"content-length-range\", -1, 0]",
            "7",
        ] {
            let answer = check(condition, &[]);
            assert_eq!(answer, Err(Code::InvalidPolicyDocument), "{condition}");
        }
        assert!(PostPolicy::parse("***").is_err());
    }

    #[test]
    fn a_file_must_be_of_the_size_allowed() {
        let text = "{\"expiration\": \"2030-01-01T00:00:00Z\", \"conditions\": \
                    [[\"content-length-range\", 2, \"4\"]]}";
        let policy = policy(text).unwrap();
        let size = |bytes| policy.check_size(bytes).map_err(|error| error.code);
        assert_eq!(size(1), Err(Code::EntityTooSmall));
        assert_eq!((size(2), size(4)), (Ok(()), Ok(())));
        assert_eq!(size(5), Err(Code::EntityTooLarge));
    }
}

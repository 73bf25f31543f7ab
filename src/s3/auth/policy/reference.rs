//! The rules once more, as slow and as plain as they can be written: for a test that compares.
//!
//! Works on the JSON itself, reads it anew for each question, matches by recursion. Knows the
//! operators that the comparison uses.

use serde_json::Value;

use super::{BucketPolicy, Caller, Case, Decision, Relation};

/// What `decide` should say; `user` and `bucket` are the texts of the policies in `case`.
pub(super) fn decide(case: &Case<'_>, user: &[String], bucket: Option<&str>) -> Decision {
    let read = |text: &String| serde_json::from_str::<Value>(text).unwrap();
    let user: Vec<Value> = user.iter().map(read).collect();
    let bucket = bucket.map(|text| read(&text.to_owned()));
    let says = |document: &Value, effect: &str| {
        let statements = &document["Statement"];
        let one = std::slice::from_ref(statements);
        let statements = statements.as_array().map_or(one, Vec::as_slice);
        statements
            .iter()
            .any(|it| it["Effect"] == effect && applies(document, it, case))
    };
    let users_deny = user.iter().any(|it| says(it, "Deny"));
    let users_allow = user.iter().any(|it| says(it, "Allow"));
    let bucket_denies = bucket.as_ref().is_some_and(|it| says(it, "Deny"));
    let bucket_allows = bucket.as_ref().is_some_and(|it| says(it, "Allow"))
        && !(case.restrict_public
            && matches!(case.bucket_policy, BucketPolicy::Is(p) if p.is_public()));
    let owner = case.relation == Relation::Owner;
    let key = matches!(
        case.request.action,
        "s3:GetBucketPolicy" | "s3:PutBucketPolicy" | "s3:DeleteBucketPolicy"
    );
    if case.relation == Relation::Root {
        Decision::Allowed
    } else if users_deny {
        Decision::Denied
    } else if owner && key {
        Decision::Allowed
    } else if bucket_denies {
        Decision::Denied
    } else if owner || users_allow || bucket_allows {
        Decision::Allowed
    } else {
        Decision::NotAllowed
    }
}

fn applies(document: &Value, statement: &Value, case: &Case<'_>) -> bool {
    let variables = document["Version"] == "2012-10-17";
    let request = &case.request;
    let context = |key: &str| -> Vec<String> {
        let values = (request.context)(&key.to_lowercase());
        values
            .into_iter()
            .map(std::borrow::Cow::into_owned)
            .collect()
    };
    let list = |name: &str| -> Option<Vec<String>> {
        let value = statement.get(name)?;
        Some(strings(value))
    };
    let principal = match (statement.get("Principal"), statement.get("NotPrincipal")) {
        (None, None) => true,
        (Some(who), _) => is_named(who, request.caller),
        (None, Some(who)) => !is_named(who, request.caller),
    };
    let action = |patterns: Vec<String>| {
        patterns.iter().any(|pattern| {
            let pattern = if pattern == "*" { "s3:*" } else { pattern };
            like(
                &tokens(&pattern.to_lowercase(), true, None).unwrap(),
                &request.action.to_lowercase(),
            )
        })
    };
    let action = match (list("Action"), list("NotAction")) {
        (Some(patterns), _) => action(patterns),
        (None, patterns) => !action(patterns.unwrap()),
    };
    let resource = |patterns: Vec<String>| {
        patterns.iter().any(|pattern| {
            let name = pattern.strip_prefix("arn:aws:s3:::");
            pattern == "*"
                || name.is_some_and(|name| {
                    let tokens = tokens(name, true, variables.then_some(&context as _));
                    tokens.is_some_and(|tokens| like(&tokens, request.resource))
                })
        })
    };
    let resource = match (list("Resource"), list("NotResource")) {
        (Some(patterns), _) => resource(patterns),
        (None, patterns) => !resource(patterns.unwrap()),
    };
    let nothing = serde_json::Map::new();
    let conditions = statement["Condition"].as_object().unwrap_or(&nothing);
    principal
        && action
        && resource
        && conditions.iter().all(|(operator, keys)| {
            keys.as_object().unwrap().iter().all(|(key, wanted)| {
                holds(
                    operator,
                    &context(key),
                    &strings(wanted),
                    variables,
                    &context,
                )
            })
        })
}

fn holds(
    operator: &str,
    values: &[String],
    wanted: &[String],
    variables: bool,
    context: &Values<'_>,
) -> bool {
    if operator == "Null" {
        return values.is_empty() == (wanted == ["true"]);
    }
    let (set, rest) = operator.split_once(':').unwrap_or(("", operator));
    let base = rest.strip_suffix("IfExists").unwrap_or(rest);
    let negated = base.contains("Not");
    if values.is_empty() {
        let without = if set.is_empty() {
            negated
        } else {
            set == "ForAllValues"
        };
        return base != rest || without;
    }
    let fits = |value: &String| {
        let equal = |pattern: &String| match base {
            "NumericLessThan" => {
                let number: Option<f64> = value.parse().ok();
                number.is_some_and(|it| it < pattern.parse().unwrap())
            }
            _ => {
                let wild = base.ends_with("Like");
                let tokens = tokens(pattern, wild, variables.then_some(context));
                tokens.is_some_and(|tokens| like(&tokens, value))
            }
        };
        wanted.iter().any(equal) != negated
    };
    match set {
        "ForAllValues" => values.iter().all(fits),
        "ForAnyValue" => values.iter().any(fits),
        _ if negated => values.iter().all(fits),
        _ => values.iter().any(fits),
    }
}

fn is_named(who: &Value, caller: Caller<'_>) -> bool {
    if who == "*" {
        return true;
    }
    strings(&who["AWS"]).iter().any(|name| match caller {
        _ if name == "*" => true,
        Caller::Anonymous => false,
        Caller::User { id, name: user } => {
            *name == id
                || *name == format!("arn:aws:iam::{id}:root")
                || *name == format!("arn:aws:iam::{id}:user/{user}")
        }
    })
}

fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(strings).collect(),
        Value::String(text) => vec![text.clone()],
        other => vec![other.to_string()],
    }
}

/// The values of a key of the request.
type Values<'a> = dyn Fn(&str) -> Vec<String> + 'a;

#[derive(Clone, Copy, PartialEq)]
enum Token {
    Is(char),
    One,
    Any,
}

/// `None`: a variable has no value.
fn tokens(text: &str, wild: bool, context: Option<&Values<'_>>) -> Option<Vec<Token>> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        if let (Some(context), ['$', '{', ..]) = (context, &chars[at..]) {
            let end = at + chars[at..].iter().position(|c| *c == '}').unwrap();
            let key: String = chars[at + 2..end].iter().collect();
            if ["*", "?", "$"].contains(&key.as_str()) {
                out.push(Token::Is(chars[at + 2]));
            } else {
                let values = context(&key);
                if values.len() != 1 {
                    return None;
                }
                out.extend(values[0].chars().map(Token::Is));
            }
            at = end + 1;
            continue;
        }
        out.push(match chars[at] {
            '*' if wild => Token::Any,
            '?' if wild => Token::One,
            c => Token::Is(c),
        });
        at += 1;
    }
    Some(out)
}

fn like(pattern: &[Token], text: &str) -> bool {
    let first = text.chars().next();
    let rest = first.map(|c| &text[c.len_utf8()..]);
    match (pattern, first, rest) {
        ([], None, _) => true,
        ([], _, _) => false,
        ([Token::Any, after @ ..], _, rest) => {
            like(after, text) || rest.is_some_and(|rest| like(pattern, rest))
        }
        ([Token::One, after @ ..], Some(_), Some(rest)) => like(after, rest),
        ([Token::Is(wanted), after @ ..], Some(c), Some(rest)) => *wanted == c && like(after, rest),
        _ => false,
    }
}

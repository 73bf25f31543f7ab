//! The table of decisions, the table of refusals, and the comparison with the slow reference.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::*;

/// Groups of a bucket's and a user's policies, and rows of who, what, which, when, and the answer.
const CASES: &str = include_str!("tests/cases.json");
/// Changes to a sound statement that make it none, and a word of the reason.
const REFUSALS: &str = include_str!("tests/refusals.json");
/// Changes to a public statement, and whether it still is public.
const PUBLIC: &str = include_str!("tests/public.json");
const OWNER: &str = "olga";

/// The context of a row: its own keys, and those that tell who asks.
fn context_of(caller: Option<&str>, given: &Value) -> HashMap<String, Vec<String>> {
    let mut context = HashMap::new();
    if let Some(name) = caller {
        context.insert("aws:username".into(), vec![name.to_owned()]);
        context.insert("aws:userid".into(), vec![format!("id-{name}")]);
    }
    for (key, value) in given.as_object().unwrap() {
        let values = match value {
            Value::Array(items) => items.iter().map(|it| it.as_str().unwrap().into()).collect(),
            one => vec![one.as_str().unwrap().to_owned()],
        };
        context.insert(key.to_lowercase(), values);
    }
    context
}

/// A list of statements is short for a whole document; a word names a ready-made policy.
fn document(value: &Value) -> String {
    match value {
        Value::String(name) => ready_made(name).unwrap().to_owned(),
        Value::Array(statements) => {
            json!({"Version": "2012-10-17", "Statement": statements}).to_string()
        }
        whole => whole.to_string(),
    }
}

/// Decides one row of a group and also asks the reference where it knows the words.
fn decide_row(group: &Value, row: &Value) -> Decision {
    let caller = row[0].as_str();
    let context = context_of(caller, &row[3]);
    let lookup = |key: &str| -> Vec<Cow<'_, str>> {
        let values = context.get(key).map_or(&[] as &[String], Vec::as_slice);
        values.iter().map(|it| Cow::Borrowed(it.as_str())).collect()
    };
    let none = Vec::new();
    let user = group["user"].as_array().unwrap_or(&none);
    let user_policies: Vec<Arc<Policy>> = user
        .iter()
        .map(|it| Arc::new(Policy::of_user(&document(it)).unwrap()))
        .collect();
    let bucket = match &group["bucket"] {
        Value::Null => None,
        Value::String(_) => Some(Err(())),
        it => Some(Ok(Policy::of_bucket(&document(it), "box").unwrap())),
    };
    let id = caller.map(|name| format!("id-{name}"));
    let case = Case {
        relation: match caller {
            Some("root") => Relation::Root,
            Some(OWNER) => Relation::Owner,
            _ => Relation::Other,
        },
        user_policies: &user_policies,
        bucket_policy: match &bucket {
            None => BucketPolicy::None,
            Some(Ok(policy)) => BucketPolicy::Is(policy),
            Some(Err(())) => BucketPolicy::Unreadable,
        },
        restrict_public: group["restrict"] == true,
        request: Request {
            caller: match (&id, caller) {
                (Some(id), Some(name)) => Caller::User { id, name },
                _ => Caller::Anonymous,
            },
            action: row[1].as_str().unwrap(),
            resource: row[2].as_str().unwrap(),
            context: &lookup,
        },
    };
    decide(&case)
}

#[test]
fn the_table_of_decisions_holds() {
    let groups: Vec<Value> = serde_json::from_str(CASES).unwrap();
    let mut rows = 0;
    for group in &groups {
        for row in group["rows"].as_array().unwrap() {
            rows += 1;
            let wanted = match row[4].as_str().unwrap() {
                "allow" => Decision::Allowed,
                "deny" => Decision::Denied,
                "none" => Decision::NotAllowed,
                other => panic!("{other}"),
            };
            assert_eq!(decide_row(group, row), wanted, "{}: {row}", group["about"]);
        }
    }
    assert!(rows >= 300, "only {rows} cases");
}

/// A bucket policy of one statement with these elements put over a sound one; null takes away.
fn with(changes: &Value) -> String {
    let mut statement = json!({
        "Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::box/*",
    });
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => statement.as_object_mut().unwrap().remove(name),
            value => statement
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    json!({"Version": "2012-10-17", "Statement": [statement]}).to_string()
}

#[test]
fn what_is_not_a_sound_statement_is_refused() {
    assert!(Policy::of_bucket(&with(&json!({})), "box").is_ok());
    let refusals: Vec<(Value, String)> = serde_json::from_str(REFUSALS).unwrap();
    assert!(refusals.len() > 80);
    for (changes, reason) in refusals {
        let error = Policy::of_bucket(&with(&changes), "box").unwrap_err();
        assert!(error.reason.contains(&reason), "{changes}: {error}");
    }
}

#[test]
fn sec_policy_fail_open_what_is_not_a_document_is_refused() {
    let sound = with(&json!({}));
    let twice = sound.replacen(
        "\"Effect\":\"Allow\"",
        "\"Effect\":\"Deny\",\"Effect\":\"Allow\"",
        1,
    );
    let deep = format!("{}1{}", "[".repeat(9_000), "]".repeat(9_000));
    let in_document = |inner: &str| format!("{{\"Version\":\"2012-10-17\",{inner}}}");
    let long = sound.replacen("box/*", &format!("box/{}", "x".repeat(20 << 10)), 1);
    let many = "${aws:username}".repeat(101);
    for (text, reason) in [
        ("", "JSON"),
        ("{", "JSON"),
        ("[]", "object"),
        ("\"x\"", "object"),
        ("null", "object"),
        ("{}", "Statement"),
        (&deep, "nested"),
        (&format!("{sound}x"), "JSON"),
        (&format!("{sound}{sound}"), "JSON"),
        (&twice, "twice"),
        (&long, "bytes"),
        (
            &sound.replacen("box/*", &format!("box/{many}"), 1),
            "variables",
        ),
        (&sound.replacen("2012-10-17", "2012-10-18", 1), "version"),
        (&sound.replacen("\"2012-10-17\"", "2012", 1), "version"),
        (&in_document("\"Statement\":[]"), "Statement is empty"),
        (&in_document("\"Statement\":null"), "Statement"),
        (&in_document("\"Statement\":[[]]"), "Statement"),
        (&in_document("\"Statement\":\"x\""), "Statement"),
        (&in_document("\"statement\":{}"), "statement"),
        (&in_document("\"Id\":7,\"Statement\":{}"), "Id"),
    ] {
        let error = Policy::of_bucket(text, "box").unwrap_err();
        assert!(error.reason.contains(reason), "{:.200}: {error}", text);
        assert!(Policy::of_user(text).is_err());
    }
    let error = Policy::of_user(&sound).unwrap_err();
    assert!(error.reason.contains("principal"), "{error}");
}

#[test]
fn allowances_that_reach_nothing_and_odd_but_sound_documents_are_taken() {
    for changes in [
        json!({"Resource": "arn:aws:s3:::box"}),
        json!({"Resource": "arn:aws:s3:::*"}),
        json!({"Resource": ["arn:aws:s3:::*", "arn:aws:s3:::*/*"], "Action": "s3:ListBucket"}),
        json!({"Resource": "*"}),
        json!({"Resource": "arn:aws:s3:::b?x/${aws:username}"}),
        json!({"Resource": "arn:aws:s3:::${aws:username}/*"}),
        json!({"Sid": "Allow Public Access to All Objects"}),
        json!({"Action": "*"}),
        json!({"Effect": "Deny", "Principal": null, "NotPrincipal": {"AWS": "ann"}}),
        json!({"Effect": "Deny", "Action": "*", "Resource": "arn:aws:s3:::box"}),
        json!({"Effect": "Deny", "Action": null, "NotAction": "s3:GetObject"}),
        json!({"Condition": {"StringEquals": {"aws:SomethingNew": 7}}}),
        json!({"Condition": {}}),
    ] {
        let text = with(&changes);
        Policy::of_bucket(&text, "box").unwrap_or_else(|error| panic!("{changes}: {error}"));
    }
    for name in READY_MADE {
        assert!(Policy::of_user(ready_made(name).unwrap()).is_ok(), "{name}");
    }
    assert_eq!(ready_made("nonsense"), None);
}

#[test]
fn public_is_what_s3_calls_public() {
    let publics: Vec<(Value, bool)> = serde_json::from_str(PUBLIC).unwrap();
    for (changes, public) in publics {
        let policy = Policy::of_bucket(&with(&changes), "box").unwrap();
        assert_eq!(policy.is_public(), public, "{changes}");
    }
}

#[test]
fn sec_resource_exhaustion_a_pattern_of_stars_is_matched_in_little_work() {
    // A matcher that tries every way to share the text among the stars needs ages for this.
    let stars = "*a".repeat(5000);
    let text = with(&json!({"Resource": format!("arn:aws:s3:::box/{stars}b")}));
    let policy = Policy::of_bucket(&text, "box").unwrap();
    let nothing = |_: &str| Vec::new();
    let resource = format!("box/{}", "a".repeat(16 << 10));
    let request = Request {
        caller: Caller::Anonymous,
        action: "s3:GetObject",
        resource: &resource,
        context: &nothing,
    };
    assert_eq!(policy.judge(&request), None);
}

const ACTIONS: [&str; 5] = [
    "s3:GetObject",
    "s3:PutObject",
    "s3:ListBucket",
    "s3:PutBucketPolicy",
    "s3:DeleteObject",
];

fn one_or_more(items: Vec<Value>) -> impl Strategy<Value = Value> {
    let count = items.len();
    (subsequence(items, 1..=count), any::<bool>()).prop_map(|(items, bare)| {
        match items.as_slice() {
            [one] if bare => one.clone(),
            many => many.into(),
        }
    })
}

fn json_texts(texts: &[&str]) -> Vec<Value> {
    texts.iter().map(|text| json!(text)).collect()
}

fn conditions() -> impl Strategy<Value = Value> {
    let operator = select(vec![
        "StringEquals",
        "StringNotEquals",
        "StringLike",
        "StringNotLike",
        "StringLikeIfExists",
        "StringNotEqualsIfExists",
        "ForAllValues:StringLike",
        "ForAnyValue:StringLike",
        "ForAllValues:StringNotEquals",
        "ForAnyValue:StringNotLike",
        "ForAnyValue:StringEqualsIfExists",
        "NumericLessThan",
        "Null",
    ]);
    let key = select(vec!["s3:prefix", "aws:username", "s3:RequestObjectTagKeys"]);
    let texts = json_texts(&[
        "a",
        "a*",
        "?",
        "*b*",
        "${aws:username}",
        "x${s3:prefix}*",
        "${*}",
    ]);
    (operator, key, one_or_more(texts), 0..3_i32, any::<bool>()).prop_map(
        |(operator, key, texts, number, absent)| {
            let values = match operator {
                "NumericLessThan" => json!([number, "1"]),
                "Null" => json!(absent.to_string()),
                _ => texts,
            };
            json!({operator: {key: values}})
        },
    )
}

fn statements(for_bucket: bool) -> impl Strategy<Value = Value> {
    let actions = json_texts(&[
        "s3:GetObject",
        "s3:get*",
        "s3:*Object",
        "*",
        "s3:List?ucket",
    ]);
    let resources = json_texts(&[
        "*",
        "arn:aws:s3:::box",
        "arn:aws:s3:::box/*",
        "arn:aws:s3:::b*x/a?/*",
        "arn:aws:s3:::box/${aws:username}*",
        "arn:aws:s3:::*/*b",
    ]);
    let principals = json_texts(&["ann", "arn:aws:iam::id-ann:root", "id-bob", "*"]);
    let nots = (any::<bool>(), any::<bool>(), any::<bool>());
    let elements = (
        one_or_more(actions),
        one_or_more(resources),
        one_or_more(principals),
    );
    let condition = option::of(conditions());
    (any::<bool>(), nots, elements, condition).prop_map(
        move |(allows, nots, (actions, resources, principals), condition)| {
            let name = |not: bool, name: &str| {
                if not {
                    format!("Not{name}")
                } else {
                    name.into()
                }
            };
            let mut statement = serde_json::Map::new();
            let effect = if allows { "Allow" } else { "Deny" };
            statement.insert("Effect".into(), effect.into());
            statement.insert(name(nots.0, "Action"), actions);
            statement.insert(name(nots.1, "Resource"), resources);
            if for_bucket {
                let name = name(nots.2 && !allows, "Principal");
                statement.insert(name, json!({"AWS": principals}));
            }
            if let Some(condition) = condition {
                statement.insert("Condition".into(), condition);
            }
            statement.into()
        },
    )
}

fn documents(for_bucket: bool) -> impl Strategy<Value = String> {
    let version = select(vec!["2012-10-17", "2012-10-17", "2008-10-17"]);
    (version, vec(statements(for_bucket), 1..4)).prop_map(|(version, statements)| {
        json!({"Version": version, "Statement": statements}).to_string()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn decisions_are_those_of_the_slow_reference(
        user in vec(documents(false), 0..3),
        bucket in option::of(documents(true)),
        restrict_public in any::<bool>(),
        relation in select(vec![Relation::Other, Relation::Other, Relation::Owner, Relation::Root]),
        caller in option::of(select(vec!["ann", "bob", "a*", "b"])),
        action in select(ACTIONS.to_vec()),
        key in option::of("[ab*/]{0,6}"),
        prefix in option::of("[abx*]{0,3}|[0-2]"),
        tags in subsequence(vec!["a", "b", "ab", "*"], 0..=3),
    ) {
        let resource = key.map_or("box".to_owned(), |key| format!("box/{key}"));
        let prefix: Vec<String> = prefix.into_iter().collect();
        let given = json!({"s3:prefix": prefix, "s3:RequestObjectTagKeys": tags});
        let mut context = context_of(caller, &given);
        context.retain(|_, values| !values.is_empty());
        let lookup = |key: &str| -> Vec<Cow<'_, str>> {
            let values = context.get(key).map_or(&[] as &[String], Vec::as_slice);
            values.iter().map(|it| Cow::Borrowed(it.as_str())).collect()
        };
        let parse = |text: &String| Arc::new(Policy::of_user(text).unwrap());
        let user_policies: Vec<_> = user.iter().map(parse).collect();
        // A denial that reaches nothing is refused; such documents are not compared.
        let policy = bucket.as_ref().map(|text| Policy::of_bucket(text, "box"));
        prop_assume!(!matches!(policy, Some(Err(_))));
        let policy = policy.transpose().unwrap();
        let id = caller.map(|name| format!("id-{name}"));
        let case = Case {
            relation,
            user_policies: &user_policies,
            bucket_policy: policy.as_ref().map_or(BucketPolicy::None, BucketPolicy::Is),
            restrict_public,
            request: Request {
                caller: match (&id, caller) {
                    (Some(id), Some(name)) => Caller::User { id, name },
                    _ => Caller::Anonymous,
                },
                action,
                resource: &resource,
                context: &lookup,
            },
        };
        prop_assert_eq!(decide(&case), reference::decide(&case, &user, bucket.as_deref()));
    }

    #[test]
    fn sec_panics_no_text_breaks_the_reader(text in "\\PC{0,200}", value in any::<i64>()) {
        let _ = Policy::of_user(&text);
        let _ = Policy::of_bucket(&text, "box");
        let inside = with(&json!({"Resource": format!("arn:aws:s3:::box/{text}"), "Condition":
            {"StringLike": {"aws:username": text}, "DateEquals": {"aws:CurrentTime": value}}}));
        let _ = Policy::of_bucket(&inside, "box");
    }
}

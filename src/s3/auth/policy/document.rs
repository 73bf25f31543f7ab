//! A policy's text becomes statements, or is refused: what is not understood grants nothing.

use std::borrow::Cow;

use super::Request;
use super::condition::Condition;
use super::json::Json;
use super::names::{self, ACTION_SYNTAX, Level};
use super::pattern::{Pattern, ResourcePattern, Syntax};
use super::principal::Principal;
use crate::limits::{POLICY_BYTES_MAX, POLICY_VARIABLES_MAX};

/// A document that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    statements: Vec<Statement>,
    is_public: bool,
    asks_for_tags: bool,
}

/// Why a text is no policy; for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct PolicyError {
    pub reason: Cow<'static, str>,
}

impl PolicyError {
    pub(super) fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

#[derive(Clone, Debug, PartialEq)]
struct Statement {
    effect: Effect,
    /// `None` in a policy of a user, which is about that user.
    principals: Option<OneOf<Principal>>,
    /// In lower case.
    actions: OneOf<Pattern>,
    resources: OneOf<ResourcePattern>,
    conditions: Vec<Condition>,
}

/// `Action` or `NotAction` and the like.
#[derive(Clone, Debug, PartialEq)]
struct OneOf<T> {
    items: Vec<T>,
    negated: bool,
}

impl<T> OneOf<T> {
    fn holds(&self, fits: impl Fn(&T) -> bool) -> bool {
        self.items.iter().any(fits) != self.negated
    }
}

/// Where a policy stands.
#[derive(Clone, Copy, Debug)]
enum Place<'a> {
    User,
    Bucket(&'a str),
}

impl Policy {
    /// The policy of a user: no principal, any service.
    pub fn of_user(text: &str) -> Result<Self, PolicyError> {
        Self::parse(text, Place::User)
    }

    /// The policy of this bucket: each statement says whom it is about, and reaches into the
    /// bucket.
    pub fn of_bucket(text: &str, bucket: &str) -> Result<Self, PolicyError> {
        Self::parse(text, Place::Bucket(bucket))
    }

    fn parse(text: &str, place: Place<'_>) -> Result<Self, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::new(format!(
                "it has {} bytes; a policy has at most {POLICY_BYTES_MAX}",
                text.len()
            )));
        }
        let Json::Object(elements) = Json::parse(text)? else {
            return Err(PolicyError::new("it is not a JSON object"));
        };
        let mut version = None;
        let mut statements = None;
        for (name, value) in &elements {
            match name.as_str() {
                "Version" => version = Some(value),
                "Id" if value.as_text().is_some() => {}
                "Statement" => statements = Some(value),
                _ => return Err(PolicyError::new(format!("Unknown field {name}"))),
            }
        }
        let variables = match version.map(Json::as_text) {
            Some(Some("2012-10-17")) => true,
            Some(Some("2008-10-17")) | None => false,
            Some(_) => {
                return Err(PolicyError::new(
                    "The policy must contain a valid version string: 2012-10-17 or 2008-10-17",
                ));
            }
        };
        let statements = match statements {
            Some(Json::List(items)) if !items.is_empty() => items.iter().collect(),
            Some(one @ Json::Object(_)) => vec![one],
            Some(Json::List(_)) => return Err(PolicyError::new("Statement is empty!")),
            _ => return Err(PolicyError::new("Missing required field Statement")),
        };
        let statements = statements
            .into_iter()
            .map(|statement| Statement::parse(statement, place, variables))
            .collect::<Result<Vec<_>, _>>()?;
        let variables: usize = statements.iter().map(Statement::variables).sum();
        if variables > POLICY_VARIABLES_MAX {
            return Err(PolicyError::new(format!(
                "it has {variables} policy variables; a policy has at most {POLICY_VARIABLES_MAX}"
            )));
        }
        let tag = |it: &Condition| it.key.starts_with("s3:existingobjecttag/");
        Ok(Self {
            is_public: statements.iter().any(Statement::is_public),
            asks_for_tags: statements.iter().any(|it| it.conditions.iter().any(tag)),
            statements,
        })
    }

    /// Whether it allows something to everybody, as S3 defines it.
    pub fn is_public(&self) -> bool {
        self.is_public
    }

    /// Whether the tags of an object that is there matter for an answer.
    pub fn asks_for_tags(&self) -> bool {
        self.asks_for_tags
    }

    /// What it says about the request: a denial wins, `None` is nothing.
    pub(super) fn judge(&self, request: &Request<'_>) -> Option<Effect> {
        let action = request.action.to_ascii_lowercase();
        let mut verdict = None;
        for statement in &self.statements {
            if verdict.is_some() && statement.effect == Effect::Allow {
                continue;
            }
            if statement.applies(request, &action) {
                match statement.effect {
                    Effect::Deny => return Some(Effect::Deny),
                    Effect::Allow => verdict = Some(Effect::Allow),
                }
            }
        }
        verdict
    }
}

impl Statement {
    fn parse(value: &Json, place: Place<'_>, variables: bool) -> Result<Self, PolicyError> {
        let Json::Object(elements) = value else {
            return Err(PolicyError::new("a Statement is not an object"));
        };
        for (name, value) in elements {
            let known = ELEMENTS.contains(&name.as_str());
            if !known || (name == "Sid" && value.as_text().is_none()) {
                return Err(PolicyError::new(format!("Unknown field {name}")));
            }
        }
        let find = |wanted: &str| {
            let mut found = elements.iter().filter(|(name, _)| name == wanted);
            found.next().map(|(_, value)| value)
        };
        let effect = match find("Effect").and_then(Json::as_text) {
            Some("Allow") => Effect::Allow,
            Some("Deny") => Effect::Deny,
            Some(other) => return Err(PolicyError::new(format!("Invalid effect: {other}"))),
            None => return Err(PolicyError::new("Missing required field Effect")),
        };
        let either = |plain: &'static str, not: &'static str| match (find(plain), find(not)) {
            (Some(value), None) => Ok(Some((value, plain, false))),
            (None, Some(value)) => Ok(Some((value, not, true))),
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(PolicyError::new(format!(
                "a Statement has both {plain} and {not}"
            ))),
        };
        let missing = |what: &str| PolicyError::new(format!("Missing required field {what}"));
        let principals = principals(either("Principal", "NotPrincipal")?, place, effect)?;
        let action = either("Action", "NotAction")?.ok_or_else(|| missing("Action"))?;
        let resource = either("Resource", "NotResource")?.ok_or_else(|| missing("Resource"))?;
        let conditions = match find("Condition") {
            None => Vec::new(),
            Some(value) => Condition::parse_all(value, variables)?,
        };
        let statement = Self {
            effect,
            principals,
            actions: actions(action, place)?,
            resources: resources(resource, variables)?,
            conditions,
        };
        if let Place::Bucket(bucket) = place {
            statement.check_reach(bucket, resource.0)?;
        }
        Ok(statement)
    }

    /// Each resource of a bucket's policy lies in the bucket. A denial that can never apply is
    /// refused too: whoever wrote it believes that it does. An allowance that cannot is harmless,
    /// and clients write those.
    fn check_reach(&self, bucket: &str, written: &Json) -> Result<(), PolicyError> {
        let reaches: Vec<_> = self
            .resources
            .items
            .iter()
            .map(|it| it.reaches(bucket))
            .collect();
        if reaches.contains(&(false, false)) {
            let resource = texts(written, "Resource")?.join(", ");
            return Err(PolicyError::new(format!(
                "Policy has invalid resource: {resource}"
            )));
        }
        if self.effect == Effect::Allow || self.actions.negated || self.resources.negated {
            return Ok(());
        }
        for action in &self.actions.items {
            let applies = |level: Level| match level {
                Level::Bucket => reaches.iter().any(|(bucket, _)| *bucket),
                Level::Object => reaches.iter().any(|(_, object)| *object),
                Level::Account => false,
            };
            if !names::levels(action).any(applies) {
                return Err(PolicyError::new(
                    "Action does not apply to any resource(s) in statement",
                ));
            }
        }
        Ok(())
    }

    fn applies(&self, request: &Request<'_>, action: &str) -> bool {
        let nothing = |_: &str| Vec::new();
        self.principals
            .as_ref()
            .is_none_or(|principals| principals.holds(|it| it.matches(request.caller)))
            && self.actions.holds(|it| it.matches(action, &nothing))
            && self
                .resources
                .holds(|it| it.matches(request.resource, request.context))
            && self.conditions.iter().all(|it| it.holds(request.context))
    }

    /// Whether it allows something to principals or from places that are not fixed.
    fn is_public(&self) -> bool {
        let everyone = self
            .principals
            .as_ref()
            .is_some_and(|it| it.negated || it.items.contains(&Principal::Everyone));
        self.effect == Effect::Allow && everyone && !self.conditions.iter().any(Condition::narrows)
    }

    fn variables(&self) -> usize {
        let in_resources: usize = self
            .resources
            .items
            .iter()
            .map(ResourcePattern::variables)
            .sum();
        let in_conditions: usize = self.conditions.iter().map(Condition::variables).sum();
        in_resources + in_conditions
    }
}

/// An element, the name under which it came, and whether that is its `Not` form.
type Element<'a> = (&'a Json, &'static str, bool);

fn principals(
    element: Option<Element<'_>>,
    place: Place<'_>,
    effect: Effect,
) -> Result<Option<OneOf<Principal>>, PolicyError> {
    match (place, element) {
        (Place::User, None) => Ok(None),
        (Place::User, Some((_, name, _))) => Err(PolicyError::new(format!(
            "Policy document should not specify a principal: {name}"
        ))),
        (Place::Bucket(_), None) => Err(PolicyError::new("Missing required field Principal")),
        (Place::Bucket(_), Some((_, _, true))) if effect == Effect::Allow => {
            Err(PolicyError::new("Allow with NotPrincipal is not allowed"))
        }
        (Place::Bucket(_), Some((value, _, negated))) => Ok(Some(OneOf {
            items: Principal::parse_all(value)?,
            negated,
        })),
    }
}

fn actions(
    (value, name, negated): Element<'_>,
    place: Place<'_>,
) -> Result<OneOf<Pattern>, PolicyError> {
    let mut items = Vec::new();
    for text in texts(value, name)? {
        let invalid = || PolicyError::new(format!("Policy has invalid action: {text}"));
        let (service, action) = match text.split_once(':') {
            Some((service, action)) if !service.is_empty() && !action.is_empty() => {
                (service, action)
            }
            None if text == "*" => ("s3", "*"),
            _ => return Err(invalid()),
        };
        let in_service = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let in_action = |c: char| c.is_ascii_alphanumeric() || matches!(c, '*' | '?');
        if !service.chars().all(in_service) || !action.chars().all(in_action) {
            return Err(invalid());
        }
        let pattern = Pattern::parse(
            &format!("{service}:{action}").to_ascii_lowercase(),
            ACTION_SYNTAX,
        )?;
        let is_ours = service.eq_ignore_ascii_case("s3");
        let is_foreign = matches!(place, Place::User) && !is_ours;
        if !is_foreign && names::levels(&pattern).next().is_none() {
            return Err(invalid());
        }
        items.push(pattern);
    }
    Ok(OneOf { items, negated })
}

fn resources(
    (value, name, negated): Element<'_>,
    variables: bool,
) -> Result<OneOf<ResourcePattern>, PolicyError> {
    let syntax = Syntax {
        wildcards: true,
        variables,
    };
    let items = texts(value, name)?
        .into_iter()
        .map(|text| ResourcePattern::parse(text, syntax))
        .collect::<Result<_, _>>()?;
    Ok(OneOf { items, negated })
}

/// One text or a list of them, not empty.
pub(super) fn texts<'a>(value: &'a Json, name: &str) -> Result<Vec<&'a str>, PolicyError> {
    let all = match value {
        Json::Text(text) => vec![text.as_str()],
        Json::List(items) => items
            .iter()
            .map(|item| {
                let text = item.as_text();
                text.ok_or_else(|| PolicyError::new(format!("{name} holds what is no text")))
            })
            .collect::<Result<_, _>>()?,
        _ => {
            return Err(PolicyError::new(format!(
                "{name} is neither text nor a list"
            )));
        }
    };
    if all.is_empty() || all.contains(&"") {
        return Err(PolicyError::new(format!("{name} is empty")));
    }
    Ok(all)
}

const ELEMENTS: [&str; 9] = [
    "Sid",
    "Effect",
    "Principal",
    "NotPrincipal",
    "Action",
    "NotAction",
    "Resource",
    "NotResource",
    "Condition",
];

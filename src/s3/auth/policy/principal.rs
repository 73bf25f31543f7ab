//! Who a statement of a bucket policy is about.
//!
//! Every user is an account of its own, named by its owner id: `arn:aws:iam::ID:root`, the bare
//! `ID`, a `CanonicalUser` of that id, `arn:aws:iam::ID:user/NAME`, and for those who know only
//! the name `arn:aws:iam:::user/NAME`. Ids and names are unique among users, each for itself.

use super::document::{PolicyError, texts};
use super::json::Json;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller<'a> {
    Anonymous,
    User { id: &'a str, name: &'a str },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Principal {
    /// Anonymous callers too.
    Everyone,
    Id(Box<str>),
    Name {
        id: Option<Box<str>>,
        name: Box<str>,
    },
    /// A role, a service or an identity provider: nobody here is one.
    Foreign,
}

impl Principal {
    /// The value of a `Principal` or `NotPrincipal` element.
    pub(super) fn parse_all(value: &Json) -> Result<Vec<Self>, PolicyError> {
        if let Json::Text(text) = value {
            return if text == "*" {
                Ok(vec![Self::Everyone])
            } else {
                Err(invalid(text))
            };
        }
        let Json::Object(kinds) = value else {
            return Err(PolicyError::new("Invalid principal in policy"));
        };
        let mut all = Vec::new();
        for (kind, names) in kinds {
            for name in texts(names, kind)? {
                all.push(match kind.as_str() {
                    "AWS" => Self::of_aws(name)?,
                    "CanonicalUser" if is_plain(name) => Self::Id(name.into()),
                    "Service" | "Federated" if name != "*" && !name.is_empty() => Self::Foreign,
                    _ => return Err(invalid(name)),
                });
            }
        }
        if all.is_empty() {
            return Err(PolicyError::new("Invalid principal in policy: it is empty"));
        }
        Ok(all)
    }

    fn of_aws(text: &str) -> Result<Self, PolicyError> {
        if text == "*" {
            return Ok(Self::Everyone);
        }
        let Some(arn) = text.strip_prefix("arn:") else {
            return if is_plain(text) {
                Ok(Self::Id(text.into()))
            } else {
                Err(invalid(text))
            };
        };
        let parts: Vec<&str> = arn.splitn(5, ':').collect();
        let [partition, service, "", account, resource] = parts.as_slice() else {
            return Err(invalid(text));
        };
        let wild = [*account, *resource]
            .iter()
            .any(|part| part.contains(['*', '?', '$']));
        if !partition.starts_with("aws") || wild {
            return Err(invalid(text));
        }
        let id = (!account.is_empty()).then(|| Box::from(*account));
        match (*service, resource.split_once('/'), id) {
            ("iam", None, Some(id)) if *resource == "root" => Ok(Self::Id(id)),
            ("iam", Some(("user", name)), id) if !name.is_empty() => Ok(Self::Name {
                id,
                name: name.into(),
            }),
            ("iam", Some(("role" | "group", name)), Some(_)) if !name.is_empty() => {
                Ok(Self::Foreign)
            }
            ("sts", Some(("assumed-role" | "federated-user", _)), Some(_)) => Ok(Self::Foreign),
            _ => Err(invalid(text)),
        }
    }

    pub(super) fn matches(&self, caller: Caller<'_>) -> bool {
        match (self, caller) {
            (Self::Everyone, _) => true,
            (Self::Id(wanted), Caller::User { id, .. }) => **wanted == *id,
            (
                Self::Name {
                    id: wanted_id,
                    name: wanted,
                },
                Caller::User { id, name },
            ) => **wanted == *name && wanted_id.as_deref().is_none_or(|wanted| wanted == id),
            (Self::Id(_) | Self::Name { .. }, Caller::Anonymous) | (Self::Foreign, _) => false,
        }
    }
}

/// An id without what would make it look like a pattern or an ARN.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(['*', '?', ':', '/', '$'])
}

fn invalid(text: &str) -> PolicyError {
    PolicyError::new(format!("Invalid principal in policy: {text}"))
}

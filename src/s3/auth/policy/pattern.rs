//! Text with wildcards and policy variables, and names of resources made of it.

use std::borrow::Cow;

use super::document::PolicyError;

/// The values of a condition key (in lower case) for the request at hand; empty if it has none.
pub type Lookup<'a> = dyn Fn(&str) -> Vec<Cow<'a, str>> + 'a;

/// What stands for more than itself in a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Syntax {
    /// `*` is any run of characters, `?` is any one.
    pub wildcards: bool,
    /// `${key}` is the request's value, `${*}` a star.
    pub variables: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pieces: Box<[Piece]>,
    has_variables: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    /// `?`
    One,
    /// `*`
    Any,
    Variable {
        /// In lower case.
        key: Box<str>,
        default: Option<Box<str>>,
    },
}

impl Pattern {
    pub(super) fn parse(text: &str, syntax: Syntax) -> Result<Self, PolicyError> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let mut used = c.len_utf8();
            let piece = match c {
                '*' if syntax.wildcards => Some(Piece::Any),
                '?' if syntax.wildcards => Some(Piece::One),
                '$' if syntax.variables && rest.starts_with("${") => {
                    let end = rest.find('}').ok_or_else(|| bad_variable(text))?;
                    used = end + 1;
                    let inner = rest.get(2..end).unwrap_or_default();
                    match inner {
                        "*" | "?" | "$" => {
                            plain.push_str(inner);
                            None
                        }
                        _ => Some(variable(inner).ok_or_else(|| bad_variable(text))?),
                    }
                }
                c => {
                    plain.push(c);
                    None
                }
            };
            if let Some(piece) = piece {
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
                }
                // Two stars in a row say what one says.
                if piece != Piece::Any || pieces.last() != Some(&Piece::Any) {
                    pieces.push(piece);
                }
            }
            rest = rest.get(used..).unwrap_or_default();
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.into()));
        }
        Ok(Self {
            has_variables: pieces
                .iter()
                .any(|piece| matches!(piece, Piece::Variable { .. })),
            pieces: pieces.into(),
        })
    }

    /// Only text, the same for every request.
    pub(super) fn is_fixed(&self) -> bool {
        self.pieces
            .iter()
            .all(|piece| matches!(piece, Piece::Text(_)))
    }

    /// How many variables it holds.
    pub(super) fn variables(&self) -> usize {
        let is_variable = |piece: &&Piece| matches!(piece, Piece::Variable { .. });
        self.pieces.iter().filter(is_variable).count()
    }

    /// Whether all of `text` fits. A pattern with a variable that has no value fits nothing, and
    /// the value of a variable is text: a star in it is a star.
    pub(super) fn matches(&self, text: &str, context: &Lookup<'_>) -> bool {
        if !self.has_variables {
            return glob(&self.pieces, text);
        }
        match self.resolve(context) {
            Some(pieces) => glob(&pieces, text),
            None => false,
        }
    }

    /// The text of a pattern without wildcards, or nothing if a variable has no value.
    pub(super) fn text(&self, context: &Lookup<'_>) -> Option<String> {
        let mut out = String::new();
        for piece in self.resolve(context)? {
            if let Piece::Text(text) = piece {
                out.push_str(&text);
            }
        }
        Some(out)
    }

    /// Whether some text that starts with `start` may fit.
    pub(super) fn may_start_with(&self, start: &str) -> bool {
        let mut rest = start;
        for piece in &self.pieces {
            match piece {
                Piece::Any | Piece::Variable { .. } => return true,
                Piece::One => {
                    let mut chars = rest.chars();
                    if chars.next().is_none() {
                        return true;
                    }
                    rest = chars.as_str();
                }
                Piece::Text(text) => match rest.strip_prefix(&**text) {
                    Some(after) => rest = after,
                    None => return text.starts_with(rest),
                },
            }
            if rest.is_empty() {
                return true;
            }
        }
        false
    }

    fn resolve(&self, context: &Lookup<'_>) -> Option<Vec<Piece>> {
        let mut resolved = Vec::with_capacity(self.pieces.len());
        for piece in &self.pieces {
            resolved.push(match piece {
                Piece::Variable { key, default } => {
                    let mut values = context(key).into_iter();
                    match (values.next(), values.next(), default) {
                        (Some(value), None, _) => Piece::Text(value.into()),
                        (None, _, Some(default)) => Piece::Text(default.clone()),
                        _ => return None,
                    }
                }
                other => other.clone(),
            });
        }
        Some(resolved)
    }
}

/// Matches from left to right. After a mismatch the last star takes more: earlier stars took the
/// least that they could, so that nothing is gained by giving them more.
fn glob(pieces: &[Piece], text: &str) -> bool {
    let (mut at, mut rest) = (0, text);
    let mut star: Option<(usize, &str)> = None;
    loop {
        let step = match pieces.get(at) {
            Some(Piece::Any) => {
                star = Some((at + 1, rest));
                Some(rest)
            }
            Some(Piece::Text(text)) => rest.strip_prefix(&**text),
            Some(Piece::One) => rest.chars().next().and_then(|c| rest.get(c.len_utf8()..)),
            // Resolved before.
            Some(Piece::Variable { .. }) => None,
            None if rest.is_empty() => return true,
            None => None,
        };
        if let Some(after) = step {
            (at, rest) = (at + 1, after);
            continue;
        }
        let Some((after, from)) = star else {
            return false;
        };
        let mut next = match from.chars().next() {
            Some(c) => from.get(c.len_utf8()..).unwrap_or_default(),
            None => return false,
        };
        match pieces.get(after) {
            None => return true,
            // Where the text behind the star does not stand, nothing can fit.
            Some(Piece::Text(wanted)) => match next.find(&**wanted) {
                Some(found) => next = next.get(found..).unwrap_or_default(),
                None => return false,
            },
            Some(_) => {}
        }
        star = Some((after, next));
        (at, rest) = (after, next);
    }
}

/// `aws:username`, or with `, 'text'` behind it for when there is no value.
fn variable(inner: &str) -> Option<Piece> {
    let (key, default) = match inner.split_once(',') {
        None => (inner, None),
        Some((key, default)) => {
            let text = default.trim().strip_prefix('\'')?.strip_suffix('\'')?;
            (key, Some(text.into()))
        }
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || ":/-_.+=@".contains(c);
    let is_key = key.contains(':') && key.chars().all(legal);
    is_key.then(|| Piece::Variable {
        key: key.to_ascii_lowercase().into(),
        default,
    })
}

fn bad_variable(text: &str) -> PolicyError {
    PolicyError::new(format!("it holds a bad policy variable: {text}"))
}

/// What a `Resource` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResourcePattern {
    /// `*`
    Everything,
    /// `arn:aws:s3:::` and this.
    Of(Pattern),
    /// Things of another service.
    Foreign,
}

impl ResourcePattern {
    pub(super) fn parse(text: &str, syntax: Syntax) -> Result<Self, PolicyError> {
        if text == "*" {
            return Ok(Self::Everything);
        }
        let invalid = || PolicyError::new(format!("Policy has invalid resource: {text}"));
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let [arn, partition, service, region, account, resource] = parts.as_slice() else {
            return Err(invalid());
        };
        if *arn != "arn" || resource.is_empty() || partition.is_empty() || service.is_empty() {
            return Err(invalid());
        }
        let fits = |pattern: &str, value: &str| -> Result<bool, PolicyError> {
            if pattern.contains('$') {
                return Err(invalid());
            }
            let syntax = Syntax {
                wildcards: true,
                variables: false,
            };
            Ok(Pattern::parse(pattern, syntax)?.matches(value, &|_| Vec::new()))
        };
        let ours =
            fits(partition, "aws")? & fits(service, "s3")? & fits(region, "")? & fits(account, "")?;
        let resource = Pattern::parse(resource, syntax)?;
        Ok(if ours {
            Self::Of(resource)
        } else {
            Self::Foreign
        })
    }

    pub(super) fn matches(&self, resource: &str, context: &Lookup<'_>) -> bool {
        match self {
            Self::Everything => true,
            Self::Of(pattern) => pattern.matches(resource, context),
            Self::Foreign => false,
        }
    }

    /// Whether it may name the bucket itself, and whether it may name something in it.
    pub(super) fn reaches(&self, bucket: &str) -> (bool, bool) {
        match self {
            Self::Everything => (true, true),
            Self::Of(pattern) => (
                pattern.variables() > 0 || pattern.matches(bucket, &|_| Vec::new()),
                pattern.may_start_with(&format!("{bucket}/")),
            ),
            Self::Foreign => (false, false),
        }
    }

    pub(super) fn variables(&self) -> usize {
        match self {
            Self::Of(pattern) => pattern.variables(),
            Self::Everything | Self::Foreign => 0,
        }
    }
}

/// Six parts between colons, each with wildcards that stay within it (the last one may hold more
/// colons), as `ArnEquals` and `ArnLike` compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ArnPattern {
    parts: Box<[Pattern]>,
}

impl ArnPattern {
    pub(super) fn parse(text: &str, variables: bool) -> Result<Self, PolicyError> {
        let syntax = Syntax {
            wildcards: true,
            variables,
        };
        let parts = split_arn(text)
            .ok_or_else(|| PolicyError::new(format!("it holds a malformed ARN: {text}")))?;
        let parts = parts.iter().map(|part| Pattern::parse(part, syntax));
        Ok(Self {
            parts: parts.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn is_fixed(&self) -> bool {
        self.parts.iter().all(Pattern::is_fixed)
    }

    pub(super) fn variables(&self) -> usize {
        self.parts.iter().map(Pattern::variables).sum()
    }

    pub(super) fn matches(&self, arn: &str, context: &Lookup<'_>) -> bool {
        split_arn(arn).is_some_and(|parts| {
            let mut pairs = self.parts.iter().zip(parts);
            pairs.all(|(pattern, part)| pattern.matches(part, context))
        })
    }
}

/// The six parts; a colon inside of `${...}` separates nothing.
fn split_arn(text: &str) -> Option<[&str; 6]> {
    let mut parts = [""; 6];
    let mut rest = text;
    for (index, part) in parts.iter_mut().enumerate() {
        let end = if index == 5 {
            rest.len()
        } else {
            outer_colon(rest)?
        };
        *part = rest.get(..end)?;
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    let [arn, ..] = parts;
    (arn == "arn").then_some(parts)
}

fn outer_colon(text: &str) -> Option<usize> {
    let mut inside = false;
    let mut last = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '{' if last == '$' => inside = true,
            '}' => inside = false,
            ':' if !inside => return Some(at),
            _ => {}
        }
        last = c;
    }
    None
}

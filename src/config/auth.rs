//! Who may sign requests, as the file and the environment name them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Auth, ConfigError, ROOT, SecretText, User, raw};
use crate::s3::auth::policy::{self, Policy};

pub(super) fn build_auth(
    raw: raw::Auth,
    base: &Path,
    root_user: Option<(String, SecretText)>,
) -> Result<Auth, ConfigError> {
    let root = match (root_user, raw.root) {
        (Some((access_key, secret_key)), raw) => {
            let raw = raw::User {
                access_key: Some(access_key.into()),
                secret_key: Some(secret_key),
                secret_key_file: None,
                ..raw.unwrap_or_default()
            };
            Some(build_user("auth.root", Some(ROOT), raw, base)?)
        }
        (None, Some(raw)) => Some(build_user("auth.root", Some(ROOT), raw, base)?),
        (None, None) => None,
    };
    let mut users = Vec::new();
    for (index, raw) in raw.user.into_iter().enumerate() {
        let key = format!("auth.user[{}]", index + 1);
        users.push(build_user(&key, None, raw, base)?);
    }
    let all = || users.iter().chain(&root);
    for (what, field) in [
        ("access_key", (|user| &user.access_key) as fn(&User) -> &str),
        ("name", |user| &user.name),
        ("id", |user| &user.id),
    ] {
        let mut seen = HashSet::new();
        if let Some(user) = all().find(|user| !seen.insert(field(user))) {
            return Err(ConfigError::Invalid(format!(
                "two users in [auth] have the same {what} `{}`; each needs its own",
                field(user)
            )));
        }
    }
    Ok(Auth {
        sigv2: raw.sigv2.unwrap_or(true),
        root,
        users,
    })
}

/// `key`: where the user stands, as messages name it.
fn build_user(
    key: &str,
    default_name: Option<&str>,
    raw: raw::User,
    base: &Path,
) -> Result<User, ConfigError> {
    let lacks = |what: &str| ConfigError::Invalid(format!("`{key}` lacks `{what}`"));
    let name = raw
        .name
        .or(default_name.map(Into::into))
        .ok_or_else(|| lacks("name"))?;
    listable(key, "name", &name)?;
    let access_key = raw.access_key.ok_or_else(|| lacks("access_key"))?;
    let (secret_key, of_secret) = match (raw.secret_key, raw.secret_key_file) {
        (Some(secret), None) => (secret, "secret_key"),
        (None, Some(file)) => (secret_from_file(&base.join(file))?, "secret_key_file"),
        (None, None) => return Err(lacks("secret_key` or `secret_key_file")),
        (Some(_), Some(_)) => {
            return Err(ConfigError::Invalid(format!(
                "`{key}.secret_key` is given, and `{key}.secret_key_file` too; keep one"
            )));
        }
    };
    let visible = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if !(3..=128).contains(&access_key.len())
        || !visible(&access_key)
        || access_key.contains(['/', ',', '='])
    {
        return Err(ConfigError::Invalid(format!(
            "`{key}.access_key` (of {name}) must be 3 to 128 visible ASCII characters without '/', \
             ',' and '='"
        )));
    }
    if !(8..=128).contains(&secret_key.reveal().len()) || !visible(secret_key.reveal()) {
        return Err(ConfigError::Invalid(format!(
            "`{key}.{of_secret}` (of {name}) must hold 8 to 128 visible ASCII characters; \
             `lobos keygen` makes a pair"
        )));
    }
    let id = raw.id.unwrap_or_else(|| name.clone());
    listable(key, "id", &id)?;
    let policy = match raw.policy {
        None => None,
        Some(_) if default_name.is_some() => {
            return Err(ConfigError::Invalid(format!(
                "`{key}.policy` is set; this user may do everything, so take the line away"
            )));
        }
        Some(named) => Some(Arc::new(user_policy(key, &named, base)?)),
    };
    Ok(User {
        name,
        id,
        access_key,
        secret_key,
        policy,
    })
}

/// Names and ids of owners stand in listings, and XML cannot carry every character.
fn listable(key: &str, what: &str, text: &str) -> Result<(), ConfigError> {
    if text.is_empty() {
        return Err(ConfigError::Invalid(format!("`{key}.{what}` is empty")));
    }
    let is_wrong = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    match text.chars().find(|c| is_wrong(*c)) {
        Some(wrong) => Err(ConfigError::Invalid(format!(
            "`{key}.{what}` holds the character U+{:04X}, which listings cannot carry",
            u32::from(wrong)
        ))),
        None => Ok(()),
    }
}

/// A ready-made policy by its name, or the one in a file.
/// `key`: how the section of its user is called.
fn user_policy(key: &str, named: &str, base: &Path) -> Result<Policy, ConfigError> {
    let text = match policy::ready_made(named) {
        Some(text) => text.to_owned(),
        None => {
            let path = base.join(named);
            fs::read_to_string(&path).map_err(|source| {
                ConfigError::Invalid(format!(
                    "`{key}.policy` is '{named}', neither one of {} nor a file that can be read: \
                     {source}",
                    policy::READY_MADE.join(", ")
                ))
            })?
        }
    };
    Policy::of_user(&text).map_err(|error| {
        ConfigError::Invalid(format!(
            "`{key}.policy` is '{named}', which is refused: {error}"
        ))
    })
}

/// The secret in a file; white space around it does not count.
fn secret_from_file(path: &Path) -> Result<SecretText, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.into(),
        source,
    })?;
    let text = Zeroizing::new(text);
    Ok(SecretText::new(text.trim().to_owned()))
}

/// The files that hold secrets of users: the configuration itself, or those that it names.
pub(super) fn secret_files(auth: &raw::Auth, file: &Path, base: &Path) -> Vec<PathBuf> {
    let users = || auth.root.iter().chain(&auth.user);
    let itself = users().any(|user| user.secret_key.is_some());
    let named = users().filter_map(|user| user.secret_key_file.as_ref());
    let itself = itself.then(|| file.to_owned());
    itself
        .into_iter()
        .chain(named.map(|name| base.join(name)))
        .collect()
}

/// What to say of a file with secrets that every user of the machine can read.
pub(super) fn exposed(file: &Path) -> Option<String> {
    let mode = fs::metadata(file).ok()?.mode() & 0o7777;
    (mode & 0o004 != 0).then(|| {
        format!(
            "{} holds secret keys and can be read by everybody (mode {mode:04o}); run chmod o-rwx on \
             it",
            file.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_that_no_listing_can_carry_are_refused_with_their_key() {
        let built = |name: &str, id: Option<&str>| {
            let raw = raw::User {
                name: Some(name.into()),
                id: id.map(Into::into),
                access_key: Some("annskey".into()),
                secret_key: Some(SecretText::new("the-secret-of-ann".to_owned())),
                ..raw::User::default()
            };
            build_user("auth.user[1]", None, raw, Path::new("/")).map_err(|e| e.to_string())
        };
        assert!(built("Änn Ö. <&>", Some("id of ann")).is_ok());
        for wrong in ["", "a\u{1}", "a\nb", "\u{7f}", "\u{ffff}"] {
            let error = built(wrong, None).unwrap_err();
            assert!(error.contains("`auth.user[1].name`"), "{error}");
            assert!(!error.contains('\u{1}'), "{error:?}");
            let error = built("ann", Some(wrong)).unwrap_err();
            assert!(error.contains("`auth.user[1].id`"), "{error}");
        }
    }
}

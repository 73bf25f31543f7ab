//! Forms that browsers post: who signed the policy in one, in version 4 or 2 ("Authenticating
//! requests in browser-based uploads using POST" of S3's API reference). What the policy allows is
//! for `s3/post` to check: the signature is over its text as it came.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use subtle::ConstantTimeEq as _;

use super::gate::Gate;
use super::sigv4::{Place, Scope, Stamp, session_token_refused, unknown_access_key};
use super::users::{Identity, User, Users};
use crate::clock::Timestamp;
use crate::s3::checksum::unhex;
use crate::s3::error::{Code, S3Error};

/// The fields of a form that say who sent it, as they came; names in lower case.
#[derive(Clone, Copy, Debug, Default)]
pub struct FormSignature<'a> {
    pub policy: Option<&'a str>,
    /// Version 4.
    pub algorithm: Option<&'a str>,
    pub credential: Option<&'a str>,
    pub date: Option<&'a str>,
    pub signature_v4: Option<&'a str>,
    /// Version 2.
    pub access_key: Option<&'a str>,
    pub signature_v2: Option<&'a str>,
    pub session_token: Option<&'a str>,
}

impl Gate {
    /// Finds out who sent a form. `sender` is whom the request's head names: a form without a
    /// signature is theirs, and a request is signed in one place only.
    pub fn authenticate_form(
        &self,
        form: &FormSignature<'_>,
        sender: &Identity,
    ) -> Result<Identity, S3Error> {
        if !self.is_required() {
            return Ok(sender.clone());
        }
        let (users, region) = (self.users(), self.region());
        let v4 = [
            form.algorithm,
            form.credential,
            form.date,
            form.signature_v4,
        ];
        let v2 = [form.access_key, form.signature_v2];
        let has = |fields: &[Option<&str>]| fields.iter().any(Option::is_some);
        let user = match (has(&v4), has(&v2)) {
            (false, false) if form.policy.is_none() => return Ok(sender.clone()),
            (false, false) => return Err(missing("Signature")),
            (true, true) => {
                let message = "A form is signed in one version only.";
                return Err(S3Error::with_message(Code::InvalidRequest, message));
            }
            _ if !matches!(sender, Identity::Anonymous) => {
                let message = "Only one auth mechanism allowed; the request and its form are both \
                               signed.";
                return Err(S3Error::with_message(Code::InvalidRequest, message));
            }
            _ if form.session_token.is_some() => return Err(session_token_refused()),
            (true, false) => verify_v4(form, &users, region, self.now())?,
            (false, true) if self.takes_v2() => verify_v2(form, &users, self.now())?,
            (false, true) => return Err(super::gate::v2_refused()),
        };
        Ok(Identity::User(user))
    }
}

fn verify_v4(
    form: &FormSignature<'_>,
    users: &Users,
    region: &str,
    now: Timestamp,
) -> Result<Arc<User>, S3Error> {
    let policy = form.policy.ok_or_else(|| missing("policy"))?;
    let credential = form.credential.ok_or_else(|| missing("X-Amz-Credential"))?;
    let signature = form
        .signature_v4
        .ok_or_else(|| missing("X-Amz-Signature"))?;
    let date = form.date.ok_or_else(|| missing("X-Amz-Date"))?;
    if form.algorithm != Some("AWS4-HMAC-SHA256") {
        let message = "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\".";
        let got = form.algorithm.unwrap_or_default();
        return Err(S3Error::invalid_argument(message, "X-Amz-Algorithm", got));
    }
    let scope = Scope::parse(credential, Place::Form, region)?;
    let stamp = Stamp::parse(date)
        .ok_or_else(|| Place::Form.malformed("X-Amz-Date must be in ISO 8601's basic format"))?;
    scope.refuse_other_date(&stamp, Place::Form)?;
    let account = users
        .account(scope.access_key, now)
        .ok_or_else(|| unknown_access_key(scope.access_key))?;
    let expected: [u8; 32] = account
        .signing_key(&scope)
        .chain_update(policy)
        .finalize()
        .into_bytes()
        .into();
    let claimed: Option<[u8; 32]> = unhex(signature);
    if claimed.is_some_and(|claimed| expected.ct_eq(&claimed).into()) {
        return Ok(Arc::clone(&account.user));
    }
    Err(wrong(scope.access_key, policy))
}

fn verify_v2(
    form: &FormSignature<'_>,
    users: &Users,
    now: Timestamp,
) -> Result<Arc<User>, S3Error> {
    let policy = form.policy.ok_or_else(|| missing("policy"))?;
    let access_key = form.access_key.ok_or_else(|| missing("AWSAccessKeyId"))?;
    let signature = form.signature_v2.ok_or_else(|| missing("Signature"))?;
    let account = users
        .account(access_key, now)
        .ok_or_else(|| unknown_access_key(access_key))?;
    let claimed = STANDARD.decode(signature).unwrap_or_default();
    let key = account.user.secret_key.reveal().as_bytes();
    if let Ok(mac) = Hmac::<Sha1>::new_from_slice(key) {
        let expected = mac.chain_update(policy).finalize().into_bytes();
        if expected.as_slice().ct_eq(&claimed).into() {
            return Ok(Arc::clone(&account.user));
        }
    }
    Err(wrong(access_key, policy))
}

fn wrong(access_key: &str, policy: &str) -> S3Error {
    S3Error::new(Code::SignatureDoesNotMatch)
        .detail("AWSAccessKeyId", access_key)
        .detail("StringToSign", policy)
}

/// S3's answer to a form that lacks a field, or holds it only behind the file.
pub(in crate::s3) fn missing(field: &str) -> S3Error {
    S3Error::invalid_argument(
        format!(
            "Bucket POST must contain a field named '{field}'. If it is specified, please check \
             the order of the fields."
        ),
        field,
        "",
    )
}

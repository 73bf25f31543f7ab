//! The XML of ACLs.

use super::given::{unresolvable, user};
use super::{Acl, Grant, Grantee, Permission};
use crate::s3::S3;
use crate::s3::error::{Code, S3Error};
use crate::s3::xml::{Element, Writer};

/// `AccessControlPolicy`. Groups come first.
pub(super) fn write(s3: &S3, acl: &Acl) -> String {
    let users = s3.users.load();
    let name = |id: &str| {
        users
            .by_id(id)
            .map_or_else(|| id.into(), |user| user.name.clone())
    };
    let mut page = Writer::document("AccessControlPolicy");
    page.person("Owner", &acl.owner, &name(&acl.owner));
    page.open("AccessControlList");
    let (groups, people): (Vec<_>, Vec<_>) = acl
        .grants
        .iter()
        .partition(|grant| grant.to.uri().is_some());
    for grant in groups.into_iter().chain(people) {
        page.open("Grant");
        match (&grant.to, grant.to.uri()) {
            (Grantee::User(id), _) => {
                page.raw(CANONICAL_USER);
                page.leaf("ID", id);
                page.leaf("DisplayName", &name(id));
            }
            (_, uri) => {
                page.raw(GROUP);
                page.leaf("URI", uri.unwrap_or_default());
            }
        }
        page.close("Grantee");
        page.leaf("Permission", grant.permission.as_str());
        page.close("Grant");
    }
    page.close("AccessControlList");
    page.finish("AccessControlPolicy")
}

/// The ACL in a body; its owner is who owns the bucket or the object already.
pub(super) fn read(s3: &S3, body: &[u8], owner: &str) -> Result<Acl, S3Error> {
    let root = Element::parse(body, "AccessControlPolicy").map_err(|_| malformed())?;
    root.only(&["Owner", "AccessControlList"])
        .map_err(|_| malformed())?;
    let named = root
        .child("Owner")
        .and_then(|element| element.child("ID"))
        .ok_or_else(malformed)?;
    if *named.text.trim() != *owner {
        return Err(Code::AccessDenied.into());
    }
    let list = root.child("AccessControlList").ok_or_else(malformed)?;
    list.only(&["Grant"]).map_err(|_| malformed())?;
    if list.children.len() > GRANTS_MAX {
        return Err(malformed());
    }
    let grants = list.children.iter().map(|grant| read_grant(s3, grant));
    Ok(Acl {
        owner: owner.into(),
        grants: grants.collect::<Result<_, _>>()?,
    })
}

fn read_grant(s3: &S3, grant: &Element) -> Result<Grant, S3Error> {
    grant
        .only(&["Grantee", "Permission"])
        .map_err(|_| malformed())?;
    let text = |element: &Element, name: &str| -> Result<Option<String>, S3Error> {
        let text = element.text_of(name).map_err(|_| malformed())?;
        Ok(text.map(|text| text.trim().to_owned()))
    };
    let permission = text(grant, "Permission")?.ok_or_else(malformed)?;
    let permission = Permission::ALL
        .into_iter()
        .find(|one| one.as_str() == permission)
        .ok_or_else(malformed)?;
    let grantee = grant.child("Grantee").ok_or_else(malformed)?;
    let known = ["ID", "DisplayName", "URI", "EmailAddress", "Type"];
    grantee.only(&known).map_err(|_| malformed())?;
    let to = match (
        text(grantee, "ID")?,
        text(grantee, "URI")?,
        text(grantee, "EmailAddress")?,
    ) {
        (Some(id), None, None) => user(s3, &id)?,
        (None, Some(uri), None) => Grantee::group(&uri)
            .ok_or_else(|| S3Error::invalid_argument("Invalid group uri", "Group/URI", uri))?,
        (None, None, Some(email)) => return Err(unresolvable(&email)),
        _ => return Err(malformed()),
    };
    Ok(Grant { to, permission })
}

fn malformed() -> S3Error {
    Code::MalformedACLError.into()
}

/// Grants of one ACL (S3).
const GRANTS_MAX: usize = 100;
const CANONICAL_USER: &str = "<Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
                              xsi:type=\"CanonicalUser\">";
const GROUP: &str = "<Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" \
                     xsi:type=\"Group\">";

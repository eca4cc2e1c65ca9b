//! Bootstrap tokens: short-lived secrets with which a node, or whoever sets up a cluster, first makes itself known.
//!
//! Source: `k8s.io/cluster-bootstrap`. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

/// The type of secrets that hold such tokens, where they are, and what their names start with; the token's id follows.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
pub const NAMESPACE: &str = "kube-system";
pub const NAME_PREFIX: &str = "bootstrap-token-";
/// What the users' names start with; the token's id follows.
pub const USER_PREFIX: &str = "system:bootstrap:";
/// Everyone with such a token is in it.
pub const GROUP: &str = "system:bootstrappers";

const ID: &str = "token-id";
const SECRET: &str = "token-secret";
const EXPIRATION: &str = "expiration";
const GROUPS: &str = "auth-extra-groups";
const FOR_SIGNING: &str = "usage-bootstrap-signing";
const FOR_AUTHENTICATION: &str = "usage-bootstrap-authentication";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const GROUP_PREFIX: &str = "system:bootstrappers:";
/// Longest that the rest of a group's name may be, and its pattern for the message.
const GROUP_REST_MAX: usize = 255;
const GROUP_PATTERN: &str = r"\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z";

/// The id and the secret of `abcdef.0123456789abcdef`; none for what is no such token.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    (is_word(id, ID_LENGTH) && is_word(secret, SECRET_LENGTH)).then_some((id, secret))
}

fn is_word(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn get<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.and_then(|value| std::str::from_utf8(&value.0).ok()).unwrap_or_default()
}

/// How long a token counts still; the error is that it does not any more.
pub fn left(secret: &Secret, now: Timestamp) -> Result<Option<Duration>, Expired> {
    let text = get(secret, EXPIRATION);
    if text.is_empty() {
        return Ok(None);
    }
    let left = text.parse::<Timestamp>().ok().map(|at| at.duration_since(now));
    let left = left.and_then(|left| Duration::try_from(left).ok()).filter(|left| !left.is_zero());
    left.map(Some).ok_or(Expired)
}

/// Its time is over, or cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

/// The groups of who shows the token; the error says which name is bad.
pub fn groups(secret: &Secret) -> Result<Vec<String>, String> {
    let mut groups: BTreeSet<&str> = BTreeSet::from([GROUP]);
    let more = get(secret, GROUPS);
    for group in more.split(',').filter(|_| !more.is_empty()) {
        if !is_group(group) {
            return Err(format!("bootstrap group {group:?} is invalid (must match {GROUP_PATTERN})"));
        }
        groups.insert(group);
    }
    Ok(groups.into_iter().map(str::to_owned).collect())
}

fn is_group(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(GROUP_PREFIX) else { return false };
    let last = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let any = |byte: u8| last(byte) || byte == b':' || byte == b'-';
    rest.len() <= GROUP_REST_MAX + 1 && rest.bytes().all(any) && rest.bytes().next_back().is_some_and(last)
}

/// Whether `id` and `token` are what the secret holds, and may be shown to authenticate. The error is for the log.
pub fn authenticates(secret: &Secret, id: &str, token: &str, now: Timestamp) -> Result<(), &'static str> {
    if secret.metadata.deletion_timestamp.is_some() {
        return Err("is deleted and awaiting removal");
    }
    if secret.type_.as_deref() != Some(SECRET_TYPE) || secret.data.is_none() {
        return Err("has an invalid type");
    }
    if !same(get(secret, SECRET).as_bytes(), token.as_bytes()) {
        return Err("has another token-secret");
    }
    if get(secret, ID) != id {
        return Err("has another token-id");
    }
    if left(secret, now).is_err() {
        return Err("has expired");
    }
    match get(secret, FOR_AUTHENTICATION) {
        "true" => Ok(()),
        _ => Err("is not marked usage-bootstrap-authentication=true"),
    }
}

/// Takes as long whatever differs.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// The id and the secret of a token that signs; none where the secret holds none (`validateSecretForSigning`).
pub fn signs(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let named = secret.metadata.name.as_deref()?.strip_prefix(NAME_PREFIX)?;
    let (id, token) = (get(secret, ID), get(secret, SECRET));
    let whole = secret.type_.as_deref() == Some(SECRET_TYPE) && is_word(named, ID_LENGTH) && id == named;
    let counts = !token.is_empty() && left(secret, now).is_ok() && get(secret, FOR_SIGNING) == "true";
    (whole && counts).then_some((id, token))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use serde_json::json;

    use super::*;

    const NOW: &str = "2030-01-01T00:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().expect("a time")
    }

    fn secret(data: &[(&str, &str)]) -> Secret {
        let mut secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": "bootstrap-token-abcdef", "namespace": NAMESPACE}, "type": SECRET_TYPE,
        }))
        .expect("a secret");
        let held = [
            (ID, "abcdef"),
            (SECRET, "0123456789abcdef"),
            (FOR_AUTHENTICATION, "true"),
            (FOR_SIGNING, "true"),
            (EXPIRATION, "2030-01-01T01:00:00Z"),
        ];
        let all =
            held.iter().chain(data).map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        secret.data = Some(all.collect());
        secret
    }

    #[track_caller]
    fn check(data: &[(&str, &str)], authenticates_: Result<(), &str>, signs_: bool) {
        let secret = secret(data);
        assert_eq!(authenticates(&secret, "abcdef", "0123456789abcdef", now()), authenticates_, "{data:?}");
        assert_eq!(signs(&secret, now()).is_some(), signs_, "{data:?}");
    }

    #[test]
    fn a_token_is_as_good_as_its_secret() {
        check(&[], Ok(()), true);
        check(&[(EXPIRATION, "")], Ok(()), true);
        check(&[(EXPIRATION, NOW)], Err("has expired"), false);
        check(&[(EXPIRATION, "tomorrow")], Err("has expired"), false);
        check(&[(SECRET, "0123456789abcdee")], Err("has another token-secret"), true);
        check(&[(SECRET, "")], Err("has another token-secret"), false);
        check(&[(ID, "abcdee")], Err("has another token-id"), false);
        check(&[(FOR_AUTHENTICATION, "yes")], Err("is not marked usage-bootstrap-authentication=true"), true);
        check(&[(FOR_SIGNING, "")], Ok(()), false);
    }

    #[test]
    fn tokens_have_one_form() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for bad in [
            "abcdef.0123456789abcde",
            "Abcdef.0123456789abcdef",
            "abcdef-0123456789abcdef",
            "abcdef.0123456789abcdef.",
            "",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn extra_groups_are_bootstrappers_too() {
        let of = |groups_: &str| groups(&secret(&[(GROUPS, groups_)]));
        assert_eq!(of(""), Ok(vec![GROUP.to_owned()]));
        let two = vec![GROUP.to_owned(), "system:bootstrappers:a-b:c".to_owned()];
        assert_eq!(of("system:bootstrappers:a-b:c,system:bootstrappers:a-b:c"), Ok(two));
        for bad in [
            "system:masters",
            "system:bootstrappers:",
            "system:bootstrappers:a-",
            "system:bootstrappers:A",
            "system:bootstrappers:a,",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let why = r#"bootstrap group "system:masters" is invalid (must match \Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z)"#;
        assert_eq!(of("system:masters"), Err(why.to_owned()));
    }
}

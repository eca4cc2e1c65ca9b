//! Acting as somebody else: `Impersonate-User` and its kin, each allowed by `impersonate` on what it names.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/filters/impersonation.go`. The checks are made in the order user, groups, extra, uid;
//! the first that is not allowed refuses the request. Absent on purpose: constrained impersonation (KEP-5284).

use std::collections::BTreeMap;

use http::HeaderMap;
use wharf_auth::{
    ANONYMOUS, AUTHENTICATED, Attributes, Authorizer, Decision, SERVICE_ACCOUNT_PREFIX, UNAUTHENTICATED, User,
};
use wharf_types::{ApiError, Gvr};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Whom a request wants to be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Wanted {
    fn read(headers: &HeaderMap) -> Self {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let first = |name: &str| headers.get(name).map(text).unwrap_or_default();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            if let Some(key) = name.as_str().strip_prefix(EXTRA) {
                let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
                extra.entry(key).or_default().push(text(value));
            }
        }
        Self { user: first(USER), uid: first(UID), groups: headers.get_all(GROUP).iter().map(text).collect(), extra }
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// What must be allowed, in order.
    fn checks(&self) -> Vec<Attributes> {
        let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| Attributes {
            verb: "impersonate".to_owned(),
            resource_request: true,
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        };
        let mut checks = vec![match account(&self.user) {
            Some((namespace, name)) => ask("", "serviceaccounts", "", namespace, name),
            None => ask("", "users", "", "", &self.user),
        }];
        checks.extend(self.groups.iter().map(|group| ask("", "groups", "", "", group)));
        for (key, values) in &self.extra {
            checks.extend(values.iter().map(|value| ask("authentication.k8s.io", "userextras", key, "", value)));
        }
        if !self.uid.is_empty() {
            checks.push(ask("authentication.k8s.io", "uids", "", "", &self.uid));
        }
        checks
    }

    fn into_user(self) -> User {
        let Self { user: name, uid, mut groups, extra } = self;
        if groups.is_empty()
            && let Some((namespace, _)) = account(&name)
        {
            groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
        }
        let own = if name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        // Who asks to be a stranger stays one.
        let settled = |group: &String| group == own || group == UNAUTHENTICATED;
        if !groups.iter().any(settled) {
            groups.push(own.to_owned());
        }
        User { name, uid, groups, extra }
    }
}

/// Namespace and name, if the user is a service account.
fn account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// The user that the request is made as: `user`, or whom the headers name if `user` may be them.
pub async fn resolve(headers: &HeaderMap, user: User, authorizer: &dyn Authorizer) -> Result<User, ApiError> {
    let wanted = Wanted::read(headers);
    if wanted.is_nothing() {
        return Ok(user);
    }
    if wanted.user.is_empty() {
        return Err(ApiError::internal("requested to impersonate without impersonating a user"));
    }
    for asked in wanted.checks() {
        let why = match authorizer.authorize(&user, &asked).await {
            Decision::Allow(_) => continue,
            Decision::Deny(why) | Decision::NoOpinion(why) => why,
        };
        let mut message = asked.refusal(&user);
        if !why.is_empty() {
            message += &format!(": {why}");
        }
        let gvr = Gvr { group: asked.group.into(), version: asked.version.into(), resource: asked.resource.into() };
        return Err(ApiError::forbidden(&gvr, &asked.name, message));
    }
    tracing::debug!(user = user.name, acting_as = wanted.user, "impersonation");
    Ok(wanted.into_user())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use http::HeaderName;

    use super::*;

    /// Allows `RESOURCE/NAME`, with `/SUBRESOURCE` after the resource if there is one.
    struct May(&'static [&'static str]);

    #[async_trait]
    impl Authorizer for May {
        async fn authorize(&self, _: &User, asked: &Attributes) -> Decision {
            let below = if asked.subresource.is_empty() { String::new() } else { format!("/{}", asked.subresource) };
            let asked = format!("{}{below}/{}", asked.resource, asked.name);
            if self.0.contains(&asked.as_str()) {
                Decision::Allow(String::new())
            } else {
                Decision::NoOpinion(String::new())
            }
        }
    }

    /// `expected` is the user and the groups, or how the refusal goes.
    async fn check(may: &'static [&'static str], headers: &[(&str, &str)], expected: Result<(&str, &str), &str>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
        }
        let got = resolve(&map, User::new("jane", &[]), &May(may)).await;
        let got = got.map(|user| (user.name, user.groups.join(","))).map_err(|error| error.message);
        assert_eq!(got, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).map_err(str::to_owned), "{headers:?}");
    }

    #[tokio::test]
    async fn whoever_may_becomes_another() {
        check(&[], &[], Ok(("jane", "system:authenticated"))).await;
        check(&["users/bob"], &[("impersonate-user", "bob")], Ok(("bob", "system:authenticated"))).await;
        check(
            &["users/bob", "groups/dev", "userextras/scopes/a", "uids/7"],
            &[
                ("impersonate-user", "bob"),
                ("impersonate-group", "dev"),
                ("impersonate-extra-scopes", "a"),
                ("impersonate-uid", "7"),
            ],
            Ok(("bob", "dev,system:authenticated")),
        )
        .await;
        check(
            &["serviceaccounts/bot"],
            &[("impersonate-user", "system:serviceaccount:a:bot")],
            Ok(("system:serviceaccount:a:bot", "system:serviceaccounts,system:serviceaccounts:a,system:authenticated")),
        )
        .await;
        check(
            &["users/system:anonymous"],
            &[("impersonate-user", "system:anonymous")],
            Ok(("system:anonymous", "system:unauthenticated")),
        )
        .await;
    }

    #[tokio::test]
    async fn each_part_is_asked_for() {
        check(
            &[],
            &[("impersonate-user", "bob")],
            Err(r#"users "bob" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#),
        )
        .await;
        check(
            &["users/bob"],
            &[("impersonate-user", "bob"), ("impersonate-group", "system:masters")],
            Err(r#"groups "system:masters" is forbidden: User "jane" cannot impersonate resource "groups" in API group "" at the cluster scope"#),
        )
        .await;
        check(
            &["users/bob"],
            &[("impersonate-user", "bob"), ("impersonate-extra-example.com%2Frole", "root")],
            Err(r#"userextras.authentication.k8s.io "root" is forbidden: User "jane" cannot impersonate resource "userextras/example.com/role" in API group "authentication.k8s.io" at the cluster scope"#),
        )
        .await;
        check(
            &["users/system:serviceaccount:a:bot"],
            &[("impersonate-user", "system:serviceaccount:a:bot")],
            Err(r#"serviceaccounts "bot" is forbidden: User "jane" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "a""#),
        )
        .await;
        check(
            &["groups/dev"],
            &[("impersonate-group", "dev")],
            Err("Internal error occurred: requested to impersonate without impersonating a user"),
        )
        .await;
    }
}

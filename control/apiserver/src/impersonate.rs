//! Acting as somebody else: `Impersonate-User` and its kin, as far as whoever asks may.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/filters/impersonation` (KEP-5284). Constrained modes are tried first: each wants the
//! right to be somebody (`impersonate:<mode>`) and the right to do what is asked as such (`impersonate-on:<mode>:<verb>`). The old
//! verb `impersonate`, which lets one do everything, is tried last. What worked for a user the last time is tried before all; the
//! first refusal is what the client is told.
//! Absent on purpose: upstream's caches of what was allowed; authorizers here answer from memory or keep their answers.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use http::HeaderMap;
use lru::LruCache;
use parking_lot::Mutex;
use wharf_auth::jwt::domain_prefixed_path;
use wharf_auth::{
    ANONYMOUS, AUTHENTICATED, Attributes, Authorizer, Decision, MASTERS, NODE_USER_PREFIX, NODES,
    SERVICE_ACCOUNT_PREFIX, UNAUTHENTICATED, User,
};
use wharf_machinery::names;
use wharf_types::ApiError;
use wharf_types::field::Path;

use crate::server::forbidden;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// The group of the API in which constrained rights are.
const AUTHENTICATION: &str = "authentication.k8s.io";
/// The node of a service account's token.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const NODE_KEYS: &str = "authentication.kubernetes.io/associated-node-keys";
/// From so many groups or extras on, all of them may be allowed by one right. Source: `manyAuthorizationChecksInLoop`.
const MANY: usize = 4;

/// Most users of whom it is known what worked.
const USERS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Which mode last worked for whom.
pub struct Impersonation(Mutex<LruCache<String, Mode>>);

impl Default for Impersonation {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(USERS_MAX)))
    }
}

/// Whom a request is made as.
#[derive(Debug, PartialEq, Eq)]
pub struct Impersonated {
    pub user: User,
    /// The verb that allowed it; empty for the old one.
    pub constraint: String,
}

/// Whom a request wants to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// How somebody may be allowed to be another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    AssociatedNode,
    ArbitraryNode,
    ServiceAccount,
    UserInfo,
    Legacy,
}

const MODES: [Mode; 5] =
    [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Legacy => "",
        }
    }

    fn verb(self) -> String {
        if self == Mode::Legacy { "impersonate".to_owned() } else { format!("impersonate:{}", self.name()) }
    }

    /// Whether the mode is about such a user at all.
    fn fits(self, wanted: &Wanted, requestor: &User) -> bool {
        let (node, account) = (node(&wanted.user), account(&wanted.user));
        match self {
            Mode::AssociatedNode => {
                let own =
                    requestor.extra.get(NODE_NAME).filter(|names| names.len() == 1).map(|names| names[0].as_str());
                wanted.is_name_only() && node.is_some() && self::account(&requestor.name).is_some() && node == own
            }
            Mode::ArbitraryNode => wanted.is_name_only() && node.is_some(),
            Mode::ServiceAccount => wanted.is_name_only() && account.is_some(),
            Mode::UserInfo => node.is_none() && account.is_none(),
            Mode::Legacy => true,
        }
    }
}

impl Wanted {
    /// Takes the headers away, so that nothing behind can tell.
    fn take(headers: &mut HeaderMap) -> Self {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let first = |name: &str| headers.get(name).map(text).unwrap_or_default();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut names = vec![USER.to_owned(), GROUP.to_owned(), UID.to_owned()];
        for (name, value) in &*headers {
            if let Some(key) = name.as_str().strip_prefix(EXTRA) {
                let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
                extra.entry(key).or_default().push(text(value));
                names.push(name.as_str().to_owned());
            }
        }
        let groups = headers.get_all(GROUP).iter().map(text).collect();
        let wanted = Self { user: first(USER), uid: first(UID), groups, extra };
        for name in names {
            headers.remove(name);
        }
        wanted
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn is_name_only(&self) -> bool {
        self.uid.is_empty() && self.groups.is_empty() && self.extra.is_empty()
    }

    /// As Go prints it.
    fn shown(&self) -> String {
        let strings = |all: &[String]| {
            let quoted: Vec<String> = all.iter().map(|text| format!("{text:?}")).collect();
            format!("[]string{{{}}}", quoted.join(", "))
        };
        let groups = if self.groups.is_empty() { "[]string(nil)".to_owned() } else { strings(&self.groups) };
        let entries: Vec<String> =
            self.extra.iter().map(|(key, values)| format!("{key:?}:{}", strings(values))).collect();
        let extra = match entries.is_empty() {
            true => "map[string][]string(nil)".to_owned(),
            false => format!("map[string][]string{{{}}}", entries.join(", ")),
        };
        format!("&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:{groups}, Extra:{extra}}}", self.user, self.uid)
    }

    /// The user that this makes, in the groups that follow from the name.
    fn into_user(self, mode: Mode) -> User {
        let Self { user: name, uid, mut groups, extra } = self;
        if groups.is_empty() {
            if let Some((namespace, _)) = account(&name) {
                groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            } else if mode != Mode::Legacy && node(&name).is_some() {
                groups = vec![NODES.to_owned()];
            }
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

/// The name, if the user is a node.
fn node(user: &str) -> Option<&str> {
    user.strip_prefix(NODE_USER_PREFIX).filter(|name| names::dns1123_subdomain(name).is_empty())
}

impl Impersonation {
    /// Whom the headers name, if `requestor` may be that one for what is `asked`; none where they name nobody.
    pub async fn resolve(
        &self,
        headers: &mut HeaderMap,
        requestor: &User,
        asked: &Attributes,
        authorizer: &dyn Authorizer,
    ) -> Result<Option<Impersonated>, ApiError> {
        let wanted = Wanted::take(headers);
        if wanted.is_nothing() {
            return Ok(None);
        }
        if wanted.user.is_empty() {
            let why = format!("requested {} without impersonating a user name", wanted.shown());
            return Err(ApiError::bad_request(why));
        }
        let mut first = None;
        for mode in self.modes(&requestor.name).into_iter().filter(|mode| mode.fits(&wanted, requestor)) {
            let attempt = Attempt { mode, requestor: judged(mode, requestor), authorizer };
            if let Err(error) = attempt.check(&wanted, asked).await {
                first.get_or_insert(error);
                continue;
            }
            tracing::debug!(user = requestor.name, acting_as = wanted.user, mode = mode.name(), "impersonation");
            self.0.lock().put(requestor.name.clone(), mode);
            let constraint = if mode == Mode::Legacy { String::new() } else { mode.verb() };
            return Ok(Some(Impersonated { user: wanted.into_user(mode), constraint }));
        }
        Err(first.unwrap_or_else(|| ApiError::internal("all impersonation modes failed")))
    }

    /// All of them, what worked last first.
    fn modes(&self, user: &str) -> Vec<Mode> {
        let mut modes = MODES.to_vec();
        if let Some(last) = self.0.lock().get(user) {
            modes.sort_by_key(|mode| mode != last);
        }
        modes
    }
}

/// Who is asked about. Of a node's own service account it does not matter which node that is, once it is known to be this one.
fn judged(mode: Mode, requestor: &User) -> User {
    let mut user = requestor.clone();
    if mode == Mode::AssociatedNode {
        let keys = user.extra.keys().cloned().collect();
        user.extra = BTreeMap::from([(NODE_KEYS.to_owned(), keys)]);
    }
    user
}

/// One mode, tried.
struct Attempt<'a> {
    mode: Mode,
    requestor: User,
    authorizer: &'a dyn Authorizer,
}

impl Attempt<'_> {
    async fn check(&self, wanted: &Wanted, asked: &Attributes) -> Result<(), ApiError> {
        if self.mode != Mode::Legacy {
            let verb = format!("impersonate-on:{}:{}", self.mode.name(), asked.verb);
            self.ask(Attributes { verb, ..asked.clone() }).await?;
        }
        self.ask(self.identity(&wanted.user)).await?;
        if !wanted.uid.is_empty() {
            self.ask(self.attributes(AUTHENTICATION, "uids", &wanted.uid)).await?;
        }
        self.groups(&wanted.groups).await?;
        self.extra(&wanted.extra).await
    }

    async fn ask(&self, asked: Attributes) -> Result<(), ApiError> {
        match self.authorizer.authorize(&self.requestor, &asked).await {
            Decision::Allow(_) => Ok(()),
            Decision::Deny(why) | Decision::NoOpinion(why) | Decision::Failed { why, .. } => self.refuse(&asked, &why),
        }
    }

    fn refuse(&self, asked: &Attributes, why: &str) -> Result<(), ApiError> {
        Err(forbidden(&self.requestor, asked, why))
    }

    fn attributes(&self, group: &str, resource: &str, name: &str) -> Attributes {
        Attributes {
            verb: self.mode.verb(),
            resource_request: true,
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..Attributes::default()
        }
    }

    /// Where users and groups are.
    fn group(&self) -> &'static str {
        if self.mode == Mode::Legacy { "" } else { AUTHENTICATION }
    }

    fn identity(&self, user: &str) -> Attributes {
        if let Some((namespace, name)) = account(user) {
            let namespace = namespace.to_owned();
            return Attributes { namespace, ..self.attributes(self.group(), "serviceaccounts", name) };
        }
        match (self.mode, node(user)) {
            (Mode::AssociatedNode, _) => self.attributes(self.group(), "nodes", "*"),
            (Mode::ArbitraryNode, Some(name)) => self.attributes(self.group(), "nodes", name),
            _ => self.attributes(self.group(), "users", user),
        }
    }

    async fn groups(&self, groups: &[String]) -> Result<(), ApiError> {
        let of = |name: &str| self.attributes(self.group(), "groups", name);
        if self.mode != Mode::Legacy {
            if groups.iter().any(String::is_empty) {
                return self.refuse(&of(""), "impersonating the empty string group is not allowed");
            }
            if groups.iter().any(|group| group == MASTERS) {
                return self.refuse(&of(MASTERS), "impersonating the system:masters group is not allowed");
            }
            if groups.len() >= MANY && self.ask(of("*")).await.is_ok() {
                return Ok(());
            }
        }
        for group in groups {
            self.ask(of(group)).await?;
        }
        Ok(())
    }

    async fn extra(&self, extra: &BTreeMap<String, Vec<String>>) -> Result<(), ApiError> {
        let of = |key: &str, value: &str| {
            let subresource = key.to_owned();
            Attributes { subresource, ..self.attributes(AUTHENTICATION, "userextras", value) }
        };
        if self.mode != Mode::Legacy && !extra.is_empty() {
            if let Some(why) = wrong_extra(extra) {
                return self.refuse(&of("", ""), &why);
            }
            let count: usize = extra.values().map(Vec::len).sum();
            if count >= MANY && self.ask(of("*", "*")).await.is_ok() {
                return Ok(());
            }
        }
        for (key, values) in extra {
            for value in values {
                self.ask(of(key, value)).await?;
            }
        }
        Ok(())
    }
}

/// What no constrained mode allows.
fn wrong_extra(extra: &BTreeMap<String, Vec<String>>) -> Option<String> {
    extra.iter().find_map(|(key, values)| {
        if key.is_empty() {
            return Some("impersonating the empty string key in extra is not allowed".to_owned());
        }
        let errors = domain_prefixed_path(key, &Path::new("extra").child("key"));
        if let Some(error) = errors.first() {
            return Some(format!("impersonating an invalid key in extra is not allowed: {error}"));
        }
        if *key != key.to_lowercase() {
            return Some(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
        }
        let empty = values.iter().any(String::is_empty);
        empty.then(|| "impersonating the empty string value in extra is not allowed".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use http::HeaderName;

    use super::*;

    /// Allows `VERB RESOURCE/NAME`, with `/SUBRESOURCE` after the resource if there is one.
    struct May(&'static [&'static str]);

    #[async_trait]
    impl Authorizer for May {
        async fn authorize(&self, _: &User, asked: &Attributes) -> Decision {
            let below = if asked.subresource.is_empty() { String::new() } else { format!("/{}", asked.subresource) };
            let asked = format!("{} {}{below}/{}", asked.verb, asked.resource, asked.name);
            if self.0.contains(&asked.as_str()) {
                Decision::Allow(String::new())
            } else {
                Decision::NoOpinion(String::new())
            }
        }
    }

    async fn attempt(
        may: &'static [&'static str],
        requestor: User,
        headers: &[(&str, &str)],
    ) -> Result<Option<Impersonated>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
        }
        let asked = Attributes {
            verb: "list".to_owned(),
            resource_request: true,
            resource: "pods".to_owned(),
            namespace: "a".to_owned(),
            ..Attributes::default()
        };
        let got = Impersonation::default().resolve(&mut map, &requestor, &asked, &May(may)).await;
        let got = got.map_err(|error| error.message);
        assert!(map.is_empty(), "{map:?}");
        got
    }

    /// Jane tries; `expected` is the user, the groups and the constraint, or how the refusal goes.
    async fn check(may: &'static [&'static str], headers: &[(&str, &str)], expected: Result<&str, &str>) {
        let got = attempt(may, User::new("jane", &[]), headers).await;
        let got = got.map(|it| {
            it.map_or("herself".to_owned(), |Impersonated { user, constraint }| {
                format!("{} {} {constraint}", user.name, user.groups.join(",")).trim_end().to_owned()
            })
        });
        assert_eq!(got.as_deref(), expected.map_err(str::to_owned).as_ref().copied(), "{headers:?}");
    }

    const BOT: &str = "system:serviceaccount:a:bot";

    #[tokio::test]
    async fn the_old_verb_lets_one_be_another_for_everything() {
        check(&[], &[], Ok("herself")).await;
        check(&["impersonate users/bob"], &[("impersonate-user", "bob")], Ok("bob system:authenticated")).await;
        check(
            &[
                "impersonate users/bob",
                "impersonate groups/dev",
                "impersonate userextras/scopes/a",
                "impersonate uids/7",
            ],
            &[
                ("impersonate-user", "bob"),
                ("impersonate-group", "dev"),
                ("impersonate-extra-scopes", "a"),
                ("impersonate-uid", "7"),
            ],
            Ok("bob dev,system:authenticated"),
        )
        .await;
        check(
            &["impersonate serviceaccounts/bot"],
            &[("impersonate-user", BOT)],
            Ok("system:serviceaccount:a:bot system:serviceaccounts,system:serviceaccounts:a,system:authenticated"),
        )
        .await;
        check(
            &["impersonate users/system:node:n"],
            &[("impersonate-user", "system:node:n")],
            Ok("system:node:n system:authenticated"),
        )
        .await;
        check(
            &["impersonate users/system:anonymous"],
            &[("impersonate-user", "system:anonymous")],
            Ok("system:anonymous system:unauthenticated"),
        )
        .await;
    }

    #[tokio::test]
    async fn constrained_rights_are_two_and_for_one_verb() {
        let bob: &[(&str, &str)] = &[("impersonate-user", "bob")];
        check(
            &["impersonate:user-info users/bob", "impersonate-on:user-info:list pods/"],
            bob,
            Ok("bob system:authenticated impersonate:user-info"),
        )
        .await;
        let no_action = r#"pods is forbidden: User "jane" cannot impersonate-on:user-info:list resource "pods" in API group "" in the namespace "a""#;
        check(&[], bob, Err(no_action)).await;
        check(&["impersonate:user-info users/bob", "impersonate-on:user-info:get pods/"], bob, Err(no_action)).await;
        check(
            &["impersonate-on:user-info:list pods/"],
            bob,
            Err(r#"users.authentication.k8s.io "bob" is forbidden: User "jane" cannot impersonate:user-info resource "users" in API group "authentication.k8s.io" at the cluster scope"#),
        )
        .await;
        check(
            &["impersonate:serviceaccount serviceaccounts/bot", "impersonate-on:serviceaccount:list pods/"],
            &[("impersonate-user", BOT)],
            Ok("system:serviceaccount:a:bot system:serviceaccounts,system:serviceaccounts:a,system:authenticated impersonate:serviceaccount"),
        )
        .await;
        check(
            &["impersonate:arbitrary-node nodes/n", "impersonate-on:arbitrary-node:list pods/"],
            &[("impersonate-user", "system:node:n")],
            Ok("system:node:n system:nodes,system:authenticated impersonate:arbitrary-node"),
        )
        .await;
    }

    #[tokio::test]
    async fn constrained_rights_never_make_masters() {
        let may: &[&str] = &[
            "impersonate-on:user-info:list pods/",
            "impersonate:user-info users/bob",
            "impersonate:user-info groups/*",
        ];
        let of = |groups: &[&'static str]| {
            let user = [("impersonate-user", "bob")];
            user.into_iter().chain(groups.iter().map(|group| ("impersonate-group", *group))).collect::<Vec<_>>()
        };
        check(
            may,
            &of(&["system:masters"]),
            Err(r#"groups.authentication.k8s.io "system:masters" is forbidden: User "jane" cannot impersonate:user-info resource "groups" in API group "authentication.k8s.io" at the cluster scope: impersonating the system:masters group is not allowed"#),
        )
        .await;
        check(may, &of(&["a", "b", "c", "d"]), Ok("bob a,b,c,d,system:authenticated impersonate:user-info")).await;
        let extra = [("impersonate-user", "bob"), ("impersonate-extra-scopes", "a")];
        check(
            may,
            &extra,
            Err(r#"userextras.authentication.k8s.io is forbidden: User "jane" cannot impersonate:user-info resource "userextras" in API group "authentication.k8s.io" at the cluster scope: impersonating an invalid key in extra is not allowed: extra.key: Invalid value: "scopes": must be a domain-prefixed path (such as "acme.io/foo")"#),
        )
        .await;
    }

    #[tokio::test]
    async fn a_nodes_agent_may_be_its_own_node_only() {
        let may = &["impersonate:associated-node nodes/*", "impersonate-on:associated-node:list pods/"];
        let agent = |node: &str| {
            let extra = BTreeMap::from([(NODE_NAME.to_owned(), vec![node.to_owned()])]);
            User { extra, ..User::new(BOT, &[]) }
        };
        let headers = [("impersonate-user", "system:node:n1")];
        let own = attempt(may, agent("n1"), &headers).await.expect("allowed").expect("impersonated");
        assert_eq!(
            (own.user.name.as_str(), own.constraint.as_str()),
            ("system:node:n1", "impersonate:associated-node")
        );
        assert!(attempt(may, agent("n2"), &headers).await.is_err());
        assert!(attempt(may, User { name: "jane".to_owned(), ..agent("n1") }, &headers).await.is_err());
    }

    #[tokio::test]
    async fn a_user_must_be_named() {
        check(
            &[],
            &[("impersonate-group", "dev")],
            Err(r#"requested &user.DefaultInfo{Name:"", UID:"", Groups:[]string{"dev"}, Extra:map[string][]string(nil)} without impersonating a user name"#),
        )
        .await;
    }
}

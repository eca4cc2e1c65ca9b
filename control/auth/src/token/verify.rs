//! Whose token it is, if it still counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Deserialize;
use wharf_types::Gvr;

use super::{Claims, ISSUER, Key, LegacyTokens, Marks, Private, Ref, TokenMetrics, jwt};
use crate::view::gvr;
use crate::{AuthenticateError, Lookup, Remarks, SERVICE_ACCOUNT_PREFIX, Tokens, User, Whose};

/// How far clocks may be apart, and how long what is being deleted still speaks.
const LEEWAY_S: i64 = 60;

const ACCOUNTS: Gvr = gvr("", "v1", "serviceaccounts");
const PODS: Gvr = gvr("", "v1", "pods");
const NODES: Gvr = gvr("", "v1", "nodes");
const SECRETS: Gvr = gvr("", "v1", "secrets");

/// Tokens of this cluster's service accounts.
pub struct ServiceAccountTokens {
    key: Arc<Key>,
    objects: Arc<dyn Lookup>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    legacy: Option<LegacyTokens>,
    metrics: TokenMetrics,
}

#[derive(Deserialize)]
struct Stored {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    deletion_timestamp: Option<Timestamp>,
}

impl ServiceAccountTokens {
    pub fn new(key: Arc<Key>, objects: Arc<dyn Lookup>, clock: Arc<dyn Fn() -> Timestamp + Send + Sync>) -> Self {
        Self { key, objects, clock, legacy: None, metrics: TokenMetrics::default() }
    }

    /// Counts here.
    #[must_use]
    pub fn counting(self, metrics: TokenMetrics) -> Self {
        Self { metrics, ..self }
    }

    /// Knows the tokens in secrets too; `marks` writes on these when they are used.
    #[must_use]
    pub fn with_legacy(mut self, marks: Arc<dyn Marks>) -> Self {
        let (key, objects, clock) = (self.key.clone(), self.objects.clone(), self.clock.clone());
        self.legacy = Some(LegacyTokens::new(key, objects, marks, clock, self.metrics.clone()));
        self
    }

    /// None for a token of another issuer.
    fn check(&self, token: &str, audiences: &[String]) -> Result<Option<Whose>, AuthenticateError> {
        match jwt::claims::<Claims>(token) {
            Some(claims) if claims.iss == ISSUER => {}
            _ => return self.legacy.as_ref().map_or(Ok(None), |legacy| legacy.check(token, audiences)),
        }
        let refuse = |why: &str| AuthenticateError(why.to_owned());
        let claims: Claims = self.key.verify(token).ok_or_else(|| refuse("invalid signature"))?;
        let now = (self.clock)().as_second();
        if now > claims.exp + LEEWAY_S {
            return Err(refuse("service account token has expired"));
        }
        if now < claims.nbf - LEEWAY_S {
            return Err(refuse("service account token is not valid yet"));
        }
        let ours = [ISSUER.to_owned()];
        let wanted = if audiences.is_empty() { &ours[..] } else { audiences };
        let shared: Vec<String> = wanted.iter().filter(|audience| claims.aud.contains(audience)).cloned().collect();
        if shared.is_empty() {
            return Err(AuthenticateError(format!(
                "token audiences {:?} is invalid for the target audiences {wanted:?}",
                claims.aud
            )));
        }
        self.alive(&claims.kubernetes, now)?;
        let remarks = self.remarks(&claims, now);
        Ok(Some(Whose { user: user(claims)?, audiences: shared, remarks }))
    }

    /// A token that should have been exchanged by now still counts, and is told of.
    fn remarks(&self, claims: &Claims, now: i64) -> Remarks {
        let mut remarks = Remarks::default();
        match claims.kubernetes.warnafter.filter(|after| *after != 0) {
            None => {}
            Some(after) if now > after => {
                self.metrics.stale.inc();
                let late = format!("subject: {}, seconds after warning threshold: {}", claims.sub, now - after);
                remarks.annotations.push(("authentication.k8s.io/stale-token", late));
            }
            Some(_) => drop(self.metrics.valid.inc()),
        }
        remarks
    }

    /// What the token names must be there still.
    fn alive(&self, claims: &Private, now: i64) -> Result<(), AuthenticateError> {
        let namespace = Some(claims.namespace.as_str());
        self.there(&ACCOUNTS, namespace, &claims.serviceaccount, "service account", now)?;
        if let Some(secret) = &claims.secret {
            self.there(&SECRETS, namespace, secret, "secret", now)?;
        }
        match (&claims.pod, &claims.node) {
            (Some(pod), _) => self.there(&PODS, namespace, pod, "pod", now),
            // The node of a pod is told, not checked.
            (None, Some(node)) => self.there(&NODES, None, node, "node", now),
            (None, None) => Ok(()),
        }
    }

    fn there(
        &self,
        resource: &Gvr,
        namespace: Option<&str>,
        held: &Ref,
        what: &str,
        now: i64,
    ) -> Result<(), AuthenticateError> {
        let refuse = |why: String| Err(AuthenticateError(why));
        let found = self.objects.get(resource, namespace, &held.name);
        let found = found.and_then(|bytes| serde_json::from_slice::<Stored>(&bytes).ok());
        let is_account = *resource == ACCOUNTS;
        let invalidated = "service account token has been invalidated";
        let Some(Stored { metadata }) = found else {
            let missing = format!("serviceaccounts {:?} not found", held.name);
            return refuse(if is_account { missing } else { invalidated.to_owned() });
        };
        if metadata.uid != held.uid {
            let claim = if is_account { "claim".to_owned() } else { format!("service account {what} ref claim") };
            return refuse(format!("{what} UID ({}) does not match {claim} ({})", metadata.uid, held.uid));
        }
        if metadata.deletion_timestamp.is_some_and(|at| at.as_second() < now - LEEWAY_S) {
            let deleted = format!("service account {}/{} has been deleted", namespace.unwrap_or_default(), held.name);
            return refuse(if is_account { deleted } else { invalidated.to_owned() });
        }
        Ok(())
    }
}

/// The user that a token's claims describe.
fn user(claims: Claims) -> Result<User, AuthenticateError> {
    let Private { namespace, node, pod, serviceaccount, .. } = claims.kubernetes;
    let name = format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{}", serviceaccount.name);
    if claims.sub != name {
        return Err(AuthenticateError("sub and name claims do not match".to_owned()));
    }
    let own = format!("system:serviceaccounts:{namespace}");
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut tell = |key: &str, value: String| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        }
    };
    if !claims.jti.is_empty() {
        tell("credential-id", format!("JTI={}", claims.jti));
    }
    for (what, held) in [("pod", pod), ("node", node)] {
        let Ref { name, uid } = held.unwrap_or_default();
        tell(&format!("{what}-name"), name);
        tell(&format!("{what}-uid"), uid);
    }
    Ok(User { uid: serviceaccount.uid, extra, ..User::new(&name, &["system:serviceaccounts", &own]) })
}

#[async_trait]
impl Tokens for ServiceAccountTokens {
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<Option<Whose>, AuthenticateError> {
        self.check(token, audiences)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicI64, Ordering};

    use bytes::Bytes;
    use parking_lot::Mutex;

    use super::*;
    use crate::pki::Pki;
    use crate::token::{Request, whom};

    const START: i64 = 1_900_000_000;

    #[derive(Default)]
    struct Objects(Mutex<HashMap<String, Bytes>>);

    impl Objects {
        fn put(&self, resource: &str, name: &str, uid: &str, deleted: &str) {
            let deleted =
                if deleted.is_empty() { String::new() } else { format!(r#","deletionTimestamp":"{deleted}""#) };
            let object = format!(r#"{{"metadata":{{"uid":"{uid}"{deleted}}}}}"#);
            self.0.lock().insert(format!("{resource}/{name}"), object.into());
        }
    }

    impl Lookup for Objects {
        fn get(&self, resource: &Gvr, _: Option<&str>, name: &str) -> Option<Bytes> {
            self.0.lock().get(&format!("{}/{name}", resource.resource)).cloned()
        }
    }

    struct World {
        key: Arc<Key>,
        objects: Arc<Objects>,
        now: Arc<AtomicI64>,
        tokens: ServiceAccountTokens,
    }

    fn key() -> Arc<Key> {
        let root = tempfile::tempdir().expect("temporary directory");
        let pki = Pki::open(root.path(), Timestamp::from_second(START).expect("a time")).expect("PKI");
        Arc::new(Key::new(&pki.service_account_key_pem(), &pki.service_account_public_key_pem()).expect("a key"))
    }

    fn world() -> World {
        let (key, objects, now) = (key(), Arc::new(Objects::default()), Arc::new(AtomicI64::new(START)));
        objects.put("serviceaccounts", "bot", "1", "");
        objects.put("pods", "web", "2", "");
        let time = now.clone();
        let clock = Arc::new(move || Timestamp::from_second(time.load(Ordering::Relaxed)).expect("a time"));
        let tokens = ServiceAccountTokens::new(key.clone(), objects.clone(), clock);
        World { key, objects, now, tokens }
    }

    fn held(name: &str, uid: &str) -> Ref {
        Ref { name: name.to_owned(), uid: uid.to_owned() }
    }

    impl World {
        fn token(&self, audiences: &[&str], seconds: i64) -> String {
            let request = Request {
                namespace: "a".to_owned(),
                account: held("bot", "1"),
                audiences: audiences.iter().map(|audience| (*audience).to_owned()).collect(),
                seconds,
                pod: Some(held("web", "2")),
                node: Some(held("n1", "3")),
                secret: None,
            };
            let claims = Claims::new(request, "id".to_owned(), Timestamp::from_second(START).expect("a time"));
            self.key.sign(&claims).expect("a token")
        }

        /// `expected` is the user's name, `none`, or why the token is refused.
        #[track_caller]
        fn check(&self, token: &str, audiences: &[&str], expected: &str) {
            let audiences: Vec<String> = audiences.iter().map(|audience| (*audience).to_owned()).collect();
            assert_eq!(whom(self.tokens.check(token, &audiences)), expected);
        }
    }

    const BOT: &str = "system:serviceaccount:a:bot";

    #[test]
    fn a_token_tells_account_pod_and_node() {
        let world = world();
        let known = world.tokens.check(&world.token(&[], 3600), &[]).expect("valid").expect("ours");
        assert_eq!(known.user.name, BOT);
        assert_eq!(known.user.uid, "1");
        assert_eq!(known.user.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
        let extra: Vec<String> = known.user.extra.iter().map(|(key, value)| format!("{key}={}", value[0])).collect();
        let prefix = "authentication.kubernetes.io";
        assert_eq!(
            extra,
            [
                format!("{prefix}/credential-id=JTI=id"),
                format!("{prefix}/node-name=n1"),
                format!("{prefix}/node-uid=3"),
                format!("{prefix}/pod-name=web"),
                format!("{prefix}/pod-uid=2"),
            ]
        );
    }

    #[test]
    fn a_token_has_its_time_and_a_minute() {
        let world = world();
        let token = world.token(&[], 3600);
        for (at, expected) in [
            (START - 61, "service account token is not valid yet"),
            (START - 60, BOT),
            (START + 3660, BOT),
            (START + 3661, "service account token has expired"),
        ] {
            world.now.store(at, Ordering::Relaxed);
            world.check(&token, &[], expected);
        }
        // What a kubelet asks for is good for a year.
        world.check(&world.token(&[], WARN_ONLY_S), &[], BOT);
    }

    use super::super::WARN_ONLY_S;

    #[test]
    fn a_token_that_was_not_exchanged_in_time_is_told_of() {
        let world = world();
        let token = world.token(&[], WARN_ONLY_S);
        let about = || world.tokens.check(&token, &[]).expect("valid").expect("ours").remarks.annotations;
        assert_eq!(about(), []);
        world.now.store(START + WARN_ONLY_S + 7, Ordering::Relaxed);
        let late = format!("subject: {BOT}, seconds after warning threshold: 7");
        assert_eq!(about(), [("authentication.k8s.io/stale-token", late)]);
        assert_eq!((world.tokens.metrics.valid.get(), world.tokens.metrics.stale.get()), (1, 1));
    }

    #[test]
    fn a_token_is_for_its_audiences() {
        let world = world();
        world.check(&world.token(&["vault"], 3600), &["vault", "other"], BOT);
        let refused = format!("token audiences [\"vault\"] is invalid for the target audiences [{ISSUER:?}]");
        world.check(&world.token(&["vault"], 3600), &[], &refused);
    }

    #[test]
    fn a_token_dies_with_what_it_names() {
        let world = world();
        let token = world.token(&[], 3600);
        world.objects.put("pods", "web", "9", "");
        world.check(&token, &[], "pod UID (9) does not match service account pod ref claim (2)");
        let gone = Timestamp::from_second(START - 61).expect("a time").to_string();
        world.objects.put("pods", "web", "2", &gone);
        world.check(&token, &[], "service account token has been invalidated");
        let going = Timestamp::from_second(START - 59).expect("a time").to_string();
        world.objects.put("pods", "web", "2", &going);
        world.check(&token, &[], BOT);
        world.objects.0.lock().remove("serviceaccounts/bot");
        world.check(&token, &[], "serviceaccounts \"bot\" not found");
    }

    #[test]
    fn forgeries_are_refused_and_others_passed_on() {
        let world = world();
        let token = world.token(&[], 3600);
        let (signed, signature) = token.rsplit_once('.').expect("a token");
        let (header, _) = signed.split_once('.').expect("a token");
        let mut claims: Claims = jwt::claims(&token).expect("claims");
        claims.kubernetes.serviceaccount.name = "admin".to_owned();
        let forged = super::super::encode(&serde_json::to_vec(&claims).expect("JSON"));
        world.check(&format!("{header}.{forged}.{signature}"), &[], "invalid signature");
        let none = super::super::encode(br#"{"alg":"none"}"#);
        world.check(&format!("{none}.{}.", signed.split_once('.').expect("a token").1), &[], "invalid signature");
        let other = key().sign(&jwt::claims::<Claims>(&token).expect("claims")).expect("a token");
        world.check(&other, &[], "invalid signature");
        claims.iss = "https://elsewhere".to_owned();
        world.check(&world.key.sign(&claims).expect("a token"), &[], "none");
        world.check("abc", &[], "none");
    }
}

//! Tokens that a secret of type `kubernetes.io/service-account-token` holds: they count as long as the secret does.
//!
//! Source: `pkg/serviceaccount/legacy.go`. Invariants: the secret must hold this very token, and its account must be there under
//! the same uid; a token that the cleaner has marked invalid is refused. Each day of use is written on the secret, in the
//! background and once, so that what nobody uses can be told.

use std::sync::Arc;

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde::{Deserialize, Serialize};
use wharf_types::Gvr;
use wharf_types::k8s::api::core::v1::{Secret, ServiceAccount};

use super::{ISSUER, Key, TokenMetrics, jwt};
use crate::view::gvr;
use crate::{AuthenticateError, Lookup, Remarks, SERVICE_ACCOUNT_PREFIX, User, Whose};

const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// Labels of a secret: the last day on which its token was used, and since when that is refused.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const TOKEN: &str = "token";
const WARNING: &str = "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.";
const ACCOUNTS: Gvr = gvr("", "v1", "serviceaccounts");
const SECRETS: Gvr = gvr("", "v1", "secrets");

/// Writes labels on secrets.
pub trait Marks: Send + Sync + 'static {
    /// Labels this secret, if it is still the one of that uid. Returns at once.
    fn label(&self, namespace: &str, name: &str, uid: &str, label: &'static str, value: String);
}

/// What such a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyClaims {
    iss: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.uid")]
    account_uid: String,
    #[serde(default)]
    sub: String,
}

impl LegacyClaims {
    pub fn new(account: &ServiceAccount, secret: &Secret) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (namespace, name) = (text(&account.metadata.namespace), text(&account.metadata.name));
        Self {
            iss: LEGACY_ISSUER.to_owned(),
            secret: text(&secret.metadata.name),
            account_uid: text(&account.metadata.uid),
            sub: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            namespace,
            account: name,
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        for (claim, missing) in [
            (&self.sub, "sub claim is missing"),
            (&self.namespace, "namespace claim is missing"),
            (&self.secret, "secretName claim is missing"),
            (&self.account, "serviceAccountName claim is missing"),
            (&self.account_uid, "serviceAccountUID claim is missing"),
        ] {
            if claim.is_empty() {
                return Err(missing);
            }
        }
        match self.sub == format!("{SERVICE_ACCOUNT_PREFIX}{}:{}", self.namespace, self.account) {
            true => Ok(()),
            false => Err("sub claim is invalid"),
        }
    }
}

pub(super) struct LegacyTokens {
    key: Arc<Key>,
    objects: Arc<dyn Lookup>,
    marks: Arc<dyn Marks>,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    metrics: TokenMetrics,
}

impl LegacyTokens {
    pub(super) fn new(
        key: Arc<Key>,
        objects: Arc<dyn Lookup>,
        marks: Arc<dyn Marks>,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
        metrics: TokenMetrics,
    ) -> Self {
        Self { key, objects, marks, clock, metrics }
    }

    /// None for a token of another kind.
    pub(super) fn check(&self, token: &str, audiences: &[String]) -> Result<Option<Whose>, AuthenticateError> {
        match jwt::claims::<LegacyClaims>(token) {
            Some(claims) if claims.iss == LEGACY_ISSUER => {}
            _ => return Ok(None),
        }
        let refuse = |why: &str| AuthenticateError(why.to_owned());
        let claims: LegacyClaims = self.key.verify(token).ok_or_else(|| refuse("invalid signature"))?;
        self.metrics.legacy.inc();
        // It names no audience: it is for the API server.
        if !audiences.is_empty() && audiences.iter().all(|audience| audience != ISSUER) {
            let why = format!("token audiences [{ISSUER:?}] is invalid for the target audiences {audiences:?}");
            return Err(AuthenticateError(why));
        }
        claims.check().map_err(refuse)?;
        let secret = self.secret(&claims, token).map_err(refuse)?;
        let account = self.account(&claims).map_err(AuthenticateError)?;
        self.mark(&claims, &secret);
        if label(&secret, INVALID_SINCE).is_some_and(|since| !since.is_empty()) {
            self.metrics.legacy_invalid.inc();
            let LegacyClaims { namespace, secret, account, .. } = &claims;
            return Err(AuthenticateError(format!(
                "the token in secret {namespace}/{secret} for service account {namespace}/{account} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            )));
        }
        let remarks = self.remarks(&claims, &account);
        let own = format!("system:serviceaccounts:{}", claims.namespace);
        let user = User { uid: claims.account_uid, ..User::new(&claims.sub, &["system:serviceaccounts", &own]) };
        Ok(Some(Whose { user, audiences: vec![ISSUER.to_owned()], remarks }))
    }

    /// A token that the account itself lists was made by nobody's will, as clusters used to.
    fn remarks(&self, claims: &LegacyClaims, account: &ServiceAccount) -> Remarks {
        let LegacyClaims { sub, secret, .. } = claims;
        let automatic = account.secrets.iter().flatten().any(|listed| listed.name.as_deref() == Some(secret));
        let (counter, kind) = match automatic {
            true => (&self.metrics.legacy_auto, "authentication.k8s.io/legacy-token-autogenerated-secret"),
            false => (&self.metrics.legacy_manual, "authentication.k8s.io/legacy-token-manual-secret"),
        };
        counter.inc();
        Remarks {
            warnings: automatic.then_some(WARNING).into_iter().collect(),
            annotations: vec![("authentication.k8s.io/legacy-token", sub.clone()), (kind, secret.clone())],
        }
    }

    /// The secret must be there and hold the token.
    fn secret(&self, claims: &LegacyClaims, token: &str) -> Result<Secret, &'static str> {
        let found = self.objects.get(&SECRETS, Some(&claims.namespace), &claims.secret);
        let secret = found.and_then(|bytes| serde_json::from_slice::<Secret>(&bytes).ok());
        let secret = secret.filter(|secret| secret.metadata.deletion_timestamp.is_none());
        let secret = secret.ok_or("Token has been invalidated")?;
        let held = secret.data.as_ref().and_then(|data| data.get(TOKEN)).map(|value| value.0.as_slice());
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(held.unwrap_or_default(), token.as_bytes());
        same.map(|()| secret).map_err(|_| "Token does not match server's copy")
    }

    fn account(&self, claims: &LegacyClaims) -> Result<ServiceAccount, String> {
        let LegacyClaims { namespace, account: name, account_uid, .. } = claims;
        let found = self.objects.get(&ACCOUNTS, Some(namespace), name);
        let account = found.and_then(|bytes| serde_json::from_slice::<ServiceAccount>(&bytes).ok());
        let account = account.ok_or_else(|| format!("serviceaccounts {name:?} not found"))?;
        if account.metadata.deletion_timestamp.is_some() {
            return Err(format!("ServiceAccount {namespace}/{name} has been deleted"));
        }
        let uid = account.metadata.uid.clone().unwrap_or_default();
        match uid == *account_uid {
            true => Ok(account),
            false => Err(format!("ServiceAccount UID ({uid}) does not match claim ({account_uid})")),
        }
    }

    /// Writes today on the secret. Tomorrow counts too: another server's clock may be ahead.
    fn mark(&self, claims: &LegacyClaims, secret: &Secret) {
        let today = (self.clock)().to_zoned(TimeZone::UTC).date();
        let tomorrow = today.saturating_add(1.day());
        let held = label(secret, LAST_USED);
        if held != Some(&today.to_string()) && held != Some(&tomorrow.to_string()) {
            let uid = secret.metadata.uid.as_deref().unwrap_or_default();
            self.marks.label(&claims.namespace, &claims.secret, uid, LAST_USED, today.to_string());
        }
    }
}

fn label<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use wharf_types::k8s::ByteString;

    use super::*;
    use crate::pki::Pki;
    use crate::token::whom;

    const NOW: &str = "2030-05-06T12:00:00Z";

    #[derive(Default)]
    struct World {
        objects: Mutex<HashMap<String, Bytes>>,
        labelled: Mutex<Vec<String>>,
    }

    impl Lookup for World {
        fn get(&self, resource: &Gvr, _: Option<&str>, name: &str) -> Option<Bytes> {
            self.objects.lock().get(&format!("{}/{name}", resource.resource)).cloned()
        }
    }

    impl Marks for World {
        fn label(&self, namespace: &str, name: &str, uid: &str, label: &'static str, value: String) {
            self.labelled.lock().push(format!("{namespace}/{name} {uid} {label}={value}"));
        }
    }

    struct Bench {
        world: Arc<World>,
        tokens: LegacyTokens,
        token: String,
        secret: Secret,
    }

    fn bench() -> Bench {
        let root = tempfile::tempdir().expect("temporary directory");
        let now: Timestamp = NOW.parse().expect("a time");
        let pki = Pki::open(root.path(), now).expect("PKI");
        let key = Key::new(&pki.service_account_key_pem(), &pki.service_account_public_key_pem()).expect("a key");
        let (key, world) = (Arc::new(key), Arc::new(World::default()));
        let account = json!({"metadata": {"name": "bot", "namespace": "a", "uid": "1"}});
        let account: ServiceAccount = serde_json::from_value(account).expect("an account");
        let secret = json!({"metadata": {"name": "bot-token", "namespace": "a", "uid": "2"}});
        let mut secret: Secret = serde_json::from_value(secret).expect("a secret");
        let token = key.sign(&LegacyClaims::new(&account, &secret)).expect("a token");
        secret.data = Some([("token".to_owned(), ByteString(token.clone().into_bytes()))].into());
        let bench = Bench {
            tokens: LegacyTokens::new(
                key,
                world.clone(),
                world.clone(),
                Arc::new(move || now),
                TokenMetrics::default(),
            ),
            world,
            token,
            secret,
        };
        bench.put("serviceaccounts/bot", serde_json::to_value(&account).expect("JSON"));
        bench.put("secrets/bot-token", serde_json::to_value(&bench.secret).expect("JSON"));
        bench
    }

    impl Bench {
        fn put(&self, at: &str, object: Value) {
            self.world.objects.lock().insert(at.to_owned(), object.to_string().into());
        }

        fn change_secret(&self, change: Value) {
            let mut secret = serde_json::to_value(&self.secret).expect("JSON");
            wharf_machinery::patch::merge(&mut secret, &change).expect("it merges");
            self.put("secrets/bot-token", secret);
        }

        /// `expected` is the user's name, `none`, or why the token is refused.
        #[track_caller]
        fn check(&self, token: &str, expected: &str) {
            assert_eq!(whom(self.tokens.check(token, &[])), expected);
        }
    }

    const BOT: &str = "system:serviceaccount:a:bot";

    #[test]
    fn a_token_counts_while_its_secret_holds_it() {
        let bench = bench();
        bench.check(&bench.token, BOT);
        bench.change_secret(json!({"data": {"token": "b3RoZXI="}}));
        bench.check(&bench.token, "Token does not match server's copy");
        bench.change_secret(json!({"metadata": {"deletionTimestamp": NOW}}));
        bench.check(&bench.token, "Token has been invalidated");
        bench.world.objects.lock().remove("secrets/bot-token");
        bench.check(&bench.token, "Token has been invalidated");
    }

    #[test]
    fn a_token_counts_while_its_account_is_the_same() {
        let bench = bench();
        bench.put("serviceaccounts/bot", json!({"metadata": {"uid": "9"}}));
        bench.check(&bench.token, "ServiceAccount UID (9) does not match claim (1)");
        bench.put("serviceaccounts/bot", json!({"metadata": {"uid": "1", "deletionTimestamp": NOW}}));
        bench.check(&bench.token, "ServiceAccount a/bot has been deleted");
        bench.world.objects.lock().remove("serviceaccounts/bot");
        bench.check(&bench.token, "serviceaccounts \"bot\" not found");
    }

    #[test]
    fn each_day_of_use_is_written_once() {
        let bench = bench();
        let written = format!("a/bot-token 2 {LAST_USED}=2030-05-06");
        bench.check(&bench.token, BOT);
        assert_eq!(std::mem::take(&mut *bench.world.labelled.lock()), [written]);
        for (held, expected) in [("2030-05-06", 0), ("2030-05-07", 0), ("2030-05-05", 1), ("soon", 1)] {
            bench.change_secret(json!({"metadata": {"labels": {LAST_USED: held}}}));
            bench.check(&bench.token, BOT);
            assert_eq!(std::mem::take(&mut *bench.world.labelled.lock()).len(), expected, "{held}");
        }
    }

    #[test]
    fn a_token_that_is_marked_invalid_is_refused_and_its_use_still_written() {
        let bench = bench();
        bench.change_secret(json!({"metadata": {"labels": {INVALID_SINCE: "2030-01-01"}}}));
        bench.check(
            &bench.token,
            "the token in secret a/bot-token for service account a/bot has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the 'kubernetes.io/legacy-token-invalid-since' label from the secret to temporarily allow use of this token",
        );
        assert_eq!(bench.world.labelled.lock().len(), 1);
    }

    #[test]
    fn what_is_said_of_a_token_depends_on_who_made_it() {
        let bench = bench();
        let about = || bench.tokens.check(&bench.token, &[]).expect("valid").expect("ours").remarks;
        let legacy = ("authentication.k8s.io/legacy-token", BOT.to_owned());
        let made_by_hand = about();
        assert_eq!(made_by_hand.warnings, Vec::<&str>::new());
        let manual = ("authentication.k8s.io/legacy-token-manual-secret", "bot-token".to_owned());
        assert_eq!(made_by_hand.annotations, [legacy.clone(), manual]);
        bench.put("serviceaccounts/bot", json!({"metadata": {"uid": "1"}, "secrets": [{"name": "bot-token"}]}));
        let listed = about();
        assert_eq!(listed.warnings, [WARNING]);
        let automatic = ("authentication.k8s.io/legacy-token-autogenerated-secret", "bot-token".to_owned());
        assert_eq!(listed.annotations, [legacy, automatic]);
        let metrics = &bench.tokens.metrics;
        assert_eq!((metrics.legacy.get(), metrics.legacy_manual.get(), metrics.legacy_auto.get()), (2, 1, 1));
    }

    #[test]
    fn others_tokens_are_passed_on_and_forgeries_refused() {
        let bench = bench();
        bench.check("abc", "none");
        let (signed, _) = bench.token.rsplit_once('.').expect("a token");
        bench.check(&format!("{signed}.AAAA"), "invalid signature");
        let for_vault = bench.tokens.check(&bench.token, &["vault".to_owned()]);
        assert!(for_vault.is_err_and(|error| error.0.contains("is invalid for the target audiences [\"vault\"]")));
    }
}

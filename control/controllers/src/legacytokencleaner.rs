//! Takes tokens in secrets out of use that nobody has used for a year: first marks them invalid, deletes them a year later.
//!
//! Only what was once made unasked is judged: secrets that their account lists. Nothing is judged before use has been
//! watched for long enough, which a ConfigMap of the API server tells.
//! Source of the behaviour: `k8s.io/kubernetes/pkg/controller/serviceaccount/legacy_serviceaccount_token_cleaner.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp, ToSpan, tz::TimeZone};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use wharf_client::{Action, Clock, Error, Informers, Lister, ObjectKey, Reconcile, Trigger};
use wharf_machinery::pod_secrets;
use wharf_types::k8s::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};

use crate::call::{self, During as _, gone_is_fine};
use crate::serviceaccounttoken::{TOKENS, account_name, is_token, meant};

/// How often all are looked at (`DefaultCleanerSyncInterval`), and how long a token may lie unused
/// (`--legacy-service-account-token-clean-up-period`).
const PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
const UNUSED: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Says since when use is written down.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const TRACKING_NAMESPACE: &str = "kube-system";
const SINCE: &str = "since";
const DATE: &str = "%Y-%m-%d";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

pub struct LegacyTokenCleaner {
    client: Client,
    secrets: Lister<Secret>,
    accounts: Lister<ServiceAccount>,
    pods: Lister<Pod>,
    clock: Clock,
}

impl LegacyTokenCleaner {
    pub fn new(informers: &Informers, clock: Clock) -> Self {
        let client = informers.client().clone();
        Self { client, secrets: informers.selected(TOKENS), accounts: informers.of(), pods: informers.of(), clock }
    }

    /// Midnight after the day on which use was first written down.
    async fn watched_since(&self) -> Result<Option<Timestamp>, Error> {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), TRACKING_NAMESPACE);
        let map = maps.get_opt(TRACKING).await.during("read since when legacy tokens are watched from", TRACKING)?;
        let since = map.as_ref().and_then(|map| date(map.data.as_ref()?.get(SINCE)?));
        Ok(since.and_then(|since| start_of(since.saturating_add(1.day()))))
    }

    async fn mark(&self, secret: &Secret, today: Date, key: &ObjectKey) -> Result<(), Error> {
        let labels = BTreeMap::from([(INVALID_SINCE, today.to_string())]);
        let patch = json!({"metadata": {"uid": secret.metadata.uid, "labels": labels}});
        let api = Api::<Secret>::namespaced(self.client.clone(), &key.namespace);
        tracing::info!(secret = %key, "mark the token of a service account as invalid: nobody uses it");
        let marked = gone_is_fine(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await);
        marked.during("mark as invalid the token in secret", key)?;
        Ok(())
    }

    async fn delete(&self, secret: &Secret, key: &ObjectKey) -> Result<(), Error> {
        let preconditions = Preconditions { uid: None, resource_version: secret.metadata.resource_version.clone() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api = Api::<Secret>::namespaced(self.client.clone(), &key.namespace);
        tracing::info!(secret = %key, "delete the token of a service account: nobody uses it");
        match api.delete(&key.name, &params).await {
            Err(error) if call::is_conflict(&error) => {}
            result => drop(gone_is_fine(result).during("delete the unused token in secret", key)?),
        }
        Ok(())
    }
}

#[async_trait]
impl Reconcile for LegacyTokenCleaner {
    fn name(&self) -> &'static str {
        "legacy-service-account-token-cleaner"
    }

    fn triggers(&self) -> Vec<Trigger> {
        let all = || vec![ObjectKey::new(TRACKING_NAMESPACE, TRACKING)];
        vec![
            Trigger::every(PERIOD, all),
            Trigger::reads(&self.secrets),
            Trigger::reads(&self.accounts),
            Trigger::reads(&self.pods),
        ]
    }

    async fn reconcile(&self, _: &ObjectKey) -> Result<Action, Error> {
        let now = self.clock.now();
        let Some(since) = self.watched_since().await? else { return Ok(Action::done()) };
        if now < since + UNUSED {
            return Ok(Action::done());
        }
        let mut mounted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for secret in self.secrets.list().into_iter().filter(|secret| is_token(secret)) {
            let (namespace, name) = (secret.metadata.namespace.as_deref().unwrap_or_default(), name(&secret));
            let key = ObjectKey::new(namespace, name);
            let account = account_name(&secret).and_then(|name| self.accounts.get(&ObjectKey::new(namespace, name)));
            let used = mounted.entry(namespace.to_owned()).or_insert_with(|| {
                let pods = self.pods.list_in(namespace);
                pods.iter().flat_map(|pod| pod_secrets::names(pod)).map(str::to_owned).collect()
            });
            match judge(&secret, account.as_deref(), used, now) {
                Verdict::Keep => {}
                Verdict::Mark(today) => self.mark(&secret, today, &key).await?,
                Verdict::Delete => self.delete(&secret, &key).await?,
            }
        }
        Ok(Action::done())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// As invalid from this day on.
    Mark(Date),
    Delete,
}

/// `mounted` are the secrets that pods of the namespace name.
fn judge(secret: &Secret, account: Option<&ServiceAccount>, mounted: &BTreeSet<String>, now: Timestamp) -> Verdict {
    let (today, limit) = (day(now), day(now - UNUSED));
    let young = secret.metadata.creation_timestamp.as_ref().is_none_or(|at| at.0 >= now - UNUSED);
    if young || secret.metadata.deletion_timestamp.is_some() {
        return Verdict::Keep;
    }
    if let Some(text) = label(secret, LAST_USED)
        && date(text).is_none_or(|last| last >= limit)
    {
        return Verdict::Keep;
    }
    let lists = |account: &ServiceAccount| {
        let mut names = account.secrets.iter().flatten().filter_map(|listed| listed.name.as_deref());
        meant(secret, account) && names.any(|listed| listed == name(secret))
    };
    if !account.is_some_and(lists) || mounted.contains(name(secret)) {
        return Verdict::Keep;
    }
    match label(secret, INVALID_SINCE).and_then(date) {
        None => Verdict::Mark(today),
        Some(since) if since >= limit => Verdict::Keep,
        Some(_) => Verdict::Delete,
    }
}

fn name(secret: &Secret) -> &str {
    secret.metadata.name.as_deref().unwrap_or_default()
}

fn label<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn date(text: impl AsRef<str>) -> Option<Date> {
    Date::strptime(DATE, text.as_ref()).ok()
}

fn day(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

fn start_of(day: Date) -> Option<Timestamp> {
    day.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// A listed secret of a token, made long ago, with these labels, `mounted` or not.
    #[track_caller]
    fn check(labels: Value, listed: &str, mounted: bool, expected: Verdict) {
        let secret = json!({
            "metadata": {
                "name": "old", "namespace": "a", "creationTimestamp": "2025-01-01T00:00:00Z", "labels": labels,
                "annotations": {"kubernetes.io/service-account.name": "bot", "kubernetes.io/service-account.uid": "1"},
            },
            "type": "kubernetes.io/service-account-token",
        });
        let secret: Secret = serde_json::from_value(secret).expect("a secret");
        let account = json!({"metadata": {"name": "bot", "uid": "1"}, "secrets": [{"name": listed}]});
        let account: ServiceAccount = serde_json::from_value(account).expect("an account");
        let mounted: BTreeSet<String> = if mounted { ["old".to_owned()].into() } else { BTreeSet::new() };
        let now: Timestamp = "2030-05-06T12:00:00Z".parse().expect("a time");
        assert_eq!(judge(&secret, Some(&account), &mounted, now), expected);
    }

    fn today() -> Date {
        date("2030-05-06").expect("a date")
    }

    #[test]
    fn what_nobody_has_used_for_a_year_is_marked_and_a_year_later_deleted() {
        check(json!({}), "old", false, Verdict::Mark(today()));
        check(json!({LAST_USED: "2029-05-06"}), "old", false, Verdict::Keep);
        check(json!({LAST_USED: "2029-05-05"}), "old", false, Verdict::Mark(today()));
        check(json!({LAST_USED: "lately"}), "old", false, Verdict::Keep);
        check(json!({INVALID_SINCE: "2029-05-06"}), "old", false, Verdict::Keep);
        check(json!({INVALID_SINCE: "2029-05-05"}), "old", false, Verdict::Delete);
        check(json!({INVALID_SINCE: "long ago"}), "old", false, Verdict::Mark(today()));
    }

    #[test]
    fn what_was_made_by_hand_or_is_in_a_pod_stays() {
        check(json!({INVALID_SINCE: "2025-01-01"}), "other", false, Verdict::Keep);
        check(json!({INVALID_SINCE: "2025-01-01"}), "old", true, Verdict::Keep);
    }
}

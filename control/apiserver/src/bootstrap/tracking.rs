//! Says since when the use of tokens in secrets is written down: the cleaner of unused ones waits a year from then.
//!
//! Source: `pkg/controlplane/controller/legacytokentracking`. Invariant: a date that can be read is never changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use kube::runtime::watcher;
use wharf_types::meta::ObjectMeta;

use super::{client, pokes};
use crate::server::ApiServer;

const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";
const NAMESPACE: &str = "kube-system";
const SINCE: &str = "since";
const DATE: &str = "%Y-%m-%d";
/// Whoever deletes it has it back after so long: servers that disagree do not fight.
const PAUSE: SignedDuration = SignedDuration::from_mins(30);

/// Makes it and keeps it, for ever.
pub async fn keep(server: &Arc<ApiServer>) {
    let maps = Api::<ConfigMap>::namespaced(client(server), NAMESPACE);
    let mut changes = pokes(maps.clone(), watcher::Config::default().fields(&format!("metadata.name={NAME}")));
    let mut not_before = Timestamp::MIN;
    while changes.next().await.is_some() {
        if let Err(error) = settle(server, &maps, &mut not_before).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "keep {NAME}");
        }
    }
}

async fn settle(server: &ApiServer, maps: &Api<ConfigMap>, not_before: &mut Timestamp) -> Result<(), Box<kube::Error>> {
    let held = maps.get_opt(NAME).await?;
    if held.is_none() {
        let pause = not_before.duration_since((server.clock)());
        tokio::time::sleep(pause.try_into().unwrap_or_default()).await;
    }
    let now = (server.clock)();
    let Some(wanted) = wanted(held.as_ref(), now) else { return Ok(()) };
    let write = match held {
        Some(_) => maps.replace(NAME, &PostParams::default(), &wanted).await,
        None => maps.create(&PostParams::default(), &wanted).await,
    };
    match write {
        // Somebody else came first: the watch tells.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => {
            *not_before = now.checked_add(PAUSE).unwrap_or(Timestamp::MAX);
            Ok(())
        }
    }
}

/// What to write, if what is there is not right.
fn wanted(held: Option<&ConfigMap>, now: Timestamp) -> Option<ConfigMap> {
    let since = held.and_then(|map| map.data.as_ref()?.get(SINCE));
    if since.is_some_and(|since| Date::strptime(DATE, since).is_ok()) {
        return None;
    }
    let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
    let mut wanted = held.cloned().unwrap_or(ConfigMap { metadata, ..ConfigMap::default() });
    let today = now.to_zoned(TimeZone::UTC).date().to_string();
    wanted.data.get_or_insert_with(BTreeMap::new).insert(SINCE.to_owned(), today);
    Some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `held` is the date that is there, `-` where there is no map; `expected` what is written, `-` for nothing.
    #[track_caller]
    fn check(held: &str, expected: &str) {
        let map = |since: &str| ConfigMap {
            data: Some([(SINCE.to_owned(), since.to_owned())].into()),
            ..ConfigMap::default()
        };
        let held = (held != "-").then(|| map(held));
        let got = wanted(held.as_ref(), "2030-05-06T23:59:00Z".parse().expect("a time"));
        let since = got.and_then(|map| map.data?.remove(SINCE));
        assert_eq!(since.as_deref().unwrap_or("-"), expected);
    }

    #[test]
    fn the_first_day_stays_and_nonsense_is_put_right() {
        check("-", "2030-05-06");
        check("2024-01-01", "-");
        check("yesterday", "2030-05-06");
    }
}

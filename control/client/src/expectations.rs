//! "Has the watch shown me what I did?" A controller that created pods must not count them again before it sees them.
//!
//! client-go counts expected creations and deletions. Here each write's own resource version is remembered instead: versions of
//! one kind arrive in order, so once the view has seen the newest of a controller's writes, it has seen them all.
//! A deletion is fenced by the object itself: it must be gone from the view, replaced, or marked as terminating.
//! Invariant: a fence opens in the end, by the watch, by a list that is new enough, or by [`FENCE_LIMIT`].

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::key::ObjectKey;
use crate::lister::{Informed, Lister, version_of};

/// After this long a write that was never seen is given up on. Source: client-go's `ExpectationsTimeout`.
pub const FENCE_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Fences of one controller over the objects that it writes; one for each key that it reconciles.
pub struct Fences<K> {
    written: Lister<K>,
    fences: Mutex<HashMap<ObjectKey, Fence>>,
}

struct Fence {
    version: u64,
    /// How many lists were complete at the last write.
    lists: u64,
    deleted: Vec<(ObjectKey, Option<String>)>,
    since: Instant,
}

impl<K: Informed> Fences<K> {
    /// `written` is the view in which the controller's writes must show.
    pub fn new(written: Lister<K>) -> Self {
        Self { written, fences: Mutex::default() }
    }

    /// `object` is what the server answered to a create, update or patch done for `key`.
    pub fn wrote(&self, key: &ObjectKey, object: &K) {
        self.raise(key, |fence| fence.version = fence.version.max(version_of(object)));
    }

    /// `object` was deleted for `key`.
    pub fn deleted(&self, key: &ObjectKey, object: &K) {
        self.raise(key, |fence| fence.deleted.push((ObjectKey::of(object), object.meta().uid.clone())));
    }

    fn raise(&self, key: &ObjectKey, note: impl FnOnce(&mut Fence)) {
        let lists = self.written.progress().lists;
        let mut fences = self.fences.lock();
        let fence = fences.entry(key.clone()).or_insert_with(|| Fence {
            version: 0,
            lists,
            deleted: Vec::new(),
            since: Instant::now(),
        });
        (fence.lists, fence.since) = (lists, Instant::now());
        note(fence);
    }

    /// True when all writes done for `key` show in the view. Ask before reading the view, not after.
    pub fn open(&self, key: &ObjectKey) -> bool {
        let progress = self.written.progress();
        let mut fences = self.fences.lock();
        let Some(fence) = fences.get_mut(key) else { return true };
        fence.deleted.retain(|(key, uid)| {
            let seen = self.written.get(key);
            seen.is_some_and(|object| object.meta().uid == *uid && object.meta().deletion_timestamp.is_none())
        });
        let shown = progress.observed >= fence.version && fence.deleted.is_empty();
        // A list that began before the write may lack it; the next one cannot.
        let relisted = progress.lists >= fence.lists + 2;
        let given_up = fence.since.elapsed() >= FENCE_LIMIT;
        if given_up && !shown {
            tracing::warn!(%key, kind = %K::kind(&()), "a write was not seen in time; going on without it");
        }
        if shown || relisted || given_up {
            fences.remove(key);
            return true;
        }
        false
    }

    /// The object that was reconciled is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.fences.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::watcher::Event;
    use wharf_types::k8s::api::core::v1::ConfigMap;
    use wharf_types::meta::ObjectMeta;

    fn config_map(name: &str, version: u64) -> ConfigMap {
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            uid: Some(format!("uid-{name}")),
            resource_version: Some(version.to_string()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, ..ConfigMap::default() }
    }

    fn check(fences: &Fences<ConfigMap>, expected: bool) {
        assert_eq!(fences.open(&ObjectKey::cluster("owner")), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fence_opens_when_the_newest_write_shows() {
        let (lister, owner) = (Lister::new(), ObjectKey::cluster("owner"));
        let fences = Fences::new(lister.clone());
        check(&fences, true);
        fences.wrote(&owner, &config_map("b", 8));
        fences.wrote(&owner, &config_map("a", 7));
        lister.shared.apply(Event::Apply(config_map("a", 7)));
        check(&fences, false);
        lister.shared.apply(Event::Apply(config_map("b", 8)));
        check(&fences, true);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fence_opens_when_a_deletion_shows() {
        let (lister, owner) = (Lister::new(), ObjectKey::cluster("owner"));
        lister.shared.apply(Event::Apply(config_map("a", 7)));
        let fences = Fences::new(lister.clone());
        fences.deleted(&owner, &config_map("a", 7));
        check(&fences, false);
        lister.shared.apply(Event::Delete(config_map("a", 9)));
        check(&fences, true);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fence_opens_after_a_second_list_or_its_limit() {
        let (lister, owner) = (Lister::new(), ObjectKey::cluster("owner"));
        let fences = Fences::new(lister.clone());
        fences.wrote(&owner, &config_map("a", 7));
        for event in [Event::Init, Event::InitDone] {
            lister.shared.apply(event);
        }
        check(&fences, false);
        for event in [Event::Init, Event::InitDone] {
            lister.shared.apply(event);
        }
        check(&fences, true);
        fences.wrote(&owner, &config_map("a", 17));
        check(&fences, false);
        tokio::time::advance(FENCE_LIMIT).await;
        check(&fences, true);
    }
}

//! What a controller is: a name, the changes that wake it, and one idempotent step.

use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::key::ObjectKey;
use crate::lister::{Informed, Lister};
use crate::subscription::Changed;
use crate::workqueue::Queue;

/// Any error; the manager logs it with its causes and tries the key again later.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What to do with a key after a success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    pub requeue_after: Option<Duration>,
}

impl Action {
    /// Nothing, until the next change.
    pub const fn done() -> Self {
        Self { requeue_after: None }
    }

    /// Again after `delay`, or at the next change if that is earlier.
    pub const fn requeue_after(delay: Duration) -> Self {
        Self { requeue_after: Some(delay) }
    }

    /// The earlier of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let requeue_after = match (self.requeue_after, other.requeue_after) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        Self { requeue_after }
    }
}

/// A level-triggered loop. The step reads the world, decides, acts; it never trusts the change that woke it.
/// The manager never runs it twice at once for a key, and calls it again after an error or a panic.
#[async_trait]
pub trait Reconcile: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// What this controller reads. Steps begin when all of it is synced.
    fn triggers(&self) -> Vec<Trigger>;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error>;
}

/// Changes that wake a controller, as data.
pub struct Trigger {
    pub(crate) synced: BoxFuture<'static, ()>,
    pub(crate) run: Box<dyn FnOnce(Queue<ObjectKey>) -> BoxFuture<'static, ()> + Send>,
}

impl Trigger {
    /// Each object of the kind is its own key.
    pub fn primary<K: Informed>(lister: &Lister<K>) -> Self {
        Self::mapped(lister, |changed| vec![changed.key.clone()])
    }

    /// The object's controller, where that is an `O`; the former one too when it changed hands.
    pub fn owned<K: Informed, O: kube::Resource<DynamicType = ()>>(lister: &Lister<K>) -> Self {
        Self::mapped(lister, |changed| {
            let mut keys: Vec<ObjectKey> = Vec::new();
            for object in [&changed.old, &changed.new].into_iter().flatten() {
                let owner =
                    controller_of::<O>(object.meta()).map(|owner| ObjectKey::new(&changed.key.namespace, owner));
                keys.extend(owner.filter(|owner| keys.last() != Some(owner)));
            }
            keys
        })
    }

    /// Whatever `keys_of` makes of a change.
    pub fn mapped<K: Informed>(
        lister: &Lister<K>,
        keys_of: impl Fn(&Changed<K>) -> Vec<ObjectKey> + Send + 'static,
    ) -> Self {
        Self::each(lister, move |changed, queue| keys_of(changed).into_iter().for_each(|key| queue.add(key)))
    }

    /// `wake` adds what it will for a change, now or for later.
    pub fn each<K: Informed>(
        lister: &Lister<K>,
        wake: impl Fn(&Changed<K>, &Queue<ObjectKey>) + Send + 'static,
    ) -> Self {
        let source = lister.clone();
        let run = move |queue: Queue<ObjectKey>| -> BoxFuture<'static, ()> {
            Box::pin(async move {
                let mut changes = source.subscribe();
                while let Some(changed) = changes.next().await {
                    wake(&changed, &queue);
                }
            })
        };
        Self { synced: synced(lister), run: Box::new(run) }
    }

    /// Read, but no reason to wake.
    pub fn reads<K: Informed>(lister: &Lister<K>) -> Self {
        Self { synced: synced(lister), run: Box::new(|_| Box::pin(std::future::ready(()))) }
    }

    /// Any other source of keys. `run` is dropped when the manager stops; steps wait for `synced`.
    pub fn custom(
        synced: BoxFuture<'static, ()>,
        run: impl FnOnce(Queue<ObjectKey>) -> BoxFuture<'static, ()> + Send + 'static,
    ) -> Self {
        Self { synced, run: Box::new(run) }
    }

    /// All `keys`, whenever somebody says something new.
    pub fn told<T: Send + Sync + 'static>(
        mut news: watch::Receiver<T>,
        keys: impl Fn() -> Vec<ObjectKey> + Send + 'static,
    ) -> Self {
        let run = move |queue: Queue<ObjectKey>| -> BoxFuture<'static, ()> {
            Box::pin(async move {
                while news.changed().await.is_ok() {
                    keys().into_iter().for_each(|key| queue.add(key));
                }
            })
        };
        Self { synced: Box::pin(std::future::ready(())), run: Box::new(run) }
    }

    /// Every `period`, first at once: the safety net under the watches, or the only cause where nothing can be watched.
    pub fn every(period: Duration, keys: impl Fn() -> Vec<ObjectKey> + Send + 'static) -> Self {
        let run = move |queue: Queue<ObjectKey>| -> BoxFuture<'static, ()> {
            Box::pin(async move {
                let mut ticks = tokio::time::interval(period);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    keys().into_iter().for_each(|key| queue.add(key));
                }
            })
        };
        Self { synced: Box::pin(std::future::ready(())), run: Box::new(run) }
    }
}

fn synced<K: Informed>(lister: &Lister<K>) -> BoxFuture<'static, ()> {
    let lister = lister.clone();
    Box::pin(async move { lister.synced().await })
}

/// The name of the object's controller, if that is an `O`.
fn controller_of<O: kube::Resource<DynamicType = ()>>(meta: &wharf_types::meta::ObjectMeta) -> Option<&str> {
    let controller = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
    let group = controller.api_version.rsplit_once('/').map_or("", |(group, _)| group);
    (controller.kind == O::kind(&()) && group == O::group(&())).then_some(controller.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::watcher::Event;
    use wharf_types::k8s::api::apps::v1::{Deployment, ReplicaSet};
    use wharf_types::k8s::api::core::v1::Pod;
    use wharf_types::meta::{ObjectMeta, OwnerReference};

    fn pod(owner_kind: &str, owner: &str) -> Pod {
        let owner = OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: owner_kind.to_owned(),
            name: owner.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        let metadata = ObjectMeta {
            name: Some("pod".to_owned()),
            namespace: Some("ns".to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        };
        Pod { metadata, ..Pod::default() }
    }

    #[tokio::test]
    async fn an_owned_object_wakes_its_controller_and_the_former_one() {
        let pods = Lister::<Pod>::new();
        let queue = Queue::new();
        let trigger = tokio::spawn((Trigger::owned::<Pod, ReplicaSet>(&pods).run)(queue.clone()));
        let other = tokio::spawn((Trigger::owned::<Pod, Deployment>(&pods).run)(queue.clone()));
        for owner in ["one", "two"] {
            pods.shared.apply(Event::Apply(pod("ReplicaSet", owner)));
            let mut woken = Vec::new();
            for _ in 0..if owner == "one" { 1 } else { 2 } {
                woken.push(queue.next().await.expect("open").key().to_string());
            }
            assert_eq!(woken, if owner == "one" { vec!["ns/one"] } else { vec!["ns/one", "ns/two"] });
        }
        pods.shared.close();
        trigger.await.expect("trigger ends");
        other.await.expect("trigger ends");
        assert_eq!(queue.depth().ready, 0);
    }

    #[test]
    fn the_earlier_requeue_counts() {
        let after = |seconds| Action::requeue_after(Duration::from_secs(seconds));
        assert_eq!(after(5).and(after(3)), after(3));
        assert_eq!(Action::done().and(after(3)), after(3));
        assert_eq!(Action::done().and(Action::done()), Action::done());
    }
}

//! Changes of a kind, merged for each object until they are taken.
//!
//! A reader that falls behind costs one slot for each object that changed since, never one for each change: the first `old`
//! and the last `new` are kept. So the buffer's limit is the number of objects, and a slow reader slows nobody.
//! The price: a reader does not see every state in between, and an object that was deleted and made again shows as one
//! change whose `old` and `new` have different UIDs. Level-triggered code does not mind.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::key::ObjectKey;

/// What became of one object. At least one of `old` and `new` is there.
#[derive(Debug)]
pub struct Changed<K> {
    pub key: ObjectKey,
    /// `None`: the object is new to this reader.
    pub old: Option<Arc<K>>,
    /// `None`: the object is gone.
    pub new: Option<Arc<K>>,
}

impl<K> Changed<K> {
    /// The object as it is, or as it was last seen.
    pub fn latest(&self) -> &Arc<K> {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has an object before or after it")
    }
}

/// The reading end; see [`crate::Lister::subscribe`].
pub struct Changes<K> {
    pending: Arc<Pending<K>>,
}

impl<K> Changes<K> {
    /// The next change, in the order in which objects first changed; `None` when the informers have stopped.
    /// Safe to cancel.
    pub async fn next(&mut self) -> Option<Changed<K>> {
        let pending = self.pending.clone();
        loop {
            let woken = pending.wake.notified();
            if let Some(changed) = self.try_next() {
                return Some(changed);
            }
            if pending.slots.lock().closed {
                return None;
            }
            woken.await;
        }
    }

    /// The next change that is already here.
    pub fn try_next(&mut self) -> Option<Changed<K>> {
        let mut slots = self.pending.slots.lock();
        let (_, changed) = slots.changes.pop_first()?;
        slots.turns.remove(&changed.key);
        Some(changed)
    }

    /// As a stream, for those who combine streams.
    pub fn into_stream(self) -> impl Stream<Item = Changed<K>> + Send
    where
        K: Send + Sync,
    {
        futures::stream::unfold(self, |mut changes| async move { Some((changes.next().await?, changes)) })
    }
}

/// The buffer between the informer and one reader.
pub(crate) struct Pending<K> {
    slots: Mutex<Slots<K>>,
    wake: Notify,
}

struct Slots<K> {
    /// By turn, so that taking the first and dropping any is cheap.
    changes: BTreeMap<u64, Changed<K>>,
    turns: HashMap<ObjectKey, u64>,
    next_turn: u64,
    closed: bool,
}

pub(crate) fn channel<K>() -> (Weak<Pending<K>>, Changes<K>) {
    let slots = Slots { changes: BTreeMap::new(), turns: HashMap::new(), next_turn: 0, closed: false };
    let pending = Arc::new(Pending { slots: Mutex::new(slots), wake: Notify::new() });
    (Arc::downgrade(&pending), Changes { pending })
}

impl<K> Pending<K> {
    pub(crate) fn push(&self, key: &ObjectKey, old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
        let mut slots = self.slots.lock();
        if let Some(&turn) = slots.turns.get(key) {
            let known_before = slots.changes.get(&turn).is_some_and(|changed| changed.old.is_some());
            if new.is_none() && !known_before {
                slots.turns.remove(key);
                slots.changes.remove(&turn);
                return;
            }
            if let Some(changed) = slots.changes.get_mut(&turn) {
                changed.new = new.cloned();
            }
        } else {
            let turn = slots.next_turn;
            slots.next_turn += 1;
            slots.turns.insert(key.clone(), turn);
            slots.changes.insert(turn, Changed { key: key.clone(), old: old.cloned(), new: new.cloned() });
        }
        drop(slots);
        self.wake.notify_one();
    }

    pub(crate) fn close(&self) {
        self.slots.lock().closed = true;
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies `name:old>new` pushes and compares what a reader that comes late gets.
    fn check(pushes: &str, expected: &str) {
        let (writer, mut reader) = channel::<String>();
        let version = |text: &str| (text != "-").then(|| Arc::new(text.to_owned()));
        for push in pushes.split(' ') {
            let (name, states) = push.split_once(':').expect("name:old>new");
            let (old, new) = states.split_once('>').expect("old>new");
            let pending = writer.upgrade().expect("reader lives");
            pending.push(&ObjectKey::cluster(name), version(old).as_ref(), version(new).as_ref());
        }
        let mut got = Vec::new();
        while let Some(changed) = reader.try_next() {
            let show = |state: &Option<Arc<String>>| state.as_ref().map_or("-".to_owned(), |state| state.to_string());
            got.push(format!("{}:{}>{}", changed.key, show(&changed.old), show(&changed.new)));
        }
        assert_eq!(got.join(" "), expected, "{pushes}");
    }

    #[test]
    fn changes_of_one_object_merge_and_keep_their_turn() {
        check("a:->1 b:->1 a:1>2 a:2>3", "a:->3 b:->1");
        check("a:1>2 a:2>-", "a:1>-");
        check("a:1>- a:->2", "a:1>2");
    }

    #[test]
    fn what_came_and_went_unseen_is_not_reported() {
        check("a:->1 a:1>- b:->1", "b:->1");
    }

    #[tokio::test]
    async fn a_closed_channel_gives_what_is_left_and_then_ends() {
        let (writer, mut reader) = channel::<u8>();
        let pending = writer.upgrade().expect("reader lives");
        pending.push(&ObjectKey::cluster("a"), None, Some(&Arc::new(1)));
        pending.close();
        assert_eq!(reader.next().await.and_then(|changed| changed.new).as_deref(), Some(&1));
        assert!(reader.next().await.is_none());
    }
}

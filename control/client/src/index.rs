//! Finding objects by something else than their name.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::key::ObjectKey;
use crate::lister::{Informed, Lister};

/// The values under which an object is found.
pub(crate) type Values<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

/// A view of a [`Lister`] by a computed value, kept up to date with it; see [`Lister::index`].
pub struct Index<K> {
    pub(crate) lister: Lister<K>,
    pub(crate) slot: usize,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self { lister: self.lister.clone(), slot: self.slot }
    }
}

impl<K: Informed> Index<K> {
    /// Objects that have `value`, sorted by namespace and name.
    pub fn get(&self, value: &str) -> Vec<Arc<K>> {
        self.lister.indexed(self.slot, value)
    }

    /// How many objects have `value`.
    pub fn count(&self, value: &str) -> usize {
        self.lister.indexed_count(self.slot, value)
    }
}

pub(crate) struct IndexState<K> {
    values_of: Values<K>,
    entries: HashMap<String, BTreeSet<ObjectKey>>,
}

impl<K> IndexState<K> {
    pub(crate) fn new(values_of: Values<K>) -> Self {
        Self { values_of, entries: HashMap::new() }
    }

    pub(crate) fn replace(&mut self, key: &ObjectKey, old: Option<&K>, new: Option<&K>) {
        let before = old.map(|old| (self.values_of)(old)).unwrap_or_default();
        let after = new.map(|new| (self.values_of)(new)).unwrap_or_default();
        for value in before.iter().filter(|value| !after.contains(value)) {
            if let Some(keys) = self.entries.get_mut(value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.entries.remove(value);
                }
            }
        }
        for value in after.into_iter().filter(|value| !before.contains(value)) {
            self.entries.entry(value).or_default().insert(key.clone());
        }
    }

    pub(crate) fn keys(&self, value: &str) -> Option<&BTreeSet<ObjectKey>> {
        self.entries.get(value)
    }
}

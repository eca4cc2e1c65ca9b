//! Who owns what after a write, and what an apply makes of an object.
//!
//! Source: structured-merge-diff's `merge/update.go`. Field sets of other versions are taken as they are: where the server
//! has more than one version of a kind, they differ in name only. Invariant: an apply takes away only what its manager had
//! applied before and nobody else owns.

use super::compare::{Comparison, compare};
use super::conflict::Conflict;
use super::managers::{Held, Id, Managers};
use super::merge::{merge, without};
use super::reconcile::reconcile;
use super::schema::TypeRef;
use super::set::{Set, mentioned};
use crate::tree::Value;

/// What is not for a writer to own, because what it says there is dropped.
#[derive(Clone, Debug)]
pub enum Filter {
    /// These fields, and everything below them.
    Reset(Set),
    /// Everything but these fields and what is below them.
    Only(Set),
}

impl Filter {
    pub fn none() -> Self {
        Filter::Reset(Set::default())
    }

    pub(super) fn strain(&self, set: &mut Set) {
        match self {
            Filter::Reset(fields) => set.remove_with_children(fields),
            Filter::Only(fields) => *set = set.only(fields),
        }
    }
}

/// What stays the same over the writes of one place.
pub struct Updater<'s> {
    pub of: TypeRef<'s>,
    pub api_version: &'s str,
    pub filter: &'s Filter,
    /// True for versions that the kind is served in.
    pub knows: &'s dyn Fn(&str) -> bool,
}

/// Why an apply did not come about.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Broken(String),
    #[error("conflicts with other managers")]
    Conflicts(Vec<Conflict>),
}

impl From<String> for Error {
    fn from(why: String) -> Self {
        Error::Broken(why)
    }
}

impl Updater<'_> {
    /// Whether a write has changed anything that somebody may own.
    pub fn changes(&self, old: &Value<'_>, new: &Value<'_>) -> Result<Comparison, String> {
        let mut comparison = compare(old, new, self.of)?;
        comparison.each(|set| self.filter.strain(set));
        Ok(comparison)
    }

    /// Gives what a write has changed to its writer, who is returned with what is new to it.
    pub fn take(&self, managers: &mut Managers, changes: &Comparison) -> Set {
        self.disown(managers, changes);
        let mut own = changes.modified.clone();
        own.add(changes.added.clone());
        own
    }

    /// Takes what has changed from everybody, and forgets those who own nothing any more.
    fn disown(&self, managers: &mut Managers, changes: &Comparison) {
        managers.0.retain(|_, held| {
            if !(self.knows)(&held.api_version) {
                return false;
            }
            held.fields.remove(&changes.modified);
            held.fields.remove(&changes.added);
            held.fields.remove(&changes.removed);
            !held.fields.is_empty()
        });
    }

    /// Field sets that were written under another schema, as they are under this one.
    pub fn reconcile(&self, managers: &mut Managers, live: &Value<'_>) -> Result<(), String> {
        if self.of.may_have_changed() {
            for held in managers.0.values_mut() {
                if let Some(fields) = reconcile(&held.fields, live, self.of)? {
                    held.fields = fields;
                }
            }
        }
        Ok(())
    }

    /// Merges a configuration into the live object. The object is none where nothing of it changes.
    pub fn apply<'a>(
        &self,
        live: &Value<'a>,
        config: &Value<'a>,
        managers: &mut Managers,
        manager: &Id,
        force: bool,
    ) -> Result<Option<Value<'a>>, Error> {
        self.reconcile(managers, live)?;
        let merged = merge(live, config, self.of).map_err(|why| format!("failed to merge config: {why}"))?;
        let mut fields = mentioned(config, self.of).map_err(|why| format!("failed to get field set: {why}"))?;
        self.filter.strain(&mut fields);
        let held = Held { fields, api_version: self.api_version.to_owned(), time: None };
        let last = managers.0.insert(manager.clone(), held);
        if let Some(last) = &last
            && let Some(own) = managers.0.get_mut(manager)
        {
            own.time = last.time;
        }
        let merged = match last.filter(|last| !last.fields.is_empty() && (self.knows)(&last.api_version)) {
            Some(last) => self.prune(merged, managers, &last.fields)?,
            None => merged,
        };
        let changes = self.changes(live, &merged).map_err(|why| format!("failed to compare objects: {why}"))?;
        self.settle(managers, manager, &changes, force)?;
        Ok((merged != *live).then_some(merged))
    }

    /// Takes what an apply changes from the others, unless they are in its way.
    fn settle(&self, managers: &mut Managers, manager: &Id, changes: &Comparison, force: bool) -> Result<(), Error> {
        let own = managers.0.remove(manager);
        let wanted = changes.modified.clone().union(&changes.added);
        let mut conflicts = Vec::new();
        for (id, held) in managers.0.iter().filter(|(_, held)| (self.knows)(&held.api_version)) {
            let paths = held.fields.intersection(&wanted).paths();
            conflicts.extend(paths.into_iter().map(|path| Conflict { manager: id.clone(), path }));
        }
        if !force && !conflicts.is_empty() {
            return Err(Error::Conflicts(conflicts));
        }
        self.disown(managers, changes);
        if let Some(own) = own.filter(|own| !own.fields.is_empty()) {
            managers.0.insert(manager.clone(), own);
        }
        Ok(())
    }

    /// Takes out what the manager applied last time and not this time, unless somebody else owns it.
    fn prune<'a>(&self, merged: Value<'a>, managers: &Managers, last: &Set) -> Result<Value<'a>, String> {
        let named = |set: &Set| set.with_named_fields(self.of);
        let last = named(last);
        let pruned = without(&merged, &last, self.of);
        // What others own, and what is applied now, comes back.
        let merged_fields = named(&mentioned(&merged, self.of)?);
        let mut kept = named(&mentioned(&pruned, self.of)?);
        for held in managers.0.values().filter(|held| (self.knows)(&held.api_version)) {
            kept.add(named(&held.fields));
        }
        let pruned = without(&merged, &merged_fields.difference(&kept), self.of);
        // So does what only went because something around it did.
        let kept = named(&mentioned(&pruned, self.of)?);
        let gone = merged_fields.difference(&kept).intersection(&last);
        Ok(without(&merged, &gone, self.of))
    }
}

//! Who owns whom.
//!
//! Nodes are keyed by UID. An owner that is named but was not seen is a *virtual* node, to be verified. What a change makes
//! suspicious is put on the queue; the graph itself decides nothing.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use wharf_client::{ObjectKey, Queue};
use wharf_types::meta::{ObjectMeta, OwnerReference};

use super::judge::{FOREGROUND, ORPHAN};

/// An object, and where the server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: Arc<str>,
    pub api_version: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, ObjectKey { namespace: self.namespace.clone(), name: self.name.clone() })
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub identity: Identity,
    /// UIDs of its owners, and whether it blocks their deletion.
    owners: Vec<(Arc<str>, bool)>,
    /// Named as an owner, not yet seen.
    pub is_virtual: bool,
    /// It has a deletion timestamp.
    pub is_deleted: bool,
    /// It is being deleted in the foreground: dependents first.
    pub deletes_dependents: bool,
    /// It is being deleted and leaves its dependents alone.
    pub orphans_dependents: bool,
}

#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Arc<str>, Node>,
    dependents: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    queue: Option<Queue<ObjectKey>>,
}

impl Graph {
    /// Where suspicious objects go.
    pub fn attach(&mut self, queue: Queue<ObjectKey>) {
        self.queue = Some(queue);
    }

    fn suspect(&self, uid: &str) {
        if let Some(queue) = &self.queue {
            queue.add(ObjectKey::cluster(uid));
        }
    }

    pub fn get(&self, uid: &str) -> Option<Node> {
        self.nodes.get(uid).cloned()
    }

    pub fn is_virtual(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(|node| node.is_virtual)
    }

    pub fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.contains_key(uid)
    }

    pub fn dependents(&self, uid: &str) -> Vec<Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.get(uid)).collect()
    }

    /// Puts dependents on the queue that block the deletion of `uid`; returns how many do.
    pub fn wake_blocking_dependents(&self, uid: &str) -> usize {
        let blocks = |node: &Node| node.owners.iter().any(|(owner, blocks)| &**owner == uid && *blocks);
        let blocking: Vec<Node> = self.dependents(uid).into_iter().filter(blocks).collect();
        for dependent in blocking.iter().filter(|dependent| !dependent.deletes_dependents && !dependent.is_deleted) {
            self.suspect(&dependent.identity.uid);
        }
        blocking.len()
    }

    /// An object is new or has changed.
    pub fn put(&mut self, api_version: &Arc<str>, kind: &Arc<str>, meta: &ObjectMeta) {
        let Some(uid) = meta.uid.as_deref() else { return };
        let uid: Arc<str> = self.nodes.get_key_value(uid).map_or_else(|| uid.into(), |(uid, _)| uid.clone());
        let before = self.nodes.remove(&uid);
        let node = observed(uid.clone(), api_version, kind, meta);
        self.link(&node, before.as_ref(), meta.owner_references.as_deref().unwrap_or_default());
        self.weigh(&node, before.as_ref().filter(|before| !before.is_virtual));
        self.nodes.insert(uid, node);
    }

    /// Keeps the edges to owners, and makes virtual nodes of owners that were not seen.
    fn link(&mut self, node: &Node, before: Option<&Node>, references: &[OwnerReference]) {
        let uid = &node.identity.uid;
        for (owner, blocked) in before.map_or(&[][..], |before| &before.owners) {
            let still = node.owners.iter().find(|(other, _)| other == owner);
            if still.is_none()
                && let Some(dependents) = self.dependents.get_mut(owner)
            {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(owner);
                }
            }
            if *blocked && still.is_none_or(|(_, blocks)| !blocks) {
                self.suspect_waiting(owner);
            }
        }
        for reference in references {
            let owner: Arc<str> = reference.uid.as_str().into();
            self.dependents.entry(owner.clone()).or_default().insert(uid.clone());
            if !self.nodes.contains_key(&owner) && owner != *uid {
                self.nodes.insert(owner.clone(), unseen(owner.clone(), reference, &node.identity.namespace));
                self.suspect(&owner);
            }
        }
    }

    /// Puts on the queue what the change makes suspicious.
    fn weigh(&self, node: &Node, before: Option<&Node>) {
        let uid = &node.identity.uid;
        let became = |flag: fn(&Node) -> bool| flag(node) && !before.is_some_and(flag);
        if became(|node| node.orphans_dependents) {
            self.suspect(uid);
        }
        if became(|node| node.deletes_dependents) {
            self.dependents.get(uid).into_iter().flatten().for_each(|dependent| self.suspect(dependent));
            self.suspect(uid);
        }
        let owners_changed = before.is_some_and(|before| before.owners != node.owners);
        let owner_waits =
            node.owners.iter().any(|(owner, _)| self.nodes.get(owner).is_some_and(|owner| owner.deletes_dependents));
        if owners_changed || (before.is_none() && owner_waits) {
            self.suspect(uid);
        }
    }

    fn suspect_waiting(&self, owner: &str) {
        if self.nodes.get(owner).is_some_and(|owner| owner.deletes_dependents) {
            self.suspect(owner);
        }
    }

    /// An object is gone. Its dependents have lost an owner, its owners a dependent.
    pub fn remove(&mut self, uid: &str) {
        let Some(node) = self.nodes.remove(uid) else { return };
        for (owner, _) in &node.owners {
            if let Some(dependents) = self.dependents.get_mut(owner) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(owner);
                    // Nobody names it any more, and nobody has seen it.
                    if self.is_virtual(owner) {
                        self.nodes.remove(owner);
                    }
                }
            }
            self.suspect_waiting(owner);
        }
        self.dependents.get(uid).into_iter().flatten().for_each(|dependent| self.suspect(dependent));
    }
}

fn observed(uid: Arc<str>, api_version: &Arc<str>, kind: &Arc<str>, meta: &ObjectMeta) -> Node {
    let deleted = meta.deletion_timestamp.is_some();
    let has = |finalizer: &str| deleted && meta.finalizers.iter().flatten().any(|other| other == finalizer);
    Node {
        identity: Identity {
            uid,
            api_version: api_version.clone(),
            kind: kind.clone(),
            namespace: meta.namespace.as_deref().unwrap_or_default().into(),
            name: meta.name.as_deref().unwrap_or_default().into(),
        },
        owners: meta
            .owner_references
            .iter()
            .flatten()
            .map(|owner| (owner.uid.as_str().into(), owner.block_owner_deletion.unwrap_or(false)))
            .collect(),
        is_virtual: false,
        is_deleted: deleted,
        deletes_dependents: has(FOREGROUND),
        orphans_dependents: has(ORPHAN),
    }
}

fn unseen(uid: Arc<str>, reference: &OwnerReference, namespace: &Arc<str>) -> Node {
    Node {
        identity: Identity {
            uid,
            api_version: reference.api_version.as_str().into(),
            kind: reference.kind.as_str().into(),
            namespace: namespace.clone(),
            name: reference.name.as_str().into(),
        },
        owners: Vec::new(),
        is_virtual: true,
        is_deleted: false,
        deletes_dependents: false,
        orphans_dependents: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::meta::Time;

    /// `name<owner` or `name<owner!` (blocking), with `^` before the name for one that is deleted in the foreground and `~` for
    /// one that is deleted and orphans; `-name` removes it. UIDs are names.
    fn check(changes: &str, expected: &str) {
        let queue = Queue::new();
        let mut graph = Graph::default();
        graph.attach(queue.clone());
        let mut suspects = Vec::new();
        for change in changes.split(' ') {
            apply(&mut graph, change);
            suspects.clear();
            while queue.depth().ready > 0 {
                let next = futures::executor::block_on(queue.next()).expect("open");
                suspects.push(next.key().to_string());
            }
        }
        suspects.sort();
        assert_eq!(suspects.join(" "), expected, "{changes}");
    }

    fn apply(graph: &mut Graph, change: &str) {
        if let Some(name) = change.strip_prefix('-') {
            return graph.remove(name);
        }
        let finalizer = match change.as_bytes()[0] {
            b'^' => Some(FOREGROUND),
            b'~' => Some(ORPHAN),
            _ => None,
        };
        let change = change.trim_start_matches(['^', '~']);
        let (name, owner) = change.split_once('<').map_or((change, None), |(name, owner)| (name, Some(owner)));
        let reference = owner.map(|owner| OwnerReference {
            uid: owner.trim_end_matches('!').to_owned(),
            block_owner_deletion: Some(owner.ends_with('!')),
            ..OwnerReference::default()
        });
        let meta = ObjectMeta {
            uid: Some(name.to_owned()),
            name: Some(name.to_owned()),
            owner_references: Some(reference.into_iter().collect()),
            finalizers: finalizer.map(|finalizer| vec![finalizer.to_owned()]),
            deletion_timestamp: finalizer.map(|_| Time(jiff::Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        };
        graph.put(&"v1".into(), &"Thing".into(), &meta);
    }

    #[test]
    fn an_owner_that_was_not_seen_is_verified() {
        check("a<o", "o");
        check("o a<o", "");
        check("a<o o", "");
    }

    #[test]
    fn dependents_of_what_is_gone_are_looked_at() {
        check("o a<o b<o -o", "a b");
        check("o a<o b -o", "a");
        check("o p a<o a<p -o", "");
    }

    #[test]
    fn foreground_deletion_looks_at_dependents_and_waits_for_them() {
        check("o a<o! b<o ^o", "a b o");
        check("o a<o! ^o -a", "o");
        check("o a<o! ^o a<o", "a o");
        check("^o a<o!", "a");
    }

    #[test]
    fn orphaning_looks_at_the_owner_only() {
        check("o a<o ~o", "o");
        check("o a<o ~o ~o", "");
    }

    #[test]
    fn a_change_of_owners_is_looked_at() {
        check("o p a<o a<p", "a");
        check("o a<o a<o", "");
    }

    #[test]
    fn nothing_stays_of_objects_that_are_gone() {
        let mut graph = Graph::default();
        for change in ["o", "a<o", "b<x", "-a", "-b", "-o"] {
            apply(&mut graph, change);
        }
        assert!(graph.nodes.is_empty() && graph.dependents.is_empty());
    }
}

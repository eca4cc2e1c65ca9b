//! Reads: the file as one commit left it.

use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, IntoIter};
use std::iter::Peekable;
use std::ops::Bound;

use ::redb::{ReadTransaction, ReadableTable, TableDefinition};

use super::failed;
use super::format::{self, INDEX, LOG, META, Record};
use super::writer::{Mark, read_mark};
use crate::{Error, History, Key, Page, Result, Revision, Versioned};

/// The file at one moment.
pub struct View(pub ReadTransaction);

impl View {
    fn table<K: ::redb::Key + 'static, V: ::redb::Value + 'static>(
        &self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<::redb::ReadOnlyTable<K, V>> {
        self.0.open_table(table).map_err(failed("open a table"))
    }

    pub fn get(&self, key: &str) -> Result<Option<Versioned>> {
        let found = self.table(INDEX)?.get(key).map_err(failed("read the index"))?;
        found.map(|revision| format::versioned(&self.table(LOG)?, key, Revision(revision.value()))).transpose()
    }

    fn mark(&self) -> Result<Mark> {
        read_mark(&self.table(META)?)
    }

    pub fn range(&self, prefix: &str, at: Option<Revision>, after: Option<&str>, limit: usize) -> Result<Page> {
        let mark = self.mark()?;
        let revision = at.unwrap_or(mark.revision);
        mark.reaches(revision)?;
        let (index, log) = (self.table(INDEX)?, self.table(LOG)?);
        let mut then = Then::new(prefix, after, self.undo(&log, prefix, revision, mark)?);
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut page = Page { items: Vec::new(), revision, more: false };
        let mut now = index.range::<&str>((from, Bound::Unbounded)).map_err(failed("read the index"))?;
        loop {
            let next = now.next().transpose().map_err(failed("read the index"))?;
            let next = next.as_ref().map(|(key, revision)| (key.value(), Revision(revision.value())));
            let next = next.filter(|(key, _)| key.starts_with(prefix));
            // Keys that are gone now and come before this one, then this one as it was.
            let end = next.is_none();
            for (key, written) in then.up_to(next) {
                if page.items.len() == limit {
                    page.more = true;
                    return Ok(page);
                }
                page.items.push(format::versioned(&log, &key, written)?);
            }
            if end {
                return Ok(page);
            }
        }
    }

    /// For each key under the prefix that was written after `at`: the revision that it was at, if it existed.
    fn undo(
        &self,
        log: &impl ReadableTable<u64, &'static [u8]>,
        prefix: &str,
        at: Revision,
        mark: Mark,
    ) -> Result<BTreeMap<Key, Option<Revision>>> {
        let mut undone = BTreeMap::new();
        if at == mark.revision {
            return Ok(undone);
        }
        for entry in log.range(at.0 + 1..=mark.revision.0).map_err(failed("read the log"))? {
            let (_, bytes) = entry.map_err(failed("read the log"))?;
            let record = Record::read(bytes.value())?;
            if record.key.starts_with(prefix)
                && let Entry::Vacant(first) = undone.entry(Key::from(record.key))
            {
                first.insert(record.previous);
            }
        }
        Ok(undone)
    }

    pub fn history(&self, prefix: &str, after: Revision, limit: usize) -> Result<History> {
        let mark = self.mark()?;
        mark.reaches(after)?;
        let log = self.table(LOG)?;
        let mut history = History { events: Vec::new(), through: after };
        if after == mark.revision {
            return Ok(history);
        }
        for entry in log.range(after.0 + 1..=mark.revision.0).map_err(failed("read the log"))? {
            if history.events.len() == limit {
                return Ok(history);
            }
            let (revision, bytes) = entry.map_err(failed("read the log"))?;
            let revision = Revision(revision.value());
            let record = Record::read(bytes.value())?;
            if record.key.starts_with(prefix) {
                history.events.push(format::event(&log, revision, &record)?);
            }
            history.through = revision;
        }
        Ok(history)
    }
}

impl Mark {
    /// Whether history reaches back to a revision.
    fn reaches(&self, revision: Revision) -> Result<()> {
        if revision < self.compacted {
            Err(Error::Compacted { oldest: self.compacted })
        } else if revision > self.revision {
            Err(Error::Future { latest: self.revision })
        } else {
            Ok(())
        }
    }
}

/// Merges the keys of now with what is known to have been different.
struct Then {
    undone: Peekable<IntoIter<Key, Option<Revision>>>,
}

impl Then {
    fn new(prefix: &str, after: Option<&str>, mut undone: BTreeMap<Key, Option<Revision>>) -> Self {
        debug_assert!(undone.keys().all(|key| key.starts_with(prefix)));
        if let Some(after) = after {
            undone.retain(|key, _| &**key > after);
        }
        Self { undone: undone.into_iter().peekable() }
    }

    /// The keys that existed, up to and with the next one of now; all the rest if there is none.
    fn up_to(&mut self, next: Option<(&str, Revision)>) -> Vec<(Key, Revision)> {
        let mut found = Vec::new();
        while let Some((key, was)) = self.undone.next_if(|(key, _)| next.is_none_or(|(next, _)| **key < *next)) {
            found.extend(was.map(|was| (key, was)));
        }
        if let Some((next, written)) = next {
            match self.undone.next_if(|(key, _)| **key == *next) {
                Some((key, was)) => found.extend(was.map(|was| (key, was))),
                None => found.push((Key::from(next), written)),
            }
        }
        found
    }
}

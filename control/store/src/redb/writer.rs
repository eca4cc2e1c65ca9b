//! The one thread that writes: takes all commits that wait as a group, decides each against the state that the ones before
//! it leave, writes one transaction, syncs once, publishes, answers.
//!
//! While a group syncs the next one gathers, so nobody waits for anything but a disk that is busy anyway. A failed write
//! ends the thread: what the disk holds is then unknown, and only opening the file again tells.

use std::sync::Arc;

use ::redb::{Durability, ReadableTable, Table, WriteTransaction};
use tokio::sync::{mpsc, oneshot, watch};

use super::format::{self, COMPACTED_KEY, HISTORY_BYTES_KEY, INDEX, LOG, META, REVISION_KEY, Record};
use super::{Options, Shared, failed};
use crate::{Change, Error, Event, Key, Precondition, Result, Revision};

/// Most commits in one transaction.
const GROUP_MAX: usize = 1024;
/// Most bytes of values in one transaction, give or take one value.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many commits a transaction forgets when history is too long, at least.
const FORGET_STEP: usize = 512;

pub enum Request {
    Commit(Commit),
    Compact {
        revision: Revision,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Finish what is queued, then end.
    Close,
}

pub struct Commit {
    pub key: Key,
    pub precondition: Precondition,
    pub change: Change,
    pub reply: oneshot::Sender<Result<Revision>>,
}

pub struct Writer {
    pub shared: Arc<Shared>,
    pub latest: watch::Sender<Revision>,
    pub options: Options,
    pub mark: Mark,
}

/// The numbers in `meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub revision: Revision,
    pub compacted: Revision,
    /// Bytes of the records of commits after `compacted`.
    pub history_bytes: u64,
}

struct Tables<'a> {
    index: Table<'a, &'static str, u64>,
    log: Table<'a, u64, &'static [u8]>,
}

/// What a group came to, before it is known to be on disk.
#[derive(Default)]
struct Outcome {
    answers: Vec<(oneshot::Sender<Result<Revision>>, Result<Revision>)>,
    events: Vec<Event>,
}

impl Writer {
    pub fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut batch = Vec::with_capacity(GROUP_MAX);
        while requests.blocking_recv_many(&mut batch, GROUP_MAX) > 0 {
            let mut waiting = batch.drain(..).peekable();
            while let Some(request) = waiting.next() {
                let done = match request {
                    Request::Commit(first) => {
                        let mut bytes = size(&first.change);
                        let more = std::iter::from_fn(|| {
                            if bytes > GROUP_BYTES_MAX {
                                return None;
                            }
                            let next = waiting.next_if(|next| matches!(next, Request::Commit(_)))?;
                            let Request::Commit(commit) = next else { return None };
                            bytes += size(&commit.change);
                            Some(commit)
                        });
                        self.commit(std::iter::once(first).chain(more))
                    }
                    Request::Compact { revision, reply } => self.compact(revision, reply),
                    Request::Close => {
                        requests.close();
                        Ok(())
                    }
                };
                if let Err(error) = done {
                    tracing::error!(error = &error as &dyn std::error::Error, "the store cannot write and closes");
                    return;
                }
            }
        }
    }

    /// One transaction. An error is one of the disk; it has been told to whoever asked.
    fn commit(&mut self, group: impl Iterator<Item = Commit>) -> Result<()> {
        let mut outcome = Outcome::default();
        let mut mark = self.mark;
        match self.transact(group, &mut mark, &mut outcome) {
            Ok(()) => {
                self.mark = mark;
                self.publish(outcome.events);
                for (reply, answer) in outcome.answers {
                    // One who stopped waiting is no error.
                    let _ = reply.send(answer);
                }
                Ok(())
            }
            Err(error) => {
                for (reply, _) in outcome.answers {
                    let _ = reply.send(Err(unknown(&error)));
                }
                Err(error)
            }
        }
    }

    fn transact(&self, group: impl Iterator<Item = Commit>, mark: &mut Mark, outcome: &mut Outcome) -> Result<()> {
        self.transaction(
            |transaction, mark| {
                let mut tables = open(transaction)?;
                for commit in group {
                    let Commit { key, precondition, change, reply } = commit;
                    let answer = apply(&mut tables, mark, key, precondition, change);
                    match answer {
                        Ok(Ok(event)) => {
                            outcome.answers.push((reply, Ok(event.revision)));
                            outcome.events.push(event);
                        }
                        Ok(Err(refused)) => outcome.answers.push((reply, Err(refused))),
                        Err(error) => {
                            let _ = reply.send(Err(unknown(&error)));
                            return Err(error);
                        }
                    }
                }
                if outcome.events.is_empty() {
                    return Ok(false);
                }
                self.trim(&mut tables, mark, outcome.events.len())?;
                Ok(true)
            },
            mark,
        )
    }

    /// Runs `work` in a durable transaction, and gives it up if `work` says that nothing changed.
    fn transaction(
        &self,
        work: impl FnOnce(&WriteTransaction, &mut Mark) -> Result<bool>,
        mark: &mut Mark,
    ) -> Result<()> {
        let database = self.shared.database.read();
        let database = database.as_ref().ok_or(Error::Closed)?;
        let mut transaction = database.begin_write().map_err(failed("begin a transaction"))?;
        transaction.set_durability(Durability::Immediate).map_err(failed("begin a transaction"))?;
        if work(&transaction, mark)? {
            write_mark(&transaction, mark)?;
            transaction.commit().map_err(failed("commit a transaction"))
        } else {
            transaction.abort().map_err(failed("abort a transaction"))
        }
    }

    fn publish(&self, events: Vec<Event>) {
        let mut tail = self.shared.tail.write();
        events.into_iter().for_each(|event| tail.push(event));
        tail.forget(self.mark.compacted);
        drop(tail);
        self.latest.send_replace(self.mark.revision);
    }

    /// Once history is an eighth too long, every transaction forgets more than it adds until it is not.
    fn trim(&self, tables: &mut Tables<'_>, mark: &mut Mark, added: usize) -> Result<()> {
        let length = |mark: &Mark| mark.revision.0 - mark.compacted.0;
        let (events_max, bytes_max) = (self.options.history_events, self.options.history_bytes);
        if length(mark) <= events_max + events_max / 8 && mark.history_bytes <= bytes_max + bytes_max / 8 {
            return Ok(());
        }
        for _ in 0..FORGET_STEP.max(2 * added) {
            if length(mark) <= events_max && mark.history_bytes <= bytes_max {
                break;
            }
            forget_next(tables, mark)?;
        }
        Ok(())
    }

    fn compact(&mut self, revision: Revision, reply: oneshot::Sender<Result<()>>) -> Result<()> {
        let mut result = Ok(());
        if revision > self.mark.revision {
            result = Err(Error::Future { latest: self.mark.revision });
        }
        while result.is_ok() && self.mark.compacted < revision {
            let mut mark = self.mark;
            result = self.transaction(
                |transaction, mark| {
                    let mut tables = open(transaction)?;
                    for _ in 0..GROUP_MAX {
                        if mark.compacted == revision {
                            break;
                        }
                        forget_next(&mut tables, mark)?;
                    }
                    Ok(true)
                },
                &mut mark,
            );
            if result.is_ok() {
                self.mark = mark;
                self.publish(Vec::new());
            }
        }
        let failed = match &result {
            Err(error @ Error::Backend { .. }) => Err(unknown(error)),
            _ => Ok(()),
        };
        let _ = reply.send(result);
        failed
    }
}

fn open(transaction: &WriteTransaction) -> Result<Tables<'_>> {
    let index = transaction.open_table(INDEX).map_err(failed("open the index"))?;
    let log = transaction.open_table(LOG).map_err(failed("open the log"))?;
    Ok(Tables { index, log })
}

/// Decides one commit and writes it. The outer error is one of the disk.
fn apply(
    tables: &mut Tables<'_>,
    mark: &mut Mark,
    key: Key,
    precondition: Precondition,
    change: Change,
) -> Result<Result<Event>> {
    let held = tables.index.get(&*key).map_err(failed("read the index"))?.map(|revision| Revision(revision.value()));
    if !precondition.holds(held, &change) {
        let current = match held {
            Some(revision) => Some(format::versioned(&tables.log, &key, revision)?),
            None => None,
        };
        return Ok(Err(Error::Precondition { current, revision: mark.revision }));
    }
    let previous = match held {
        Some(revision) => Some((revision, format::value_at(&tables.log, revision)?)),
        None => None,
    };
    let value = match change {
        Change::Put(value) => Some(value),
        Change::Delete => None,
    };
    let revision = Revision(mark.revision.0 + 1);
    let record = Record { previous: held, key: &key, value: value.as_deref() };
    let mut slot = tables.log.insert_reserve(revision.0, record.len()).map_err(failed("write the log"))?;
    record.write(slot.as_mut());
    drop(slot);
    if value.is_some() {
        tables.index.insert(&*key, revision.0).map_err(failed("write the index"))?;
    } else {
        tables.index.remove(&*key).map_err(failed("write the index"))?;
    }
    mark.revision = revision;
    mark.history_bytes += record.len() as u64;
    Ok(Ok(Event { revision, key, value, previous }))
}

/// Forgets the oldest commit of the history: what it replaced goes, and so does it, if it is a deletion.
fn forget_next(tables: &mut Tables<'_>, mark: &mut Mark) -> Result<()> {
    let revision = Revision(mark.compacted.0 + 1);
    let (previous, deletion, size) = {
        let bytes = tables.log.get(revision.0).map_err(failed("read the log"))?;
        let bytes = bytes.ok_or_else(|| format::corrupt("compact", &format!("revision {revision} is missing")))?;
        let record = Record::read(bytes.value())?;
        (record.previous, record.value.is_none(), record.len())
    };
    for gone in previous.into_iter().chain(deletion.then_some(revision)) {
        tables.log.remove(gone.0).map_err(failed("compact the log"))?;
    }
    mark.compacted = revision;
    mark.history_bytes = mark.history_bytes.saturating_sub(size as u64);
    Ok(())
}

pub fn write_mark(transaction: &WriteTransaction, mark: &Mark) -> Result<()> {
    let mut meta = transaction.open_table(META).map_err(failed("open meta"))?;
    for (key, value) in
        [(REVISION_KEY, mark.revision.0), (COMPACTED_KEY, mark.compacted.0), (HISTORY_BYTES_KEY, mark.history_bytes)]
    {
        meta.insert(key, value).map_err(failed("write meta"))?;
    }
    Ok(())
}

pub fn read_mark(meta: &impl ReadableTable<&'static str, u64>) -> Result<Mark> {
    let read = |key| Ok(meta.get(key).map_err(failed("read meta"))?.map_or(0, |value| value.value()));
    Ok(Mark {
        revision: Revision(read(REVISION_KEY)?),
        compacted: Revision(read(COMPACTED_KEY)?),
        history_bytes: read(HISTORY_BYTES_KEY)?,
    })
}

fn size(change: &Change) -> usize {
    match change {
        Change::Put(value) => value.len(),
        Change::Delete => 0,
    }
}

/// A failure of the disk, as each of those who share the transaction is told of it.
fn unknown(error: &Error) -> Error {
    let cause = match error {
        Error::Backend { operation, source } => format!("{operation}: {source}"),
        other => other.to_string(),
    };
    Error::Backend { operation: "commit", source: cause.into() }
}

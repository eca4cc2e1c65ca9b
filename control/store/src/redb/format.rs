//! What is in the file. A change here needs a new [`FORMAT`] and a way from the old one.
//!
//! ```text
//! meta   name -> number      "format", "revision" (newest ever given out), "compacted", "history_bytes"
//! index  key -> revision     the revision that last wrote each key that exists
//! log    revision -> record  every commit after "compacted"; and, from before it, each value that a key still
//!                            holds or that a commit after it replaced
//! ```
//! So a value is written once, a commit's previous value can always be found, and forgetting a commit means removing the
//! record that it replaced (and its own, if it is a deletion).
//!
//! A record: previous revision (u64 LE, 0 = none), flags (u8, 1 = deletion), key length (u16 LE), key, value.

use ::redb::{ReadableTable, TableDefinition};
use bytes::Bytes;

use super::failed;
use crate::{Error, Event, Key, Result, Revision, Versioned};

pub const FORMAT: u64 = 1;

pub const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
pub const INDEX: TableDefinition<&str, u64> = TableDefinition::new("index");
pub const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

pub const FORMAT_KEY: &str = "format";
pub const REVISION_KEY: &str = "revision";
pub const COMPACTED_KEY: &str = "compacted";
pub const HISTORY_BYTES_KEY: &str = "history_bytes";

const DELETION: u8 = 1;
const HEADER: usize = 8 + 1 + 2;

/// One commit, as the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The revision that wrote what this replaced.
    pub previous: Option<Revision>,
    pub key: &'a str,
    /// None for a deletion.
    pub value: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    pub fn len(&self) -> usize {
        HEADER + self.key.len() + self.value.map_or(0, <[u8]>::len)
    }

    /// Writes the record into exactly [`len`](Self::len) bytes.
    pub fn write(&self, out: &mut [u8]) {
        let (header, rest) = out.split_at_mut(HEADER);
        header[..8].copy_from_slice(&self.previous.map_or(0, |previous| previous.0).to_le_bytes());
        header[8] = if self.value.is_none() { DELETION } else { 0 };
        let key_len = u16::try_from(self.key.len()).expect("keys are checked against KEY_BYTES_MAX");
        header[9..].copy_from_slice(&key_len.to_le_bytes());
        let (key, value) = rest.split_at_mut(self.key.len());
        key.copy_from_slice(self.key.as_bytes());
        value.copy_from_slice(self.value.unwrap_or_default());
    }

    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        Self::parse(bytes).ok_or_else(|| corrupt("read a record", "it is cut short or garbled"))
    }

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let previous = u64::from_le_bytes(header[..8].try_into().ok()?);
        let key_len = u16::from_le_bytes(header[9..].try_into().ok()?);
        let (key, value) = rest.split_at_checked(usize::from(key_len))?;
        Some(Self {
            previous: (previous > 0).then_some(Revision(previous)),
            key: std::str::from_utf8(key).ok()?,
            value: (header[8] & DELETION == 0).then_some(value),
        })
    }
}

pub fn corrupt(operation: &'static str, what: &str) -> Error {
    Error::Backend { operation, source: what.into() }
}

/// The value that a revision wrote.
pub fn value_at(log: &impl ReadableTable<u64, &'static [u8]>, revision: Revision) -> Result<Bytes> {
    let bytes = log.get(revision.0).map_err(failed("read the log"))?;
    let bytes = bytes.ok_or_else(|| corrupt("read the log", &format!("revision {revision} is missing")))?;
    let value = Record::read(bytes.value())?.value;
    Ok(Bytes::copy_from_slice(
        value.ok_or_else(|| corrupt("read the log", &format!("revision {revision} is a deletion")))?,
    ))
}

pub fn versioned(log: &impl ReadableTable<u64, &'static [u8]>, key: &str, revision: Revision) -> Result<Versioned> {
    Ok(Versioned { key: Key::from(key), value: value_at(log, revision)?, revision })
}

/// The event that a record tells of.
pub fn event(log: &impl ReadableTable<u64, &'static [u8]>, revision: Revision, record: &Record<'_>) -> Result<Event> {
    let previous = match record.previous {
        Some(previous) => Some((previous, value_at(log, previous)?)),
        None => None,
    };
    Ok(Event { revision, key: Key::from(record.key), value: record.value.map(Bytes::copy_from_slice), previous })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_as_written() {
        for (previous, value) in
            [(None, Some(&b"value"[..])), (Some(Revision(7)), Some(b"")), (Some(Revision(7)), None)]
        {
            let record = Record { previous, key: "/registry/pods/a", value };
            let mut bytes = vec![0; record.len()];
            record.write(&mut bytes);
            assert_eq!(Record::read(&bytes).unwrap(), record);
        }
    }

    #[test]
    fn a_garbled_record_is_an_error() {
        let record = Record { previous: None, key: "key", value: None };
        let mut bytes = vec![0; record.len()];
        record.write(&mut bytes);
        assert!(Record::read(&bytes[..HEADER + 1]).is_err());
        bytes[HEADER] = 0xff;
        assert!(Record::read(&bytes).is_err());
        assert!(Record::read(b"").is_err());
    }
}

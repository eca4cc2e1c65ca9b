//! Address ranges of a cluster of its own, so that clusters of tests that run side by side do not meet.

use std::fs::File;

use anyhow::{Context, Result, bail};

/// Rootless ranges are /12s; each slot has a /16 of both.
const SLOTS: u8 = 15;

/// A part of the rootless ranges, held by a lock on a file until it is dropped.
pub struct Slot {
    number: u8,
    _lock: File,
}

impl Slot {
    pub fn take() -> Result<Self> {
        let dir = std::env::temp_dir().join("wharf-test-slots");
        std::fs::create_dir_all(&dir).context("create the folder of slots")?;
        for number in 1..=SLOTS {
            let path = dir.join(number.to_string());
            let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
            if lock.try_lock().is_ok() {
                return Ok(Self { number, _lock: lock });
            }
        }
        bail!("all {SLOTS} slots are taken: too many clusters at once")
    }

    pub fn service_cidr(&self) -> String {
        format!("127.{}.0.0/16", 96 + self.number)
    }

    /// Of the node of this number; the first is 0, the last 3. Room for the ten thousand pods that a node is to hold.
    pub fn pod_cidr(&self, node: u8) -> String {
        format!("127.{}.{}.0/18", 64 + self.number, node * 64)
    }
}

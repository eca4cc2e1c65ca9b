//! A process's memory and CPU time, from /proc.

use std::time::Duration;

use anyhow::{Context, Result};

/// Resident memory, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read the process's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("parse VmRSS")?;
    Ok(kib * 1024)
}

/// CPU time that all threads of the process have used, user and system.
pub fn cpu(pid: u32) -> Result<Duration> {
    // Ticks of 10 ms: fine over a run of seconds, and ended threads count too.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("read the process's stat")?;
    let rest = stat.rsplit_once(')').context("stat has no name")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).context("stat is short");
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
}

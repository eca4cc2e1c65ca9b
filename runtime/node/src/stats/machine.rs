//! What the whole machine uses, as the kubelet's root container has it.
//!
//! Source: `/proc/stat` and `/proc/meminfo` (proc(5)); the working set is what is used without file pages that nobody has touched
//! lately, as cAdvisor has it.

use std::path::PathBuf;

use jiff::Timestamp;

/// Length of a tick of `/proc/stat`: USER_HZ is 100 on every Linux.
const TICK_NANOS: u64 = 10_000_000;

/// Where the kernel tells of the machine.
#[derive(Clone, Debug)]
pub struct Machine {
    proc: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub at: Timestamp,
    pub cpu_nanos: u64,
    pub memory_usage_bytes: u64,
    pub memory_working_set_bytes: u64,
    pub memory_available_bytes: u64,
    pub memory_rss_bytes: u64,
}

impl Machine {
    /// `proc` is `/proc`.
    pub fn new(proc: PathBuf) -> Self {
        Self { proc }
    }

    /// Zeros where the kernel tells nothing.
    pub fn usage(&self, at: Timestamp) -> Usage {
        let read = |name: &str| std::fs::read_to_string(self.proc.join(name)).unwrap_or_default();
        usage(at, &read("stat"), &read("meminfo"))
    }
}

fn usage(at: Timestamp, stat: &str, meminfo: &str) -> Usage {
    let ticks = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let ticks: Vec<u64> = ticks.into_iter().flat_map(str::split_whitespace).filter_map(|it| it.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests' time is in user's already.
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|place| ticks.get(*place)).sum();
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    let used = bytes("MemTotal").saturating_sub(bytes("MemFree"));
    let working_set = used.saturating_sub(bytes("Inactive(file)"));
    Usage {
        at,
        cpu_nanos: busy * TICK_NANOS,
        memory_usage_bytes: used,
        memory_working_set_bytes: working_set,
        memory_available_bytes: bytes("MemTotal").saturating_sub(working_set),
        memory_rss_bytes: bytes("AnonPages"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_and_the_working_set_are_read() {
        let stat = "cpu  100 20 30 9000 500 4 5 6 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let meminfo =
            "MemTotal:       1000 kB\nMemFree:         300 kB\nInactive(file):  200 kB\nAnonPages:        50 kB\n";
        let usage = usage(Timestamp::UNIX_EPOCH, stat, meminfo);
        assert_eq!(usage.cpu_nanos, 165 * TICK_NANOS);
        assert_eq!((usage.memory_usage_bytes, usage.memory_working_set_bytes), (700 * 1024, 500 * 1024));
        assert_eq!((usage.memory_available_bytes, usage.memory_rss_bytes), (500 * 1024, 50 * 1024));
    }

    #[test]
    fn a_machine_that_tells_nothing_uses_nothing() {
        assert_eq!(usage(Timestamp::UNIX_EPOCH, "", "").cpu_nanos, 0);
    }
}

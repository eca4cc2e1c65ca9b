//! A container's termination message.
//!
//! Source: `kuberuntime_container.getTerminationMessage`: the file, or with `FallbackToLogsOnError` the end of the log.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;

use crate::logs;

/// As upstream's `MaxContainerTerminationMessageLength` and `…LogLength`, `…LogLines`.
const MAX_MESSAGE_BYTES: u64 = 4096;
const MAX_LOG_BYTES: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// None where the container left nothing.
pub fn read(container: &Container, exit_code: i32, file: &Path, log: &Path) -> Option<String> {
    let said = head(file, MAX_MESSAGE_BYTES).filter(|text| !text.is_empty());
    let fall_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError") && exit_code != 0;
    said.or_else(|| fall_back.then(|| tail(log)).flatten()).filter(|text| !text.is_empty())
}

fn head(file: &Path, limit: u64) -> Option<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(file).ok()?.take(limit).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(log: &Path) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
    // Room for the stamps that precede each line.
    let start = file.metadata().ok()?.len().saturating_sub(4 * MAX_LOG_BYTES);
    file.seek(SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').skip(usize::from(start > 0)).collect();
    let kept = &lines[lines.len().saturating_sub(MAX_LOG_LINES)..];
    let mut text: Vec<u8> =
        kept.iter().filter_map(|line| logs::Line::parse(line)).flat_map(|line| line.text()).collect();
    let surplus = text.len().saturating_sub(MAX_LOG_BYTES as usize);
    text.drain(..surplus);
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &str, exit_code: i32, said: &str, expected: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        let (file, log) = (dir.path().join("words"), dir.path().join("0.log"));
        std::fs::write(&file, said).unwrap();
        std::fs::write(&log, "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr F two\n").unwrap();
        let container = Container { termination_message_policy: Some(policy.to_owned()), ..Container::default() };
        assert_eq!(read(&container, exit_code, &file, &log).as_deref(), expected);
    }

    #[test]
    fn the_file_wins_and_logs_stand_in_on_error() {
        check("File", 1, "bye", Some("bye"));
        check("File", 1, "", None);
        check("FallbackToLogsOnError", 1, "", Some("one\ntwo\n"));
        check("FallbackToLogsOnError", 0, "", None);
        check("FallbackToLogsOnError", 1, "bye", Some("bye"));
    }
}

//! The log back end: one JSON object a line, in files that are put aside when they are full.
//!
//! Source of the limits and names: upstream's `--audit-log-*` over `lumberjack`. A write is done before its request goes on, so
//! what is answered is recorded.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

/// Upstream's `--audit-log-max*`; zero is no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub age_days: u32,
    pub backups: u32,
    pub size_mib: u32,
}

/// Standard output, or a file.
pub struct Log {
    limits: Limits,
    path: Option<PathBuf>,
    open: Mutex<Open>,
}

struct Open {
    out: Box<dyn Write + Send>,
    bytes: u64,
}

impl Log {
    /// `-` is standard output.
    pub fn open(path: &Path, limits: Limits) -> io::Result<Self> {
        if path == Path::new("-") {
            let open = Open { out: Box::new(io::stdout()), bytes: 0 };
            return Ok(Self { limits, path: None, open: Mutex::new(open) });
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        let (file, bytes) = append(path)?;
        let open = Open { out: Box::new(file), bytes };
        Ok(Self { limits, path: Some(path.to_owned()), open: Mutex::new(open) })
    }

    /// Writes one event. A failure is logged: the request it is about has had its effect.
    pub fn write(&self, event: &str, now: Timestamp) {
        if let Err(error) = self.try_write(event, now) {
            tracing::error!(%error, "write an audit event");
        }
    }

    fn try_write(&self, event: &str, now: Timestamp) -> io::Result<()> {
        let mut open = self.open.lock();
        let length = event.len() as u64 + 1;
        let most = u64::from(self.limits.size_mib) << 20;
        if let Some(path) = self.path.as_deref().filter(|_| most > 0 && open.bytes > 0 && open.bytes + length > most) {
            std::fs::rename(path, backup(path, now))?;
            let (file, bytes) = append(path)?;
            *open = Open { out: Box::new(file), bytes };
            self.forget(path, now)?;
        }
        let mut line = Vec::with_capacity(event.len() + 1);
        line.extend_from_slice(event.as_bytes());
        line.push(b'\n');
        open.out.write_all(&line)?;
        open.bytes += length;
        Ok(())
    }

    /// Removes backups that are too many or too old.
    fn forget(&self, path: &Path, now: Timestamp) -> io::Result<()> {
        let (stem, extension) = names(path);
        let mut backups: Vec<(String, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new(".")))?
        {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let time = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
            if let Some(time) = time.filter(|time| time.len() == TIME_LENGTH) {
                backups.push((time.to_owned(), entry.path()));
            }
        }
        backups.sort();
        backups.reverse();
        let oldest = now.checked_sub(SignedDuration::from_hours(24 * i64::from(self.limits.age_days))).ok();
        let oldest = oldest.filter(|_| self.limits.age_days > 0).map(stamp);
        let kept = if self.limits.backups == 0 { usize::MAX } else { self.limits.backups as usize };
        for (index, (time, path)) in backups.iter().enumerate() {
            if index >= kept || oldest.as_ref().is_some_and(|oldest| time < oldest) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

/// `2026-01-31T23-59-59.123`
fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H-%M-%S.%3f").to_string()
}

const TIME_LENGTH: usize = "2026-01-31T23-59-59.123".len();

fn names(path: &Path) -> (String, String) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let extension = path.extension().map(|it| format!(".{}", it.to_string_lossy())).unwrap_or_default();
    (stem, extension)
}

fn backup(path: &Path, now: Timestamp) -> PathBuf {
    let (stem, extension) = names(path);
    path.with_file_name(format!("{stem}-{}{extension}", stamp(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files that are there after an event of a third of the limit each hour.
    fn check(events: u32, limits: Limits, expected: &[&str]) {
        let folder = tempfile::tempdir().expect("a folder");
        let log = Log::open(&folder.path().join("audit.log"), limits).expect("a log");
        let begin: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let event = "x".repeat(340 << 10);
        for hour in 0..events {
            log.write(&event, begin + SignedDuration::from_hours(hour.into()));
        }
        let entries = std::fs::read_dir(folder.path()).expect("files");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        assert_eq!(names, expected);
    }

    #[test]
    fn full_files_are_put_aside_and_forgotten() {
        check(7, Limits::default(), &["audit.log"]);
        let one = Limits { size_mib: 1, ..Limits::default() };
        let all = ["audit-2026-01-01T03-00-00.000.log", "audit-2026-01-01T06-00-00.000.log", "audit.log"];
        check(7, one, &all);
        check(7, Limits { backups: 1, ..one }, &all[1..]);
        check(
            31,
            Limits { age_days: 1, backups: 3, ..one },
            &[
                "audit-2026-01-02T00-00-00.000.log",
                "audit-2026-01-02T03-00-00.000.log",
                "audit-2026-01-02T06-00-00.000.log",
                "audit.log",
            ],
        );
    }
}

//! Keeps logs small: a file over [`MAX_FILE_BYTES`] is renamed, and the oldest goes when there are [`MAX_FILES`].

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// As the kubelet's `containerLogMaxSize` and `containerLogMaxFiles`.
pub const MAX_FILE_BYTES: u64 = 10 << 20;
pub const MAX_FILES: usize = 5;

/// The rotated files of a log, oldest first.
pub fn rotated(current: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (current.parent(), current.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

/// True if the file is due.
pub fn due(current: &Path) -> bool {
    std::fs::metadata(current).is_ok_and(|meta| meta.len() > MAX_FILE_BYTES)
}

/// Renames the file; the runtime must then be told to reopen it.
pub fn rotate(current: &Path, now: Timestamp) -> io::Result<()> {
    let files = rotated(current);
    // The current one counts too.
    for oldest in files.iter().take((files.len() + 2).saturating_sub(MAX_FILES)) {
        std::fs::remove_file(oldest)?;
    }
    let mut target = current.as_os_str().to_owned();
    target.push(now.strftime(".%Y%m%d-%H%M%S").to_string());
    if Path::new(&target).exists() {
        target.push(format!(".{:09}", now.subsec_nanosecond()));
    }
    std::fs::rename(current, target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let current = dir.path().join("0.log");
        for second in 0..8 {
            std::fs::write(&current, second.to_string()).unwrap();
            rotate(&current, Timestamp::from_second(second).unwrap()).unwrap();
        }
        let kept: Vec<String> = rotated(&current).iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        assert_eq!(kept, ["4", "5", "6", "7"]);
        assert!(!due(&current));
    }
}

//! Container logs: CRI-format files, read with `kubectl logs`' options.
//!
//! A line is `2026-01-01T00:00:00.000000001Z stdout F text`; `P` marks a part of a longer line. Rotated files of a run
//! (`0.log.20260101-000000`) are read before the current one. Following is by notification, see [`tail`].
//! Invariants: a reader holds one line and one block in memory; it ends when the client goes. Absent on purpose: writing
//! (the runtime's) and compression.

pub mod rotate;
pub mod tail;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

/// Longest line that is kept whole; the runtime splits longer ones.
const MAX_LINE_BYTES: u64 = 1 << 20;
/// Bytes gathered before they are sent.
const CHUNK_BYTES: usize = 32 * 1024;
/// Block size of the search for the last lines.
const BLOCK_BYTES: u64 = 64 * 1024;

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub stamp: &'a str,
    pub stream: &'a str,
    /// The line goes on in the next one.
    pub partial: bool,
    pub content: &'a [u8],
}

impl<'a> Line<'a> {
    /// None for what is not in CRI's format.
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        let mut parts = raw.splitn(4, |byte| *byte == b' ');
        let stamp = std::str::from_utf8(parts.next()?).ok()?;
        let stream = std::str::from_utf8(parts.next()?).ok()?;
        let tag = parts.next()?;
        let content = parts.next().unwrap_or_default();
        matches!(stream, "stdout" | "stderr").then_some(Self {
            stamp,
            stream,
            partial: tag.split(|byte| *byte == b':').next() == Some(b"P"),
            content,
        })
    }

    /// What the container wrote.
    pub fn text(&self) -> impl Iterator<Item = u8> + use<'a> {
        self.content.iter().copied().chain((!self.partial).then_some(b'\n'))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub follow: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub timestamps: bool,
    pub limit_bytes: Option<u64>,
    /// `stdout` or `stderr` alone.
    pub stream: Option<String>,
}

/// Where a run's log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The container's directory.
    pub dir: PathBuf,
    pub attempt: u32,
}

impl Run {
    fn current(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.attempt))
    }

    /// Rotated files from the oldest, then the current one.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = rotate::rotated(&self.current());
        files.push(self.current());
        files
    }
}

/// Removes a run's files.
pub fn remove_run(dir: &Path, attempt: u32) {
    for file in (Run { dir: dir.to_path_buf(), attempt }).files() {
        let _ = std::fs::remove_file(file);
    }
}

/// Sends a run's log to `sink`, in a thread that may block. Ends at the end of the log or, when following, when `running`
/// says that the container has ended and all is read; `changes` tells of new lines.
pub async fn read(run: Run, options: Options, follow: Option<Follow>, sink: mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut cursor = {
        let (run, tail) = (run.clone(), options.tail_lines);
        blocking(move || Cursor::open(&run, tail)).await?
    };
    let mut filter = Filter::new(options);
    let mut follow = follow;
    loop {
        // Taken before the read: an end that comes during it brings one more read.
        let running = follow.as_mut().is_some_and(|follow| *follow.running.borrow_and_update());
        let (next, kept, full) = drain(cursor, filter, &sink).await?;
        (cursor, filter) = (next, kept);
        let Some(follow) = follow.as_mut().filter(|_| running && !full) else { return Ok(()) };
        tokio::select! {
            changed = follow.changes.changed() => if changed.is_err() { return Ok(()) },
            changed = follow.running.changed() => if changed.is_err() { return Ok(()) },
            () = sink.closed() => return Ok(()),
        }
    }
}

/// What a follower waits for.
pub struct Follow {
    pub changes: tail::Subscription,
    pub running: watch::Receiver<bool>,
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Reads to the end of what is there. The flag says that no more is wanted.
async fn drain(
    mut cursor: Cursor,
    mut filter: Filter,
    sink: &mpsc::Sender<Bytes>,
) -> io::Result<(Cursor, Filter, bool)> {
    loop {
        let (next, kept, chunk, at_end) = blocking(move || {
            let mut chunk = Vec::new();
            let mut at_end = false;
            while chunk.len() < CHUNK_BYTES && !filter.full() {
                match cursor.next_line()? {
                    Some(line) => filter.push(&line, &mut chunk),
                    None => {
                        at_end = true;
                        break;
                    }
                }
            }
            Ok((cursor, filter, chunk, at_end))
        })
        .await?;
        (cursor, filter) = (next, kept);
        let gone = !chunk.is_empty() && sink.send(chunk.into()).await.is_err();
        if gone || at_end || filter.full() {
            let full = gone || filter.full();
            return Ok((cursor, filter, full));
        }
    }
}

/// Chooses and formats lines.
struct Filter {
    options: Options,
    left: Option<u64>,
    /// The last line was a part, so the next belongs to it and gets no stamp of its own.
    inside: bool,
}

impl Filter {
    fn new(options: Options) -> Self {
        Self { left: options.limit_bytes, inside: false, options }
    }

    fn full(&self) -> bool {
        self.left == Some(0)
    }

    fn push(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = Line::parse(raw) else { return };
        let too_old =
            || line.stamp.parse::<Timestamp>().is_ok_and(|stamp| self.options.since.is_some_and(|since| stamp < since));
        let other_stream = self.options.stream.as_deref().is_some_and(|stream| stream != line.stream);
        if too_old() || other_stream {
            return;
        }
        let start = out.len();
        if self.options.timestamps && !self.inside {
            out.extend(line.stamp.bytes());
            out.push(b' ');
        }
        self.inside = line.partial;
        out.extend(line.text());
        if let Some(left) = self.left {
            let kept = (out.len() - start).min(usize::try_from(left).unwrap_or(usize::MAX));
            out.truncate(start + kept);
            self.left = Some(left - kept as u64);
        }
    }
}

/// A place in a run's files.
struct Cursor {
    run: Run,
    pending: Vec<PathBuf>,
    file: Option<BufReader<File>>,
    /// A line whose end is not written yet.
    line: Vec<u8>,
}

impl Cursor {
    fn open(run: &Run, tail_lines: Option<u64>) -> io::Result<Self> {
        let mut pending = run.files();
        let mut file = None;
        if let Some(lines) = tail_lines {
            let (index, offset) = tail_start(&pending, lines)?;
            pending.drain(..index);
            if let Some(path) = pending.first().cloned() {
                pending.remove(0);
                file = open_at(&path, offset)?;
            }
        }
        pending.reverse();
        Ok(Self { run: run.clone(), pending, file, line: Vec::new() })
    }

    /// The next whole line, or None at the end of what is there.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(file) = self.file.as_mut() {
                let room = MAX_LINE_BYTES.saturating_sub(self.line.len() as u64).max(1);
                file.by_ref().take(room).read_until(b'\n', &mut self.line)?;
                if self.line.ends_with(b"\n") || self.line.len() as u64 >= MAX_LINE_BYTES {
                    return Ok(Some(std::mem::take(&mut self.line)));
                }
            }
            if !self.next_file()? {
                return Ok(None);
            }
        }
    }

    /// Goes to the next file: one that was there at the start, or the one that a rotation made since.
    fn next_file(&mut self) -> io::Result<bool> {
        if let Some(path) = self.pending.pop() {
            self.file = open_at(&path, 0)?;
            self.line.clear();
            return Ok(true);
        }
        let held = self.file.as_ref().map(|file| file.get_ref().metadata()).transpose()?.map(|meta| meta.ino());
        let there = std::fs::metadata(self.run.current()).ok().map(|meta| meta.ino());
        if there.is_none() || there == held {
            return Ok(false);
        }
        self.file = open_at(&self.run.current(), 0)?;
        self.line.clear();
        Ok(self.file.is_some())
    }
}

/// None for a file that is not there (yet, or any more).
fn open_at(path: &Path, offset: u64) -> io::Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(mut file) => {
            file.seek(SeekFrom::Start(offset))?;
            Ok(Some(BufReader::new(file)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The file and the offset from which the last `lines` lines begin.
fn tail_start(files: &[PathBuf], lines: u64) -> io::Result<(usize, u64)> {
    let mut wanted = lines;
    for (index, path) in files.iter().enumerate().rev() {
        let Some(mut file) = open_at(path, 0)?.map(BufReader::into_inner) else { continue };
        let length = file.metadata()?.len();
        if wanted == 0 {
            return Ok((index, length));
        }
        match line_from_end(&mut file, length, wanted)? {
            Ok(offset) => return Ok((index, offset)),
            Err(found) => wanted -= found,
        }
    }
    Ok((0, 0))
}

/// The offset of the `wanted`-th line from the end, or how many lines there are.
fn line_from_end(file: &mut File, length: u64, wanted: u64) -> io::Result<Result<u64, u64>> {
    let mut block = vec![0; BLOCK_BYTES as usize];
    let (mut end, mut found) = (length, 0);
    while end > 0 {
        let start = end.saturating_sub(BLOCK_BYTES);
        let bytes = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(bytes)?;
        for (at, _) in bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + at as u64 + 1;
            // The newline that ends the last line begins none.
            if after < length {
                found += 1;
                if found == wanted {
                    return Ok(Ok(after));
                }
            }
        }
        end = start;
    }
    let total = found + u64::from(length > 0);
    Ok(if total >= wanted { Ok(0) } else { Err(total) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n\
        2026-01-01T00:00:03Z stdout P thr\n2026-01-01T00:00:03Z stdout F ee\nnonsense\n2026-01-01T00:00:04Z stdout F four\n";

    fn run(dir: &Path) -> Run {
        Run { dir: dir.to_path_buf(), attempt: 0 }
    }

    async fn collect(run: Run, options: Options) -> String {
        let (sink, mut chunks) = mpsc::channel(64);
        read(run, options, None, sink).await.unwrap();
        let mut text = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            text.extend(chunk);
        }
        String::from_utf8(text).unwrap()
    }

    async fn check(options: Options, expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("0.log"), LOG).unwrap();
        assert_eq!(collect(run(dir.path()), options.clone()).await, expected, "{options:?}");
    }

    #[tokio::test]
    async fn options_choose_lines() {
        check(Options::default(), "one\ntwo\nthree\nfour\n").await;
        check(Options { tail_lines: Some(1), ..Options::default() }, "four\n").await;
        check(Options { tail_lines: Some(0), ..Options::default() }, "").await;
        check(Options { tail_lines: Some(99), ..Options::default() }, "one\ntwo\nthree\nfour\n").await;
        check(Options { since: Some("2026-01-01T00:00:03Z".parse().unwrap()), ..Options::default() }, "three\nfour\n")
            .await;
        check(Options { stream: Some("stderr".into()), ..Options::default() }, "two\n").await;
        check(Options { limit_bytes: Some(6), ..Options::default() }, "one\ntw").await;
        check(
            Options { timestamps: true, tail_lines: Some(4), ..Options::default() },
            "2026-01-01T00:00:03Z three\n2026-01-01T00:00:04Z four\n",
        )
        .await;
    }

    #[tokio::test]
    async fn rotated_files_come_first() {
        let dir = tempfile::tempdir().unwrap();
        let line = |text: &str| format!("2026-01-01T00:00:01Z stdout F {text}\n");
        std::fs::write(dir.path().join("0.log.20260101-000002"), line("b")).unwrap();
        std::fs::write(dir.path().join("0.log.20260101-000001"), line("a")).unwrap();
        std::fs::write(dir.path().join("0.log"), line("c") + &line("d")).unwrap();
        std::fs::write(dir.path().join("1.log"), line("other run")).unwrap();
        assert_eq!(collect(run(dir.path()), Options::default()).await, "a\nb\nc\nd\n");
        assert_eq!(collect(run(dir.path()), Options { tail_lines: Some(3), ..Options::default() }).await, "b\nc\nd\n");
        remove_run(dir.path(), 0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_missing_log_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(collect(run(dir.path()), Options::default()).await, "");
    }

    #[tokio::test]
    async fn a_follower_sees_new_lines_rotation_and_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |text: &str| format!("2026-01-01T00:00:01Z stdout F {text}\n");
        std::fs::write(&path, line("a")).unwrap();
        let tail = tail::Tail::start().unwrap();
        let (running, watched) = watch::channel(true);
        let follow = Follow { changes: tail.subscribe(dir.path()).unwrap(), running: watched };
        let (sink, mut chunks) = mpsc::channel(64);
        let reader =
            tokio::spawn(read(run(dir.path()), Options { follow: true, ..Options::default() }, Some(follow), sink));
        assert_eq!(chunks.recv().await.unwrap(), "a\n");
        let append = |text: String| {
            use std::io::Write;
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        };
        append(line("b"));
        assert_eq!(chunks.recv().await.unwrap(), "b\n");
        rotate::rotate(&path, "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
        append(line("c"));
        assert_eq!(chunks.recv().await.unwrap(), "c\n");
        append(line("d"));
        running.send(false).unwrap();
        assert_eq!(chunks.recv().await.unwrap(), "d\n");
        assert!(chunks.recv().await.is_none());
        reader.await.unwrap().unwrap();
    }
}

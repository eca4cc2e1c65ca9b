//! A container's output, in CRI's log format: `<RFC3339Nano> stdout F line`.
//!
//! Invariants: a line of one instance is never torn by another's; a line over [`MAX_LINE_BYTES`] becomes several with tag `P`,
//! the last with `F`; nothing is buffered but the line that is not ended yet. The file is opened when something is written and
//! closed by [`Log::rest`], so a quiet container holds no descriptor. Absent on purpose: rotation (the node renames the file
//! and asks for it to be reopened).

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::terminal;

/// The longest line that is written in one piece, as containerd has it.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Where a guest's output goes.
pub trait Output: Send + Sync + 'static {
    /// A writer for one instance's stream. What it still holds is written when it is dropped.
    fn open(self: Arc<Self>, stream: Stream) -> Box<dyn Sink>;
}

/// One stream of one instance.
pub trait Sink: Write + Send {
    /// Done when there is room for more; none where there is room now.
    fn wait(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// Places of a channel that are kept free, for writers that have all seen the same room.
const ROOM_KEPT: usize = 4;

/// Done when the channel takes more, or nobody reads it.
fn room_in(channel: &mpsc::Sender<Bytes>) -> Option<BoxFuture<'static, ()>> {
    if channel.is_closed() || channel.capacity() > ROOM_KEPT {
        return None;
    }
    let channel = channel.clone();
    Some(async move { drop(channel.reserve_many(ROOM_KEPT + 1).await) }.boxed())
}

/// The log file of one container.
pub struct Log {
    path: PathBuf,
    clock: Clock,
    file: Mutex<Option<File>>,
    /// Who listens to the container's output as it is written.
    attached: Mutex<Vec<Attached>>,
}

struct Attached {
    stream: Stream,
    to: mpsc::Sender<Bytes>,
    /// The client's terminal, or none.
    terminal: bool,
}

impl Log {
    /// Makes the file, so that a reader finds it before anything was written.
    pub fn create(path: PathBuf, clock: Clock) -> io::Result<Log> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let log = Log { path, clock, file: Mutex::new(None), attached: Mutex::default() };
        log.open_file()?;
        Ok(log)
    }

    fn open_file(&self) -> io::Result<File> {
        File::options().create(true).append(true).open(&self.path)
    }

    /// After a rotation: the next write opens the file by its name.
    pub fn reopen(&self) -> io::Result<()> {
        *self.file.lock() = Some(self.open_file()?);
        Ok(())
    }

    /// Gives the file descriptor back until something is written again.
    pub fn rest(&self) {
        *self.file.lock() = None;
    }

    /// Sends what is written to the stream from now on. A listener holds the writer up, until it goes away.
    pub fn attach(&self, stream: Stream, to: mpsc::Sender<Bytes>, terminal: bool) {
        let mut attached = self.attached.lock();
        attached.retain(|listener| !listener.to.is_closed());
        attached.push(Attached { stream, to, terminal });
    }

    /// Tells the listeners that nothing more comes.
    pub fn detach(&self) {
        self.attached.lock().clear();
    }

    fn tell(&self, stream: Stream, bytes: &[u8]) {
        let mut attached = self.attached.lock();
        if attached.is_empty() {
            return;
        }
        // One whose channel is full all the same has been outrun by several writers at once: it is let go.
        attached.retain(|listener| {
            let chunk = if listener.terminal { terminal::on_screen(bytes) } else { Bytes::copy_from_slice(bytes) };
            listener.stream != stream || listener.to.try_send(chunk).is_ok()
        });
    }

    fn wait(&self, stream: Stream) -> Option<BoxFuture<'static, ()>> {
        let attached = self.attached.lock();
        attached.iter().filter(|listener| listener.stream == stream).find_map(|listener| room_in(&listener.to))
    }

    /// A line of the runtime's own, as if the container had written it to stderr.
    pub fn note(&self, text: &str) {
        let mut record = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            format_line(&mut record, (self.clock)(), Stream::Stderr, 'F', line.as_bytes());
        }
        if let Err(error) = self.append(&record) {
            tracing::warn!(path = %self.path.display(), %error, "container log cannot be written");
        }
    }

    fn append(&self, records: &[u8]) -> io::Result<()> {
        let mut file = self.file.lock();
        let file = match &mut *file {
            Some(file) => file,
            none => none.insert(self.open_file()?),
        };
        file.write_all(records)
    }
}

impl Output for Log {
    fn open(self: Arc<Self>, stream: Stream) -> Box<dyn Sink> {
        Box::new(Lines { log: self, stream, partial: Vec::new() })
    }
}

fn format_line(out: &mut Vec<u8>, now: Timestamp, stream: Stream, tag: char, line: &[u8]) {
    // Writing to a Vec does not fail.
    let _ = write!(out, "{now} {} {tag} ", stream.name());
    out.extend_from_slice(line);
    out.push(b'\n');
}

/// Cuts a stream into lines.
struct Lines {
    log: Arc<Log>,
    stream: Stream,
    partial: Vec<u8>,
}

impl Lines {
    fn cut(&mut self, bytes: &[u8]) -> Vec<u8> {
        let now = (self.log.clock)();
        let mut records = Vec::with_capacity(bytes.len() + 64);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (line, ended) = match piece.strip_suffix(b"\n") {
                Some(line) => (line, true),
                None => (piece, false),
            };
            let mut line = line;
            while self.partial.len() + line.len() > MAX_LINE_BYTES {
                let (head, tail) = line.split_at(MAX_LINE_BYTES - self.partial.len());
                self.partial.extend_from_slice(head);
                format_line(&mut records, now, self.stream, 'P', &self.partial);
                self.partial.clear();
                line = tail;
            }
            self.partial.extend_from_slice(line);
            if ended {
                format_line(&mut records, now, self.stream, 'F', &self.partial);
                self.partial.clear();
            }
        }
        records
    }
}

impl Sink for Lines {
    fn wait(&self) -> Option<BoxFuture<'static, ()>> {
        self.log.wait(self.stream)
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.log.tell(self.stream, bytes);
        let records = self.cut(bytes);
        if !records.is_empty() {
            self.log.append(&records)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            let mut record = Vec::new();
            format_line(&mut record, (self.log.clock)(), self.stream, 'F', &self.partial);
            if let Err(error) = self.log.append(&record) {
                tracing::warn!(path = %self.log.path.display(), %error, "the end of a container's log is lost");
            }
        }
    }
}

/// Output kept in memory, up to a limit: what a command run by exec printed.
pub struct Capture {
    limit: usize,
    streams: Mutex<(Vec<u8>, Vec<u8>)>,
}

impl Capture {
    pub fn new(limit: usize) -> Capture {
        Capture { limit, streams: Mutex::default() }
    }

    /// (stdout, stderr)
    pub fn take(&self) -> (Vec<u8>, Vec<u8>) {
        std::mem::take(&mut *self.streams.lock())
    }
}

impl Output for Capture {
    fn open(self: Arc<Self>, stream: Stream) -> Box<dyn Sink> {
        Box::new(Captured { capture: self, stream })
    }
}

struct Captured {
    capture: Arc<Capture>,
    stream: Stream,
}

impl Sink for Captured {}

impl Write for Captured {
    /// Beyond the limit output is dropped, as the kubelet does with an exec probe's.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut streams = self.capture.streams.lock();
        let kept = match self.stream {
            Stream::Stdout => &mut streams.0,
            Stream::Stderr => &mut streams.1,
        };
        let room = self.capture.limit.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Output that goes to a client: what a command that somebody watches prints.
pub struct Pipes {
    pub stdout: Option<mpsc::Sender<Bytes>>,
    /// None where it is not asked for, or goes to the terminal with the rest.
    pub stderr: Option<mpsc::Sender<Bytes>>,
    pub terminal: bool,
}

impl Output for Pipes {
    fn open(self: Arc<Self>, stream: Stream) -> Box<dyn Sink> {
        let to = match stream {
            Stream::Stderr if !self.terminal => self.stderr.clone(),
            _ => self.stdout.clone(),
        };
        Box::new(Piped { to, terminal: self.terminal })
    }
}

struct Piped {
    to: Option<mpsc::Sender<Bytes>>,
    terminal: bool,
}

impl Sink for Piped {
    fn wait(&self) -> Option<BoxFuture<'static, ()>> {
        self.to.as_ref().and_then(room_in)
    }
}

impl Write for Piped {
    /// What nobody asked for is dropped; a client that went away is a broken pipe.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(to) = &self.to else { return Ok(bytes.len()) };
        let chunk = if self.terminal { terminal::on_screen(bytes) } else { Bytes::copy_from_slice(bytes) };
        match to.try_send(chunk) {
            Ok(()) => Ok(bytes.len()),
            Err(mpsc::error::TrySendError::Full(_)) => Err(io::ErrorKind::WouldBlock.into()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &tempfile::TempDir) -> Arc<Log> {
        let now: Timestamp = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
        Arc::new(Log::create(dir.path().join("c/0.log"), Arc::new(move || now)).unwrap())
    }

    /// Writes the pieces to one stream and returns the log without its time stamps.
    fn check(pieces: &[&str], expected: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir);
        let mut writer = log.clone().open(Stream::Stdout);
        for piece in pieces {
            writer.write_all(piece.as_bytes()).unwrap();
        }
        drop(writer);
        let text = std::fs::read_to_string(dir.path().join("c/0.log")).unwrap();
        let lines: Vec<&str> =
            text.lines().map(|line| line.strip_prefix("2026-01-02T03:04:05.000000006Z stdout ").unwrap()).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_line_is_written_when_it_ends() {
        check(&["one\ntwo", " and more\n", "\n", "no end"], &["F one", "F two and more", "F ", "F no end"]);
    }

    #[test]
    fn long_lines_come_in_parts() {
        let long = "x".repeat(MAX_LINE_BYTES);
        check(&[&long, "\n"], &[&format!("F {long}")]);
        check(&[&long, "y\n"], &[&format!("P {long}"), "F y"]);
        check(&[&format!("{long}{long}z\n")], &[&format!("P {long}"), &format!("P {long}"), "F z"]);
    }

    #[test]
    fn instances_do_not_tear_each_others_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir);
        let (mut a, mut b) = (log.clone().open(Stream::Stdout), log.clone().open(Stream::Stderr));
        a.write_all(b"aa").unwrap();
        b.write_all(b"bb\n").unwrap();
        a.write_all(b"aa\n").unwrap();
        let text = std::fs::read_to_string(dir.path().join("c/0.log")).unwrap();
        assert_eq!(text, "2026-01-02T03:04:05.000000006Z stderr F bb\n2026-01-02T03:04:05.000000006Z stdout F aaaa\n");
    }

    #[test]
    fn a_rotated_log_goes_on_in_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir);
        let path = dir.path().join("c/0.log");
        log.note("before");
        std::fs::rename(&path, dir.path().join("c/0.log.1")).unwrap();
        log.reopen().unwrap();
        log.note("after");
        log.rest();
        log.note("rested");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().map(|line| line.rsplit(' ').next().unwrap()).collect::<Vec<_>>(), ["after", "rested"]);
    }

    #[test]
    fn a_capture_keeps_what_its_limit_allows() {
        let capture = Arc::new(Capture::new(5));
        capture.clone().open(Stream::Stdout).write_all(b"1234567").unwrap();
        capture.clone().open(Stream::Stderr).write_all(b"err").unwrap();
        assert_eq!(capture.take(), (b"12345".to_vec(), b"err".to_vec()));
    }
}

//! What exec, attach and port-forward connect a client to.

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Chunks of one stream that wait for whoever is slower.
pub const CHUNKS_MAX: usize = 16;

/// A client's ends of a container's streams. A stream that was not asked for is none; one that is dropped has ended.
#[derive(Debug, Default)]
pub struct Streams {
    pub stdin: Option<mpsc::Receiver<Bytes>>,
    pub stdout: Option<mpsc::Sender<Bytes>>,
    /// None with a terminal, whose output is one stream.
    pub stderr: Option<mpsc::Sender<Bytes>>,
    pub tty: bool,
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
}

/// The other ends of [`Streams`].
#[derive(Debug, Default)]
pub struct Ends {
    pub stdin: Option<mpsc::Sender<Bytes>>,
    pub stdout: Option<mpsc::Receiver<Bytes>>,
    pub stderr: Option<mpsc::Receiver<Bytes>>,
    pub resize: Option<mpsc::Sender<TerminalSize>>,
}

/// Which streams a client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    pub fn open(self) -> (Streams, Ends) {
        fn pipe<T>(wanted: bool) -> (Option<mpsc::Sender<T>>, Option<mpsc::Receiver<T>>) {
            wanted.then(|| mpsc::channel(CHUNKS_MAX)).unzip()
        }
        let (to_stdin, stdin) = pipe(self.stdin);
        let (stdout, from_stdout) = pipe(self.stdout);
        let (stderr, from_stderr) = pipe(self.stderr && !self.tty);
        let (to_resize, resize) = pipe(self.tty);
        let streams = Streams { stdin, stdout, stderr, tty: self.tty, resize };
        (streams, Ends { stdin: to_stdin, stdout: from_stdout, stderr: from_stderr, resize: to_resize })
    }
}

/// In characters, as a client's terminal has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// A connection to a port of a pod.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl std::fmt::Debug for dyn Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

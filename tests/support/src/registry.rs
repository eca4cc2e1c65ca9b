//! A registry that asks who one is, before another one that does not.
//!
//! A connection whose first request carries the right `Authorization` header is handed to the registry behind; any other is
//! answered 401 with a challenge, and ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Longest head of a request, in bytes.
const HEAD_MAX: usize = 16 << 10;
const REFUSAL: &str = r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#;

pub struct GuardedRegistry {
    pub address: SocketAddr,
    let_in: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl GuardedRegistry {
    /// Guards the registry at `behind`; `credential` is the value of `Authorization` that opens it.
    pub async fn before(behind: &str, credential: &'static str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("listen for the guarded registry")?;
        let address = listener.local_addr().context("read the guarded registry's address")?;
        let (let_in, behind) = (Arc::new(AtomicUsize::new(0)), behind.to_owned());
        let counter = let_in.clone();
        let serve = async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (behind, counter) = (behind.clone(), counter.clone());
                connections.spawn(async move { guard(stream, &behind, credential, &counter).await });
            }
        };
        Ok(Self { address, let_in, _task: AbortOnDropHandle::new(tokio::spawn(serve)) })
    }

    /// How many connections were let in.
    pub fn let_in(&self) -> usize {
        self.let_in.load(Ordering::SeqCst)
    }
}

async fn guard(mut stream: TcpStream, behind: &str, credential: &str, let_in: &AtomicUsize) -> Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_MAX || stream.read_buf(&mut head).await.context("read a request")? == 0 {
            bail!("no request");
        }
    }
    let text = String::from_utf8_lossy(&head);
    let mut shown = text.lines().filter_map(|line| line.split_once(": "));
    let is_known = shown.any(|(name, value)| name.eq_ignore_ascii_case("authorization") && value == credential);
    if !is_known {
        let answer = format!(
            "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=\"test\"\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{REFUSAL}",
            REFUSAL.len()
        );
        return stream.write_all(answer.as_bytes()).await.context("refuse a request");
    }
    let_in.fetch_add(1, Ordering::SeqCst);
    let mut inner = TcpStream::connect(behind).await.with_context(|| format!("connect to {behind}"))?;
    inner.write_all(&head).await.context("pass on a request")?;
    tokio::io::copy_bidirectional(&mut stream, &mut inner).await.context("pass on a connection")?;
    Ok(())
}

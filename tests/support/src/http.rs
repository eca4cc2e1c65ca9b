//! curl, more or less: one GET on a connection of its own.

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Returns (status, body). `authority` is `host:port`.
pub async fn get(authority: &str, path: &str) -> Result<(u16, String)> {
    let ask = async {
        let mut stream = TcpStream::connect(authority).await.with_context(|| format!("connect to {authority}"))?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.context("send the request")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.context("read the reply")?;
        let (head, body) = reply.split_once("\r\n\r\n").with_context(|| format!("no HTTP reply: {reply:?}"))?;
        let status = head
            .split_whitespace()
            .nth(1)
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("no status: {head:?}"))?;
        Ok((status, body.to_owned()))
    };
    tokio::time::timeout(crate::DEADLINE, ask).await.context("the reply did not come")?
}

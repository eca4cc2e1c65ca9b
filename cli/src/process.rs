//! What belongs to the process: logging, limits, signals.

use std::future::Future;
use std::io::IsTerminal;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Logs to standard error, which is where a supervisor expects it.
pub fn log(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| format!("--log {filter:?}"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .compact()
        .init();
    Ok(())
}

/// Runs a future to its end on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    // The crate's default provider; every TLS end of this process uses it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    raise_file_limit();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the async runtime")?;
    let result = runtime.block_on(future);
    // What still runs has been told to stop and was given its time.
    runtime.shutdown_background();
    result
}

/// Pods, watchers and proxied connections are file descriptors: take as many as the system lets us.
fn raise_file_limit() {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => {
            if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
                tracing::warn!(soft, hard, %error, "the limit on open files stays as it is");
            }
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "the limit on open files is unknown"),
    }
}

/// The host's name, as node names are written.
pub fn hostname() -> Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host's name")?;
    Ok(name.trim().to_ascii_lowercase())
}

/// A token that SIGINT or SIGTERM cancels. A second signal ends the process at once.
pub fn stop_on_signal() -> Result<CancellationToken> {
    let cancel = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let token = cancel.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        next().await;
        tracing::info!("stopping");
        token.cancel();
        next().await;
        std::process::exit(130);
    });
    Ok(cancel)
}

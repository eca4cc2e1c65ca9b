//! A configuration whose file is followed while the server runs.
//!
//! Source: `reload.go` in `pkg/kubeapiserver/{authenticator,authorizer}`. A file that cannot be read or is refused leaves the
//! configuration as it is, and the log says so.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

/// How often a file is looked at: upstream's `authorizationConfigTrackingInterval`, and the same for authentication.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);

#[async_trait]
pub trait Follow: Send + Sync {
    /// As the log names it.
    const WHAT: &'static str;
    /// True where a text that was refused is tried at each look, because what it needs may come; else it is told once.
    const TRIES_AGAIN: bool;

    /// Puts what the text says in place of what was said before, or says why not.
    async fn take(&self, text: &str) -> Result<(), String>;

    /// Follows the file, which says `current` now, until the future is dropped.
    async fn follow(&self, path: PathBuf, mut current: String, every: Duration) {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let name = path.display();
            let text = match tokio::fs::read_to_string(&path).await {
                Ok(text) if text == current => continue,
                Ok(text) => text,
                Err(error) => {
                    tracing::error!(%error, %name, "read the {} configuration again", Self::WHAT);
                    continue;
                }
            };
            let taken = self.take(&text).await;
            match &taken {
                Ok(()) => tracing::info!(%name, "the {} configuration has changed", Self::WHAT),
                Err(error) => tracing::error!(%error, %name, "the new {} configuration is refused", Self::WHAT),
            }
            if taken.is_ok() || !Self::TRIES_AGAIN {
                current = text;
            }
        }
    }
}

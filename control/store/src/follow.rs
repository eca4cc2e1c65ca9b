//! Turns [`Store::history`](crate::Store::history) and a "latest revision" signal into a watch.
//!
//! A watcher pulls: it holds a revision and asks for what came after it, so there is no gap, no duplicate and nothing to
//! overflow. A watcher that falls behind the recent commits in memory reads the log; one that falls behind the log
//! is told `Compacted`.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::watch;

use crate::{Error, Event, History, Result, Revision, Watch};

/// How many commits a watcher takes from history at a time.
const BATCH: usize = 512;

/// History that grows.
#[async_trait]
pub(crate) trait Log: Send + Sync + 'static {
    async fn history(&self, prefix: &str, after: Revision, limit: usize) -> Result<History>;
}

struct Follower<L> {
    log: Arc<L>,
    latest: watch::Receiver<Revision>,
    prefix: String,
    through: Revision,
    ready: VecDeque<Event>,
}

/// Follows `log` from `after`. `latest` tells of new commits; when its sender is gone the watch ends with `Closed`.
pub(crate) fn follow<L: Log>(
    log: Arc<L>,
    latest: watch::Receiver<Revision>,
    prefix: &str,
    after: Revision,
    first: History,
) -> Watch {
    debug_assert!(first.through >= after);
    let follower =
        Follower { log, latest, prefix: prefix.to_owned(), through: first.through, ready: first.events.into() };
    futures::stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(event) => Some((Ok(event), Some(follower))),
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

/// How much of the past `watch` reads before it returns, to tell a revision that is gone at once.
pub(crate) const FIRST: usize = BATCH;

impl<L: Log> Follower<L> {
    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let through = self.through;
            self.latest.wait_for(|latest| *latest > through).await.map_err(|_| Error::Closed)?;
            let history = self.log.history(&self.prefix, through, BATCH).await?;
            self.through = history.through;
            self.ready = history.events.into();
        }
    }
}

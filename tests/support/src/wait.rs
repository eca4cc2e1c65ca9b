//! Waiting for a condition.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// How long anything may take in a test; far more than it should, for machines that are busy with other things.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// The pause between two looks at what cannot be watched.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks again and again until `look` finds what it wants; panics with what it saw last.
pub async fn eventually<T, S: Debug, F: Future<Output = Result<T, S>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if begun.elapsed() > DEADLINE => panic!("{what}: not within {DEADLINE:?}; last seen: {seen:?}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

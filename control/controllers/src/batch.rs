//! Many calls at once, but not all at once when the first one would already tell that they fail.
//!
//! Source: `slowStartBatch` of upstream's ReplicaSet controller.

use futures::StreamExt as _;

/// Calls of one controller step that are under way at the same time.
pub const CONCURRENCY_LIMIT: usize = 64;

/// Calls `act` for each of `0..count` in batches of 1, 2, 4, … and stops after a batch in which one failed.
/// Returns how many succeeded, and the first error.
pub async fn slow_start<F, Fut, E>(count: usize, act: F) -> (usize, Option<E>)
where
    F: Fn(usize) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let (mut started, mut succeeded, mut batch) = (0, 0, 1);
    while started < count {
        let end = count.min(started + batch);
        let (done, error) = all(started..end, &act).await;
        succeeded += done;
        if error.is_some() {
            return (succeeded, error);
        }
        started = end;
        batch *= 2;
    }
    (succeeded, None)
}

/// Calls `act` for each item, [`CONCURRENCY_LIMIT`] at a time, whatever fails.
pub async fn all<T, F, Fut, E>(items: impl IntoIterator<Item = T>, act: F) -> (usize, Option<E>)
where
    F: Fn(T) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let mut calls = futures::stream::iter(items.into_iter().map(act)).buffer_unordered(CONCURRENCY_LIMIT);
    let (mut succeeded, mut first_error) = (0, None);
    while let Some(result) = calls.next().await {
        match result {
            Ok(()) => succeeded += 1,
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    (succeeded, first_error)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    async fn check(count: usize, fails_from: usize, expected_calls: usize, expected_successes: usize) {
        let calls = AtomicUsize::new(0);
        let (succeeded, error) = slow_start(count, |number| {
            calls.fetch_add(1, Ordering::Relaxed);
            async move { if number >= fails_from { Err(number) } else { Ok(()) } }
        })
        .await;
        assert_eq!((calls.into_inner(), succeeded), (expected_calls, expected_successes));
        assert_eq!(error.is_some(), expected_successes < count);
    }

    #[tokio::test]
    async fn batches_double_until_one_fails() {
        check(0, 0, 0, 0).await;
        check(1000, 1000, 1000, 1000).await;
        check(1000, 0, 1, 0).await;
        check(1000, 1, 3, 1).await;
        check(1000, 5, 7, 5).await;
    }
}

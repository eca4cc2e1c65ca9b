//! When a watch ends, and when it is time for a bookmark.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// How often a watch that asks for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// One timer for both.
pub struct Alarm {
    sleep: Pin<Box<Sleep>>,
    end: Instant,
    bookmarks: bool,
}

/// What it is time for.
pub enum Due {
    Bookmark,
    End,
}

impl Alarm {
    pub fn new(lasts: Duration, bookmarks: bool) -> Self {
        let now = Instant::now();
        let end = now + lasts;
        Self { sleep: Box::pin(tokio::time::sleep_until(next_alarm(now, end, bookmarks))), end, bookmarks }
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Due> {
        ready!(self.sleep.as_mut().poll(context));
        let now = Instant::now();
        if now >= self.end {
            return Poll::Ready(Due::End);
        }
        self.sleep.as_mut().reset(next_alarm(now, self.end, self.bookmarks));
        Poll::Ready(Due::Bookmark)
    }
}

fn next_alarm(now: Instant, end: Instant, bookmarks: bool) -> Instant {
    if bookmarks { end.min(now + BOOKMARK_EVERY) } else { end }
}

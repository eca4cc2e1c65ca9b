//! Patience of an in-process client with a server that has enough to do.
//!
//! Only 429 is tried again: the server has not touched such a request. The pause starts far below the second that the server's
//! `Retry-After` can say at least, because here no network lies between.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use kube::client::Body;
use tower::BoxError;
use tower::retry::Policy;

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// With these pauses a request is given up on after some five seconds.
const RETRIES: u32 = 18;

#[derive(Clone, Debug, Default)]
pub struct Patience {
    retries: u32,
}

impl Patience {
    fn pause(&self) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.retries.min(16)).min(LONGEST_PAUSE);
        pause.mul_f64(1.0 + rand::random::<f64>() / 2.0)
    }
}

impl<B, E: Into<BoxError>> Policy<Request<Body>, Response<B>, E> for Patience {
    type Future = tokio::time::Sleep;

    fn retry(&mut self, _: &mut Request<Body>, result: &mut Result<Response<B>, E>) -> Option<Self::Future> {
        let busy = result.as_ref().is_ok_and(|response| response.status() == StatusCode::TOO_MANY_REQUESTS);
        if !busy || self.retries >= RETRIES {
            return None;
        }
        let pause = self.pause();
        self.retries += 1;
        Some(tokio::time::sleep(pause))
    }

    /// A request whose body is a stream cannot be sent twice.
    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        let mut copy = Request::new(request.body().try_clone()?);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        *copy.extensions_mut() = request.extensions().clone();
        Some(copy)
    }
}

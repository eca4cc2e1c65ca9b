//! The way in for clients in this process: the whole stack but TLS.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Request, Response};
use http_body_util::BodyExt;
use wharf_auth::User;

use super::ApiServer;
use crate::reply::{self, Body};

/// The identity of an in-process client. The type is private to this file, so no listener can set it.
#[derive(Clone)]
struct InProcess(User);

/// Who a request from this process is made as.
pub(super) fn user(parts: &Parts) -> Option<&User> {
    parts.extensions.get().map(|InProcess(user)| user)
}

impl ApiServer {
    /// A transport for `kube::Client` in this process: the whole stack but TLS, as `user`.
    pub fn service_for(self: &Arc<Self>, user: User) -> InProcessService {
        InProcessService { server: self.clone(), user }
    }
}

/// See [`ApiServer::service_for`].
#[derive(Clone)]
pub struct InProcessService {
    server: Arc<ApiServer>,
    user: User,
}

impl<B> tower::Service<Request<B>> for InProcessService
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<reply::BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Self { server, user } = self.clone();
        Box::pin(async move {
            let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            request.extensions_mut().insert(InProcess(user));
            Ok(server.handle(request).await)
        })
    }
}

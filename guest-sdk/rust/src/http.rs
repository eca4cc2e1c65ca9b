//! Incoming requests, through [`http_handler!`](crate::http_handler), and outgoing ones.

use std::future::Future;
use std::time::Duration;

pub use wstd::http::{Body, Client, Error, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};

#[doc(hidden)]
pub mod glue {
    pub use wstd::__internal::wasip2;
    pub use wstd::__internal::wasip2::exports::http::incoming_handler::Guest;
    pub use wstd::__internal::wasip2::http::types::{IncomingRequest, ResponseOutparam};
}

/// How long a request made by [`get`] or [`post_json`] may wait for a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers a wasi:http call with `handler`; what [`http_handler!`](crate::http_handler) expands to.
#[doc(hidden)]
pub fn serve<H, F>(incoming: glue::IncomingRequest, out: glue::ResponseOutparam, handler: H)
where
    H: FnOnce(Request<Body>) -> F,
    F: Future<Output = Result<Response<Body>, Error>>,
{
    let responder = wstd::http::server::Responder::new(out);
    wstd::runtime::block_on(async move {
        let request = match wstd::http::request::try_from_incoming(incoming) {
            Ok(request) => request,
            Err(error) => return responder.fail(error),
        };
        match handler(request).await {
            // The peer may have gone away; nobody is left to be told.
            Ok(response) => drop(responder.respond(response).await),
            Err(error) => {
                crate::log::error(&format!("request failed: {error:?}"));
                responder.fail(error);
            }
        }
    });
}

/// Makes `async fn(Request<Body>) -> Result<Response<Body>, Error>` the component's HTTP handler.
#[macro_export]
macro_rules! http_handler {
    ($handler:path) => {
        struct WharfHandler;

        impl $crate::http::glue::Guest for WharfHandler {
            fn handle(request: $crate::http::glue::IncomingRequest, out: $crate::http::glue::ResponseOutparam) {
                $crate::http::serve(request, out, $handler)
            }
        }

        $crate::http::glue::wasip2::http::proxy::export!(WharfHandler with_types_in $crate::http::glue::wasip2);
    };
}

fn client() -> Client {
    let mut client = Client::new();
    client.set_connect_timeout(wstd::time::Duration::from(CONNECT_TIMEOUT));
    client
}

/// GETs a URL. Names of services (`http://hello.default.svc/`) resolve inside the cluster.
pub async fn get(url: &str) -> Result<Response<Body>, Error> {
    client().send(Request::get(url).body(Body::empty())?).await
}

/// POSTs a value as JSON.
pub async fn post_json<T: serde::Serialize>(url: &str, value: &T) -> Result<Response<Body>, Error> {
    let body = Body::from_json(value)?;
    client().send(Request::post(url).header("content-type", "application/json").body(body)?).await
}

/// A reply of JSON.
pub fn json<T: serde::Serialize>(value: &T) -> Result<Response<Body>, Error> {
    Ok(Response::builder().header("content-type", "application/json").body(Body::from_json(value)?)?)
}

/// An empty reply with a status, e.g. `status(StatusCode::NOT_FOUND)`.
pub fn status(code: StatusCode) -> Result<Response<Body>, Error> {
    Ok(Response::builder().status(code).body(Body::empty())?)
}

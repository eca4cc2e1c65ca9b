//! A watch over a websocket: each frame of its body is one message, as text, or as bytes where it is protobuf.
//!
//! Source: `HandleWS` in `k8s.io/apiserver/pkg/endpoints/handlers/watch.go`. What the client says is read and dropped; the watch
//! ends with the client, and the websocket with the watch. No subprotocol is chosen.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use wharf_types::ApiError;

use crate::reply::{self, Body};
use crate::request::{Info, Verb};

/// Longest message that a client of a watch may send; it has nothing to say.
const MESSAGE_MAX: usize = 4096;

/// What a client that watches over a websocket has asked for.
pub struct Watcher {
    upgrade: OnUpgrade,
    accept: HeaderValue,
}

impl Watcher {
    /// None where the request is no watch, or one over plain HTTP.
    pub fn of(parts: &mut Parts, info: &Info) -> Result<Option<Self>, ApiError> {
        if info.verb != Verb::Watch || !asks(&parts.headers) {
            return Ok(None);
        }
        let Some(upgrade) = parts.extensions.remove::<OnUpgrade>() else { return Ok(None) };
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY);
        let accept = key.and_then(|key| HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok());
        let accept = accept.ok_or_else(|| ApiError::bad_request("missing Sec-WebSocket-Key"))?;
        Ok(Some(Self { upgrade, accept }))
    }

    /// Turns the watch's answer into the upgrade's. A refusal stays what it is.
    pub fn answer(self, watch: Response<Body>) -> Response<Body> {
        if watch.status() != StatusCode::OK {
            return watch;
        }
        let kind = watch.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let binary = !kind.starts_with("application/json");
        // It owns the connection and the watch, and ends with either.
        tokio::spawn(speak(self.upgrade, watch.into_body(), binary));
        let mut response = Response::new(reply::full(Bytes::new()));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        response
    }
}

/// True where a request asks for a websocket.
pub fn asks(headers: &HeaderMap) -> bool {
    let says = |name: header::HeaderName, word: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.to_ascii_lowercase().contains(word))
    };
    says(header::CONNECTION, "upgrade") && says(header::UPGRADE, "websocket")
}

async fn speak(upgrade: OnUpgrade, mut watch: Body, binary: bool) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return tracing::debug!(%error, "upgrade a watch"),
    };
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
    let socket = WebSocketStream::from_raw_socket(upgraded, Role::Server, Some(config)).await;
    let (mut out, mut heard) = socket.split();
    let say = async {
        while let Some(Ok(frame)) = watch.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            let message = match String::from_utf8(data.to_vec()) {
                Ok(text) if !binary => Message::text(text),
                _ => Message::binary(data),
            };
            if out.send(message).await.is_err() {
                return;
            }
        }
        let _ = out.close().await;
    };
    let hear = async { while heard.next().await.is_some_and(|message| message.is_ok()) {} };
    tokio::select! {
        () = say => {}
        () = hear => {}
    }
}

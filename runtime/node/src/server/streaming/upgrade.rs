//! From an HTTP request to a connection of the protocol that client and server share.
//!
//! Source: `k8s.io/streaming/pkg/httpstream` (`Handshake`, `spdy/upgrade.go`) and `wsstream`.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::{Refusal, refused};

/// Longest websocket message that is read.
const MESSAGE_MAX: usize = 4 << 20;
const PROTOCOL: &str = "x-stream-protocol-version";
const ACCEPTED: &str = "x-accepted-stream-protocol-versions";

/// What the stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Remote,
    Forward,
}

/// How the parts of a session go over one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Streams of SPDY.
    Spdy { version: u8 },
    /// A channel's number in front of each websocket message. `base64`: as text.
    Channels { version: u8, base64: bool },
    /// SPDY inside of websocket messages.
    Tunnel,
}

const SPDY_REMOTE: &[(&str, Protocol)] = &[
    ("v4.channel.k8s.io", Protocol::Spdy { version: 4 }),
    ("v3.channel.k8s.io", Protocol::Spdy { version: 3 }),
    ("v2.channel.k8s.io", Protocol::Spdy { version: 2 }),
    ("channel.k8s.io", Protocol::Spdy { version: 1 }),
];
const SPDY_FORWARD: &[(&str, Protocol)] = &[("portforward.k8s.io", Protocol::Spdy { version: 1 })];
const WEB_REMOTE: &[(&str, Protocol)] = &[
    ("v5.channel.k8s.io", Protocol::Channels { version: 5, base64: false }),
    ("v5.base64.channel.k8s.io", Protocol::Channels { version: 5, base64: true }),
    ("v4.channel.k8s.io", Protocol::Channels { version: 4, base64: false }),
    ("v4.base64.channel.k8s.io", Protocol::Channels { version: 4, base64: true }),
    ("channel.k8s.io", Protocol::Channels { version: 1, base64: false }),
    ("base64.channel.k8s.io", Protocol::Channels { version: 1, base64: true }),
];
const WEB_FORWARD: &[(&str, Protocol)] = &[
    ("SPDY/3.1+portforward.k8s.io", Protocol::Tunnel),
    ("v4.channel.k8s.io", Protocol::Channels { version: 4, base64: false }),
    ("v4.base64.channel.k8s.io", Protocol::Channels { version: 4, base64: true }),
];

/// An upgrade that was agreed on.
pub struct Opening {
    pub protocol: Protocol,
    upgrade: OnUpgrade,
}

pub type Connection = TokioIo<Upgraded>;

impl Opening {
    /// The upgrade and the answer that begins it, or the refusal.
    pub fn of(request: &mut Request, kind: Kind) -> Result<(Self, Response), Refusal> {
        let headers = request.headers();
        let names = |name: header::HeaderName, word: &str| {
            let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            values.any(|value| value.to_ascii_lowercase().contains(word))
        };
        let upgrades = names(header::CONNECTION, "upgrade");
        let (protocol, response) = if upgrades && names(header::UPGRADE, "websocket") {
            websocket(headers, kind)?
        } else if upgrades && names(header::UPGRADE, "spdy/3.1") {
            spdy(headers, kind)?
        } else {
            let why = format!("unable to upgrade: missing upgrade headers in request: {headers:?}");
            return Err(refused(StatusCode::BAD_REQUEST, why).into());
        };
        Ok((Self { protocol, upgrade: hyper::upgrade::on(request) }, response))
    }

    pub fn is_channels(&self) -> bool {
        matches!(self.protocol, Protocol::Channels { .. })
    }

    /// The connection, once the answer has gone out.
    pub async fn connect(self) -> Option<Connection> {
        match self.upgrade.await {
            Ok(upgraded) => Some(TokioIo::new(upgraded)),
            Err(error) => {
                tracing::debug!(%error, "upgrade a connection");
                None
            }
        }
    }
}

/// Speaks websocket on the connection.
pub async fn messages(connection: Connection) -> WebSocketStream<Connection> {
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
    WebSocketStream::from_raw_socket(connection, Role::Server, Some(config)).await
}

/// What a client asks for, in its order.
fn asked(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(|name| name.trim().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

type Chosen = (String, Protocol);

fn choose(asked: &[String], served: &[(&str, Protocol)]) -> Option<Chosen> {
    asked.iter().find_map(|name| {
        let found = served.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, protocol)| (name.clone(), *protocol))
    })
}

fn spdy(headers: &HeaderMap, kind: Kind) -> Result<(Protocol, Response), Refusal> {
    let served = if kind == Kind::Remote { SPDY_REMOTE } else { SPDY_FORWARD };
    let asked = asked(headers, PROTOCOL);
    let chosen = match choose(&asked, served) {
        Some(chosen) => Some(chosen),
        // Clients from before there were versions.
        None if asked.is_empty() => None,
        None => {
            let names: Vec<&str> = served.iter().map(|(name, _)| *name).collect();
            let why = format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
                asked.join(" "),
                names.join(" ")
            );
            let mut response = refused(StatusCode::FORBIDDEN, why);
            for name in names {
                response.headers_mut().append(ACCEPTED, HeaderValue::from_static(name));
            }
            return Err(response.into());
        }
    };
    let mut response = switching("SPDY/3.1");
    let protocol = chosen.as_ref().map_or(Protocol::Spdy { version: 1 }, |(_, protocol)| *protocol);
    if let Some(name) = chosen.and_then(|(name, _)| HeaderValue::from_str(&name).ok()) {
        response.headers_mut().insert(PROTOCOL, name);
    }
    Ok((protocol, response))
}

fn websocket(headers: &HeaderMap, kind: Kind) -> Result<(Protocol, Response), Refusal> {
    let bad = |why: &str| Refusal::from(refused(StatusCode::BAD_REQUEST, why));
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(bad("missing or bad WebSocket Version"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("missing Sec-WebSocket-Key"))?;
    let served = if kind == Kind::Remote { WEB_REMOTE } else { WEB_FORWARD };
    let asked = asked(headers, header::SEC_WEBSOCKET_PROTOCOL.as_str());
    let chosen = choose(&asked, served);
    if chosen.is_none() && !asked.is_empty() {
        let why = format!("requested protocol(s) are not supported: [{}]", asked.join(" "));
        return Err(refused(StatusCode::FORBIDDEN, why).into());
    }
    let mut response = switching("websocket");
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    let plain = Protocol::Channels { version: 1, base64: false };
    let protocol = chosen.as_ref().map_or(plain, |(_, protocol)| *protocol);
    if let Some(name) = chosen.and_then(|(name, _)| HeaderValue::from_str(&name).ok()) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    Ok((protocol, response))
}

fn switching(to: &'static str) -> Response {
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, to)];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: Kind, headers: &[(&str, &str)], expected: Result<(Protocol, &str), u16>) {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(axum::body::Body::empty()).unwrap();
        let got = Opening::of(&mut request, kind).map(|(opening, response)| {
            let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            (opening.protocol, header(PROTOCOL).or(header("sec-websocket-protocol")).unwrap_or_default())
        });
        let got = got.map_err(|response| response.status().as_u16());
        assert_eq!(got, expected.map(|(protocol, name)| (protocol, name.to_owned())), "{headers:?}");
    }

    #[test]
    fn the_clients_first_choice_that_is_served_wins() {
        let spdy = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        let with = |more: &[(&'static str, &'static str)]| [&spdy[..], more].concat();
        check(Kind::Remote, &with(&[]), Ok((Protocol::Spdy { version: 1 }, "")));
        check(
            Kind::Remote,
            &with(&[(PROTOCOL, "v9.channel.k8s.io"), (PROTOCOL, "v4.channel.k8s.io")]),
            Ok((Protocol::Spdy { version: 4 }, "v4.channel.k8s.io")),
        );
        check(Kind::Remote, &with(&[(PROTOCOL, "v9.channel.k8s.io")]), Err(403));
        check(
            Kind::Forward,
            &with(&[(PROTOCOL, "portforward.k8s.io")]),
            Ok((Protocol::Spdy { version: 1 }, "portforward.k8s.io")),
        );
        let web = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let with = |more: &[(&'static str, &'static str)]| [&web[..], more].concat();
        check(
            Kind::Remote,
            &with(&[("sec-websocket-protocol", "v5.channel.k8s.io")]),
            Ok((Protocol::Channels { version: 5, base64: false }, "v5.channel.k8s.io")),
        );
        check(Kind::Remote, &with(&[]), Ok((Protocol::Channels { version: 1, base64: false }, "")));
        check(Kind::Remote, &with(&[("sec-websocket-protocol", "chat")]), Err(403));
        check(
            Kind::Forward,
            &with(&[("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io")]),
            Ok((Protocol::Tunnel, "SPDY/3.1+portforward.k8s.io")),
        );
        check(Kind::Remote, &[], Err(400));
    }
}

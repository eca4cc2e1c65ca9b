//! Tokens that come with a request: `Authorization: Bearer`, or among the subprotocols of a websocket, for browsers.
//!
//! Source: `k8s.io/apiserver/pkg/authentication/request/{bearertoken,websocket}` and `token/union`. Invariant: a token that
//! nobody knows is refused. Whoever serves the request [strips](strip) the token first.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use crate::{AuthenticateError, Authenticator, Remarks, Tokens, User, Whose};

/// What a subprotocol starts with that is a token in base64url.
const PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Asks each in turn: the first that knows the token wins.
#[derive(Clone, Default)]
pub struct TokenUnion(Vec<Arc<dyn Tokens>>);

impl TokenUnion {
    pub fn new(tokens: Vec<Arc<dyn Tokens>>) -> Self {
        Self(tokens)
    }
}

#[async_trait]
impl Tokens for TokenUnion {
    async fn authenticate_token(&self, token: &str, audiences: &[String]) -> Result<Option<Whose>, AuthenticateError> {
        let mut errors = Vec::new();
        for tokens in &self.0 {
            match tokens.authenticate_token(token, audiences).await {
                Ok(Some(known)) => return Ok(Some(known)),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        AuthenticateError::of_all(errors).map_or(Ok(None), Err)
    }
}

/// Who shows a token.
pub struct Bearer(Arc<dyn Tokens>);

impl Bearer {
    pub fn new(tokens: Arc<dyn Tokens>) -> Self {
        Self(tokens)
    }
}

#[async_trait]
impl Authenticator for Bearer {
    async fn authenticate(&self, parts: &Parts, remarks: &mut Remarks) -> Result<Option<User>, AuthenticateError> {
        let token = match from_header(&parts.headers) {
            Some(token) => token.to_owned(),
            None => match from_protocols(&parts.headers)? {
                Some(token) => token,
                None => return Ok(None),
            },
        };
        match self.0.authenticate_token(&token, &[]).await? {
            Some(known) => {
                remarks.extend(known.remarks);
                Ok(Some(known.user))
            }
            None => Err(AuthenticateError("invalid bearer token".to_owned())),
        }
    }
}

fn from_header(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let mut words = value.splitn(3, ' ');
    let scheme = words.next().filter(|scheme| scheme.eq_ignore_ascii_case("bearer"));
    scheme.and(words.next()).filter(|token| !token.is_empty())
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn from_protocols(headers: &HeaderMap) -> Result<Option<String>, AuthenticateError> {
    let has = |name, word: &str| {
        let text = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        text.to_ascii_lowercase().contains(word)
    };
    if !has(CONNECTION, "upgrade") || !has(UPGRADE, "websocket") {
        return Ok(None);
    }
    let refuse = |why: &str| Err(AuthenticateError(why.to_owned()));
    let mut tokens = protocols(headers).filter_map(|protocol| protocol.strip_prefix(PROTOCOL_PREFIX));
    let Some(encoded) = tokens.next() else { return Ok(None) };
    if tokens.next().is_some() {
        return refuse("multiple base64.bearer.authorization tokens specified");
    }
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(encoded) else {
        return refuse("invalid base64.bearer.authorization token encoding");
    };
    let Ok(token) = String::from_utf8(bytes) else { return refuse("invalid base64.bearer.authorization token") };
    // The server has to choose one of the others.
    if protocols(headers).all(|protocol| protocol.starts_with(PROTOCOL_PREFIX)) {
        return refuse("missing additional subprotocol");
    }
    Ok(Some(token).filter(|token| !token.is_empty()))
}

/// Takes a request's credentials away once its user is known, so that nothing behind can pass them on.
pub fn strip(headers: &mut HeaderMap) {
    headers.remove(AUTHORIZATION);
    if !protocols(headers).any(|protocol| protocol.starts_with(PROTOCOL_PREFIX)) {
        return;
    }
    let rest: Vec<&str> = protocols(headers).filter(|protocol| !protocol.starts_with(PROTOCOL_PREFIX)).collect();
    match HeaderValue::from_str(&rest.join(",")) {
        Ok(rest) => drop(headers.insert(SEC_WEBSOCKET_PROTOCOL, rest)),
        Err(_) => drop(headers.remove(SEC_WEBSOCKET_PROTOCOL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Knows `good`, and breaks at `broken`.
    struct One;

    #[async_trait]
    impl Tokens for One {
        async fn authenticate_token(&self, token: &str, _: &[String]) -> Result<Option<Whose>, AuthenticateError> {
            match token {
                "good" => Ok(Some(Whose::new(User::new("jane", &[]), Vec::new()))),
                "broken" => Err(AuthenticateError("it broke".to_owned())),
                _ => Ok(None),
            }
        }
    }

    /// `expected` is the user's name, `none`, or why there is none; then what is left of the headers.
    async fn check(headers: &[(&str, &str)], expected: &str, rest: &str) {
        let mut request = http::Request::get("/api");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).expect("request").into_parts();
        let got = match Bearer::new(Arc::new(TokenUnion::new(vec![Arc::new(One)])))
            .authenticate(&parts, &mut Remarks::default())
            .await
        {
            Ok(Some(user)) => user.name,
            Ok(None) => "none".to_owned(),
            Err(error) => error.0,
        };
        assert_eq!(got, expected, "{headers:?}");
        strip(&mut parts.headers);
        assert!(!parts.headers.contains_key(AUTHORIZATION));
        let left = parts.headers.get(SEC_WEBSOCKET_PROTOCOL).map(|value| value.to_str().expect("text"));
        assert_eq!(left.unwrap_or_default(), rest, "{headers:?}");
    }

    #[tokio::test]
    async fn a_token_comes_in_its_header() {
        check(&[("authorization", "Bearer good")], "jane", "").await;
        check(&[("authorization", "bearer good and more")], "jane", "").await;
        check(&[("authorization", "Bearer bad")], "invalid bearer token", "").await;
        check(&[("authorization", "Bearer broken")], "it broke", "").await;
        for nothing in ["Bearer", "Bearer ", "Basic good", "good"] {
            check(&[("authorization", nothing)], "none", "").await;
        }
        check(&[], "none", "").await;
    }

    #[tokio::test]
    async fn a_browser_hides_it_among_the_subprotocols() {
        let upgrade = [("connection", "Upgrade"), ("upgrade", "websocket")];
        let with = |protocols: &'static str| [upgrade[0], upgrade[1], ("sec-websocket-protocol", protocols)];
        // Base64url of `good`.
        let good = "base64url.bearer.authorization.k8s.io.Z29vZA, v4.channel.k8s.io";
        check(&with(good), "jane", "v4.channel.k8s.io").await;
        check(&[("sec-websocket-protocol", good)], "none", "v4.channel.k8s.io").await;
        let alone = "base64url.bearer.authorization.k8s.io.Z29vZA";
        check(&with(alone), "missing additional subprotocol", "").await;
        let bad = "base64url.bearer.authorization.k8s.io.?,a";
        check(&with(bad), "invalid base64.bearer.authorization token encoding", "a").await;
        check(&with("v4.channel.k8s.io"), "none", "v4.channel.k8s.io").await;
    }
}

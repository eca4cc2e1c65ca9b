//! A token as it is sent, and whether it counts: issuer, audience, time, algorithm, signature, in this order.
//!
//! Source: go-oidc's `IDTokenVerifier.Verify`, with its messages.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value as Json;

use super::mapping::Claims;
use super::remote::Remote;

/// How far an issuer's clock may be ahead.
const LEEWAY_S: f64 = 60.0;
/// Google's tokens name the issuer so, for historical reasons.
const GOOGLE: &str = "accounts.google.com";

/// Who must have issued a token, for whom, and how.
pub struct Expected {
    pub issuer: String,
    pub audiences: Vec<String>,
    pub algorithms: Vec<String>,
    pub keys: Arc<Remote>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// Who says to have issued a token. Nothing of it is verified yet.
pub fn untrusted_issuer(token: &str) -> Option<String> {
    let claims = claims(token).ok()?;
    let issuer = claims.get("iss").map_or(Some(""), Json::as_str)?;
    Some(if issuer == GOOGLE { format!("https://{GOOGLE}") } else { issuer.to_owned() })
}

fn claims(token: &str) -> Result<Claims, String> {
    let parts: Vec<&str> = token.split('.').collect();
    let [_, payload, _] = parts.as_slice() else {
        return Err(format!("malformed jwt: oidc: malformed jwt, expected 3 parts got {}", parts.len()));
    };
    let bytes = URL_SAFE_NO_PAD.decode(payload).map_err(|error| format!("malformed jwt: {error}"))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("failed to unmarshal claims: {error}"))
}

/// The claims of a token that counts.
pub async fn verify(token: &str, expected: &Expected, now: Timestamp) -> Result<Claims, String> {
    let claims = claims(token).map_err(|why| format!("oidc: {why}"))?;
    let issuer = untrusted_issuer(token).unwrap_or_default();
    if issuer != expected.issuer {
        let wanted = &expected.issuer;
        return Err(format!("oidc: id token issued by a different provider, expected {wanted:?} got {issuer:?}"));
    }
    audience(&claims, &expected.audiences)?;
    time(&claims, now)?;
    let (signed, signature) = token.rsplit_once('.').ok_or("oidc: malformed jwt")?;
    let header = signed.split('.').next().unwrap_or_default();
    let header = URL_SAFE_NO_PAD.decode(header).ok().and_then(|bytes| serde_json::from_slice::<Header>(&bytes).ok());
    let (Some(Header { alg, kid }), Ok(signature)) = (header, URL_SAFE_NO_PAD.decode(signature)) else {
        return Err("oidc: malformed jwt".to_owned());
    };
    if !expected.algorithms.contains(&alg) {
        let wanted = expected.algorithms.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" ");
        return Err(format!("oidc: id token signed with unsupported algorithm, expected [{wanted}] got {alg:?}"));
    }
    let good = expected.keys.verify(&alg, &kid, signed.as_bytes(), &signature).await;
    match good.map_err(|why| format!("oidc: {why}"))? {
        true => Ok(claims),
        false => Err("failed to verify signature: failed to verify id token signature".to_owned()),
    }
}

fn audience(claims: &Claims, wanted: &[String]) -> Result<(), String> {
    let got: Vec<&str> = match claims.get("aud") {
        Some(Json::String(one)) => vec![one],
        Some(Json::Array(all)) => all.iter().filter_map(Json::as_str).collect(),
        _ => Vec::new(),
    };
    if wanted.iter().any(|audience| got.contains(&audience.as_str())) {
        return Ok(());
    }
    let quoted = |all: &[&str]| all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(" ");
    let shown = match wanted {
        [one] => format!("{one:?}"),
        all => format!("[{}]", quoted(&all.iter().map(String::as_str).collect::<Vec<_>>())),
    };
    Err(format!("oidc: expected audience {shown} got [{}]", quoted(&got)))
}

fn time(claims: &Claims, now: Timestamp) -> Result<(), String> {
    let seconds = |claim: &str| claims.get(claim).and_then(Json::as_f64);
    let shown = |seconds: f64| match Timestamp::from_second(seconds as i64) {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
        Err(_) => seconds.to_string(),
    };
    let current = now.as_millisecond() as f64 / 1000.0;
    match seconds("exp") {
        Some(end) if end >= current => {}
        Some(end) => return Err(format!("oidc: token is expired (Token Expiry: {})", shown(end))),
        None => return Err("oidc: token is expired (Token Expiry: 0001-01-01 00:00:00 +0000 UTC)".to_owned()),
    }
    match seconds("nbf") {
        Some(begin) if current + LEEWAY_S < begin => {
            Err(format!("oidc: current time {} before the nbf (not before) time: {}", shown(current), shown(begin)))
        }
        _ => Ok(()),
    }
}

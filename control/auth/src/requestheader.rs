//! Users whom a front proxy has let in: it shows a certificate of the front proxies' authority, and names the user in headers.
//!
//! The TLS listener has verified the chain before a request comes here, and tells it apart from a client's by its authority.
//! Source: `k8s.io/apiserver/pkg/authentication/request/headerrequest`. Headers without the certificate mean nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use http::HeaderMap;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::x509::subject;
use crate::{AUTHENTICATED, AuthenticateError, Authenticator, Remarks, User};

/// The name in a front proxy's certificate.
pub const FRONT_PROXY: &str = "front-proxy-client";
const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// A chain of the front proxies' authority, leaf first; a request extension that only the listener sets.
#[derive(Clone, Debug)]
pub struct FrontProxyCertificates(pub Arc<[CertificateDer<'static>]>);

#[derive(Clone, Copy, Debug, Default)]
pub struct RequestHeader;

#[async_trait]
impl Authenticator for RequestHeader {
    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        _: &mut Remarks,
    ) -> Result<Option<User>, AuthenticateError> {
        let Some(leaf) = parts.extensions.get::<FrontProxyCertificates>().and_then(|chain| chain.0.first()) else {
            return Ok(None);
        };
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|error| AuthenticateError(format!("read the front proxy's certificate: {error}")))?;
        let (name, _) = subject(&parsed);
        if name != FRONT_PROXY {
            return Err(AuthenticateError(format!("subject with cn={name} is not in the allowed list")));
        }
        Ok(user(&parts.headers))
    }
}

fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.filter(|value| !value.is_empty()).map(str::to_owned).collect()
}

/// The user of the headers; none where they name none.
fn user(headers: &HeaderMap) -> Option<User> {
    let name = all(headers, USER).into_iter().next()?;
    let mut groups = all(headers, GROUP);
    if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for header in headers.keys() {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            extra.entry(unescaped(key)).or_default().extend(all(headers, header.as_str()));
        }
    }
    let uid = all(headers, UID).into_iter().next().unwrap_or_default();
    Some(User { name, uid, groups, extra })
}

/// Undoes the `%2f` of a key; one that is not escaped as it should be stays as it is.
fn unescaped(key: &str) -> String {
    let mut out = Vec::with_capacity(key.len());
    let mut bytes = key.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next(), bytes.next()].map(|digit| digit.and_then(|digit| char::from(digit).to_digit(16)));
        match digits {
            [Some(high), Some(low)] => out.push((high << 4 | low) as u8),
            _ => return key.to_owned(),
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::pki::{Identity, Pki};

    /// `expected` is `name groups uid extra`, `none` or `refused`.
    async fn check(common_name: Option<&str>, headers: &[(&str, &str)], expected: &str) {
        let mut request = http::Request::get("/api");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).expect("request").into_parts();
        if let Some(name) = common_name {
            let root = tempfile::tempdir().expect("temporary directory");
            let now: Timestamp = "2030-01-01T00:00:00Z".parse().expect("timestamp");
            let pki = Pki::open(root.path(), now).expect("open");
            let (chain, _) = pki.client(&Identity::new(name, &[]), now).expect("issue").chain().expect("chain");
            parts.extensions.insert(FrontProxyCertificates(chain.into()));
        }
        let got = match RequestHeader.authenticate(&parts, &mut Remarks::default()).await {
            Ok(Some(user)) => format!("{} {} {} {:?}", user.name, user.groups.join(","), user.uid, user.extra),
            Ok(None) => "none".to_owned(),
            Err(_) => "refused".to_owned(),
        };
        assert_eq!(got, expected, "{common_name:?} {headers:?}");
    }

    #[tokio::test]
    async fn headers_count_with_the_front_proxys_certificate_alone() {
        let headers =
            [(USER, "jane"), (GROUP, "dev"), (GROUP, "ops"), (UID, "u"), ("x-remote-extra-example.org%2fscope", "a")];
        let jane = "jane dev,ops,system:authenticated u {\"example.org/scope\": [\"a\"]}";
        check(Some(FRONT_PROXY), &headers, jane).await;
        check(Some(FRONT_PROXY), &[], "none").await;
        check(Some("somebody"), &headers, "refused").await;
        check(None, &headers, "none").await;
    }
}

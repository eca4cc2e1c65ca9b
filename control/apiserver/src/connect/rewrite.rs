//! What a backend says of its own paths, in the client's view of them.
//!
//! Source: `k8s.io/apimachinery/pkg/util/proxy/transport.go`.

use bytes::Bytes;
use futures::StreamExt;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, Uri};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use crate::connect::forward::{decoded, encoded};
use crate::connect::html::{Unpack, Urls};
use crate::reply::{Body, BoxError};

/// Where the client's request and the backend's meet.
#[derive(Clone, Debug)]
pub struct Place {
    /// What stands before the backend's paths: `/api/v1/…/proxy`.
    prefix: String,
    /// The path that the backend is asked for.
    path: String,
    /// What the client calls this server.
    host: String,
    /// What this server calls the backend.
    backend: String,
}

impl Place {
    pub fn new(request: &Uri, path: &str, host: String, backend: &str) -> Self {
        let whole = decoded(request.path());
        let suffix = if whole.ends_with('/') && !path.ends_with('/') { format!("{path}/") } else { path.to_owned() };
        let prefix = whole.strip_suffix(suffix.as_str()).unwrap_or(&whole).to_owned();
        Self { prefix, path: path.to_owned(), host, backend: backend.to_owned() }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// Tells the backend under which path its client sees it.
    pub fn announce(&self, headers: &mut HeaderMap) {
        let slash = if self.path.ends_with('/') && self.path.len() > 1 { "/" } else { "" };
        let path = encoded(self.path.trim_matches('/'));
        let mut forwarded = encoded(self.prefix.trim_end_matches('/'));
        if !path.is_empty() {
            forwarded += &format!("/{path}{slash}");
        } else if self.path.ends_with('/') {
            forwarded.push('/');
        }
        if let Ok(value) = HeaderValue::from_str(&forwarded) {
            headers.insert("x-forwarded-uri", value);
        }
    }

    /// A link as the client must follow it. One to another host, or relative to its page, is right as it is.
    pub fn link(&self, link: &str) -> String {
        let (own, rest) = match split_host(link) {
            Some((host, rest)) => (host == self.backend || host == self.host, rest),
            None => (!has_scheme(link), link),
        };
        let (path, tail) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        if !own || !path.starts_with('/') {
            return link.to_owned();
        }
        if path.starts_with(&self.prefix) {
            return rest.to_owned();
        }
        let clean = path.trim_start_matches('/');
        format!("{}/{clean}{tail}", self.prefix.trim_end_matches('/'))
    }
}

/// Host and what follows it, of `scheme://host/path` and `//host/path`.
fn split_host(link: &str) -> Option<(&str, &str)> {
    let rest = match link.split_once("://") {
        Some((scheme, rest)) if !scheme.is_empty() && !scheme.contains(['/', '?', '#']) => rest,
        _ => link.strip_prefix("//")?,
    };
    Some(rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())))
}

/// `mailto:x`, `javascript:…`
fn has_scheme(link: &str) -> bool {
    link.find(':').is_some_and(|colon| !link[..colon].contains(['/', '?', '#']))
}

/// Mends redirects and the links of pages.
pub fn answer(place: &Place, mut response: Response<Body>) -> Response<Body> {
    if let Some(location) = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()) {
        if let Ok(mended) = HeaderValue::from_str(&place.link(location)) {
            response.headers_mut().insert(header::LOCATION, mended);
        }
        return response;
    }
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    if kind != "text/html" {
        return response;
    }
    let Some(unpack) = Unpack::of(text(header::CONTENT_ENCODING)) else { return response };
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().remove(header::CONTENT_ENCODING);
    let place = place.clone();
    response.map(|body| page(body, unpack, Urls::new(move |link| place.link(link))))
}

struct Page {
    body: Body,
    unpack: Unpack,
    urls: Urls,
    over: bool,
}

/// A page whose links are mended as it streams.
fn page(body: Body, unpack: Unpack, urls: Urls) -> Body {
    let frames = futures::stream::unfold(Page { body, unpack, urls, over: false }, |mut page| async move {
        let mended = page.next().await?;
        Some((mended.map(Frame::data), page))
    });
    StreamBody::new(frames.boxed()).boxed_unsync()
}

impl Page {
    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        while !self.over {
            let out = match self.body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.unpack.push(&data).map(|plain| self.urls.push(&plain)),
                    Err(_) => continue,
                },
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    self.over = true;
                    Ok(self.urls.finish())
                }
            };
            match out {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Some(Ok(out.into())),
                Err(error) => {
                    self.over = true;
                    return Some(Err(error.into()));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        let uri = Uri::from_static("https://localhost:8001/api/v1/namespaces/d/pods/web/proxy/a/b");
        Place::new(&uri, "/a/b", "localhost:8001".to_owned(), "10.0.0.1:80")
    }

    #[test]
    fn links_of_the_backend_lead_through_the_proxy() {
        let prefix = "/api/v1/namespaces/d/pods/web/proxy";
        for (link, expected) in [
            ("/x", format!("{prefix}/x")),
            ("/x/?q=1#f", format!("{prefix}/x/?q=1#f")),
            ("http://10.0.0.1:80/x", format!("{prefix}/x")),
            ("//localhost:8001/x", format!("{prefix}/x")),
            (&format!("{prefix}/x"), format!("{prefix}/x")),
            ("x", "x".to_owned()),
            ("?q", "?q".to_owned()),
            ("http://example.com/x", "http://example.com/x".to_owned()),
            ("mailto:a@b", "mailto:a@b".to_owned()),
            ("javascript:a('/b')", "javascript:a('/b')".to_owned()),
        ] {
            assert_eq!(place().link(link), expected, "{link}");
        }
    }

    #[test]
    fn the_backend_is_told_the_clients_path() {
        let mut headers = HeaderMap::new();
        place().announce(&mut headers);
        assert_eq!(headers["x-forwarded-uri"], "/api/v1/namespaces/d/pods/web/proxy/a/b");
    }
}

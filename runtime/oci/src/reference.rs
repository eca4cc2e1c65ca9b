//! Names of images as people write them, and the whole name that each stands for.
//!
//! `hello` is `docker.io/library/hello:latest`. Source of the grammar: `github.com/distribution/reference`.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// Longest registry and repository together, in bytes.
pub const NAME_MAX_BYTES: usize = 255;
/// Longest tag, in bytes.
pub const TAG_MAX_BYTES: usize = 128;

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// A whole image name. With a digest, the tag is only a remark.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Host and, if named, port.
    pub registry: String,
    pub repository: String,
    /// None only where there is a digest.
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {name:?}: {why}")]
pub struct ParseError {
    name: String,
    why: &'static str,
}

impl Reference {
    /// `docker.io/library/hello`
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

/// The form that the index is keyed by: a digest, if there is one, takes the place of the tag.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "@{digest}"),
            (None, tag) => write!(f, ":{}", tag.as_deref().unwrap_or(DEFAULT_TAG)),
        }
    }
}

impl FromStr for Reference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let fail = |why| ParseError { name: text.to_owned(), why };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse::<Digest>().map_err(|_| fail("invalid digest (only sha256 is supported)"))?))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(fail("invalid reference format"));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((host, repository)) if is_host(host) => (host, repository.to_owned()),
            Some(_) => (DEFAULT_REGISTRY, name.to_owned()),
            None => (DEFAULT_REGISTRY, format!("library/{name}")),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if !is_repository(&repository) {
            let upper = repository.bytes().any(|byte| byte.is_ascii_uppercase());
            return Err(fail(if upper {
                "invalid reference format: repository name must be lowercase"
            } else {
                "invalid reference format"
            }));
        }
        if registry.len() + 1 + repository.len() > NAME_MAX_BYTES {
            return Err(fail("repository name must not be more than 255 characters"));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// True where the first part of a name is a registry and not part of a repository.
fn is_host(part: &str) -> bool {
    let (host, port) = match part.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port.strip_prefix(':')),
        None => part.split_once(':').map_or((part, None), |(host, port)| (host, Some(port))),
    };
    let plausible = !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':'))
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    plausible
        && (part == "localhost" || part.contains(['.', ':']) || part.bytes().any(|byte| byte.is_ascii_uppercase()))
}

/// `[a-z0-9]+` parts joined by `.`, `_`, `__` or dashes, and those joined by slashes.
pub fn is_repository(name: &str) -> bool {
    let is_component = |component: &str| {
        let bytes = component.as_bytes();
        let alnum = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let separators_are_good = component
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|run| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-'));
        bytes.first().copied().is_some_and(alnum) && bytes.last().copied().is_some_and(alnum) && separators_are_good
    };
    !name.is_empty() && name.len() <= NAME_MAX_BYTES && name.split('/').all(is_component)
}

pub fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_MAX_BYTES
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let digest = Digest::of(b"x");
        for (text, whole) in [
            ("hello", "docker.io/library/hello:latest".to_owned()),
            ("me/hello:v1", "docker.io/me/hello:v1".to_owned()),
            ("localhost/hello", "localhost/hello:latest".to_owned()),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1".to_owned()),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest".to_owned()),
            ("[::1]:5000/a", "[::1]:5000/a:latest".to_owned()),
            ("index.docker.io/library/a", "docker.io/library/a:latest".to_owned()),
            ("ghcr.io/x/y__z-a.b", "ghcr.io/x/y__z-a.b:latest".to_owned()),
            (&format!("hello:v1@{digest}"), format!("docker.io/library/hello@{digest}")),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), whole);
        }
    }

    #[test]
    fn malformed_names_are_refused() {
        let long = format!("a/{}", "b".repeat(NAME_MAX_BYTES));
        let long_tag = format!("a:{}", "b".repeat(TAG_MAX_BYTES + 1));
        for text in [
            "",
            ":v1",
            "Hello",
            "a//b",
            "a/",
            "/a",
            "a:",
            "a:b:c",
            "a b",
            "a@sha256:00",
            "a@",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "ghcr.io/",
            "a:.x",
            "../../etc",
            "ghcr.io/../x",
            &long,
            &long_tag,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}

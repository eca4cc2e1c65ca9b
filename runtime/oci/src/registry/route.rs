//! Reads a path below `/v2/`. Repository names have slashes in them, so no router's pattern can.

use http::Method;

use super::error::Error;
use crate::digest::Digest;
use crate::reference::{is_repository, is_tag};

/// What a path stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Catalog,
    Blob { name: String, digest: Digest },
    StartUpload { name: String },
    Upload { name: String, id: String },
    Manifest { name: String, reference: ManifestName },
    Tags { name: String },
    Referrers { name: String, digest: Digest },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ManifestName {
    Tag(String),
    Digest(Digest),
}

impl Target {
    /// `path` is what follows `/v2/`.
    pub(super) fn parse(method: &Method, path: &str) -> Result<Self, Error> {
        if path == "_catalog" {
            return Ok(Self::Catalog);
        }
        let name = |name: &str| if is_repository(name) { Ok(name.to_owned()) } else { Err(Error::NameInvalid) };
        let digest = |text: &str| text.parse::<Digest>().map_err(|error| Error::DigestInvalid(error.to_string()));
        if let Some(repository) = path.strip_suffix("/tags/list") {
            return Ok(Self::Tags { name: name(repository)? });
        }
        if let Some(repository) = path.strip_suffix("/blobs/uploads").or_else(|| path.strip_suffix("/blobs/uploads/")) {
            return Ok(Self::StartUpload { name: name(repository)? });
        }
        let (rest, last) = path.rsplit_once('/').ok_or(Error::NoSuchPath)?;
        if let Some(repository) = rest.strip_suffix("/blobs/uploads") {
            return Ok(Self::Upload { name: name(repository)?, id: last.to_owned() });
        }
        if let Some(repository) = rest.strip_suffix("/blobs") {
            return Ok(Self::Blob { name: name(repository)?, digest: digest(last)? });
        }
        if let Some(repository) = rest.strip_suffix("/referrers") {
            return Ok(Self::Referrers { name: name(repository)?, digest: digest(last)? });
        }
        let repository = rest.strip_suffix("/manifests").ok_or(Error::NoSuchPath)?;
        let reference = if last.contains(':') {
            ManifestName::Digest(digest(last)?)
        } else if is_tag(last) {
            ManifestName::Tag(last.to_owned())
        } else if matches!(*method, Method::GET | Method::HEAD) {
            return Err(Error::ManifestUnknown(last.to_owned()));
        } else {
            return Err(Error::NameInvalid);
        };
        Ok(Self::Manifest { name: name(repository)?, reference })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_slashes_and_telling_words_are_read() {
        let digest = Digest::of(b"x");
        let check =
            |path: &str, target: Target| assert_eq!(Target::parse(&Method::GET, path).unwrap(), target, "{path}");
        let manifest =
            |name: &str, tag: &str| Target::Manifest { name: name.into(), reference: ManifestName::Tag(tag.into()) };
        check("_catalog", Target::Catalog);
        check("a/b/c/manifests/v1", manifest("a/b/c", "v1"));
        check("blobs/manifests/manifests/tags", manifest("blobs/manifests", "tags"));
        check("a/tags/list", Target::Tags { name: "a".into() });
        check("a/blobs/uploads/", Target::StartUpload { name: "a".into() });
        check("a/blobs/uploads/id", Target::Upload { name: "a".into(), id: "id".into() });
        check(&format!("a/blobs/{digest}"), Target::Blob { name: "a".into(), digest: digest.clone() });
        check(&format!("a/referrers/{digest}"), Target::Referrers { name: "a".into(), digest });
    }

    #[test]
    fn hostile_paths_are_refused() {
        for path in [
            "",
            "a",
            "../x/manifests/v1",
            "a/../b/tags/list",
            "A/tags/list",
            "a/blobs/sha256:..",
            "a/blobs/../../etc",
            "a//manifests/v1",
            "a/manifests/",
        ] {
            assert!(Target::parse(&Method::GET, path).is_err(), "{path}");
        }
    }
}

//! Which representation a reply takes: the client's `Accept` against what is served.
//!
//! Source: `k8s.io/apiserver/pkg/endpoints/handlers/negotiation`. Protobuf is served for
//! objects and lists of built-in kinds, and for the metadata of all; Tables come as text, which clients list after it.

use http::{HeaderMap, header};
use wharf_machinery::protobuf;
use wharf_types::ApiError;

use crate::query::Query;

/// What a body can be sent as.
pub const SERVED: &[&str] = &["application/json", "application/yaml", protobuf::MEDIA_TYPE];
/// What a watch can be sent as.
pub const STREAMED: &[&str] = &["application/json;stream=watch", protobuf::STREAM_MEDIA_TYPE];

/// Longest `Accept` that is looked at, in clauses; what follows is ignored.
const CLAUSES_MAX: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

impl Encoding {
    pub fn content_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
            Encoding::Protobuf => protobuf::MEDIA_TYPE,
        }
    }
}

/// What an object is turned into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    #[default]
    Object,
    Table,
    /// `PartialObjectMetadata` for one object and in watches.
    Partial,
    /// `PartialObjectMetadataList` for lists.
    PartialList,
}

/// The versions of `meta.k8s.io`, which differ in what they are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Meta {
    #[default]
    V1,
    V1beta1,
}

impl Meta {
    pub fn api_version(self) -> &'static str {
        match self {
            Meta::V1 => "meta.k8s.io/v1",
            Meta::V1beta1 => "meta.k8s.io/v1beta1",
        }
    }

    fn parse(group: &str, version: &str) -> Option<Self> {
        match (group, version) {
            ("meta.k8s.io", "v1") => Some(Meta::V1),
            ("meta.k8s.io", "v1beta1") => Some(Meta::V1beta1),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub encoding: Encoding,
    pub form: Form,
    /// In which version of `meta.k8s.io` the form is written.
    pub meta: Meta,
    /// Indented, because the media type says so; see [`is_pretty`] for those that do not.
    pub pretty: bool,
}

/// Where the reply goes: not every representation fits everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Whole,
    Stream,
    /// Where nothing is to be transformed (`Scale`, `Status`, …): a wish for a Table is passed over for the next.
    Plain,
}

struct Clause {
    quality: f32,
    media_type: String,
    parameters: Vec<(String, String)>,
}

impl Clause {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next()?.to_ascii_lowercase();
        let (mut quality, mut parameters) = (1.0, Vec::new());
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key.trim() {
                "q" => quality = value.trim().parse().unwrap_or(1.0),
                key => parameters.push((key.to_owned(), value.trim().trim_matches('"').to_owned())),
            }
        }
        (!media_type.is_empty() && quality > 0.0).then_some(Self { quality, media_type, parameters })
    }

    fn parameter(&self, name: &str) -> &str {
        self.parameters.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Three ranks: exact types win over `type/*`, which win over `*/*`, at the same quality.
    fn specificity(&self) -> u8 {
        if self.media_type == "*/*" {
            0
        } else if self.media_type.ends_with("/*") {
            1
        } else {
            2
        }
    }

    fn accepted(&self, place: Place) -> Option<Accepted> {
        let encoding = match self.media_type.as_str() {
            "*/*" | "application/*" | "application/json" => Encoding::Json,
            "application/yaml" if place != Place::Stream => Encoding::Yaml,
            protobuf::MEDIA_TYPE if self.parameter("as") != "Table" => Encoding::Protobuf,
            _ => return None,
        };
        let pretty = self.parameter("pretty") == "1";
        let form = match self.parameter("as") {
            "" => return Some(Accepted { encoding, form: Form::Object, meta: Meta::V1, pretty }),
            _ if place == Place::Plain => return None,
            "Table" => Form::Table,
            "PartialObjectMetadata" => Form::Partial,
            "PartialObjectMetadataList" => Form::PartialList,
            _ => return None,
        };
        let meta = Meta::parse(self.parameter("g"), self.parameter("v"))?;
        Some(Accepted { encoding, form, meta, pretty })
    }
}

/// Chooses; 406 with what is served where nothing fits.
pub fn negotiate(headers: &HeaderMap, place: Place) -> Result<Accepted, ApiError> {
    let values: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if values.iter().all(|value| value.trim().is_empty()) {
        return Ok(Accepted { encoding: Encoding::Json, form: Form::Object, meta: Meta::V1, pretty: false });
    }
    let mut clauses: Vec<Clause> =
        values.iter().flat_map(|value| value.split(',')).take(CLAUSES_MAX).filter_map(Clause::parse).collect();
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(b.specificity().cmp(&a.specificity())));
    let served = if place == Place::Stream { STREAMED } else { SERVED };
    clauses.iter().find_map(|clause| clause.accepted(place)).ok_or_else(|| ApiError::not_acceptable(served))
}

/// Programs that people look at JSON with.
const PEOPLE: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

/// True where JSON is to be indented: as the query says, or else for programs that people read answers in. Source: `isPrettyPrint`.
pub fn is_pretty(headers: &HeaderMap, query: &Query) -> bool {
    let agent = || headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match query.get("pretty").filter(|text| !text.is_empty()) {
        Some(text) => matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True"),
        None => PEOPLE.iter().any(|program| agent().starts_with(program)),
    }
}

/// True where the client can unpack gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    let value = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(',').any(|coding| {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        name.trim() == "gzip" && !matches!(parameters.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, place: Place, expected: Option<(Encoding, Form)>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        let got = negotiate(&headers, place);
        assert_eq!(got.ok().map(|accepted| (accepted.encoding, accepted.form)), expected, "{accept}");
    }

    const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

    #[test]
    fn the_best_clause_wins() {
        use Encoding::{Json, Protobuf, Yaml};
        check("*/*", Place::Whole, Some((Json, Form::Object)));
        check("", Place::Whole, Some((Json, Form::Object)));
        check(KUBECTL, Place::Whole, Some((Json, Form::Table)));
        check(KUBECTL, Place::Plain, Some((Json, Form::Object)));
        let whole = Some((Protobuf, Form::Object));
        check("application/vnd.kubernetes.protobuf, application/json", Place::Whole, whole);
        check("application/json, application/vnd.kubernetes.protobuf", Place::Whole, Some((Json, Form::Object)));
        check("application/vnd.kubernetes.protobuf;stream=watch", Place::Stream, whole);
        check(
            "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            Place::Whole,
            Some((Protobuf, Form::Partial)),
        );
        check("application/json;q=0.5, application/yaml", Place::Whole, Some((Yaml, Form::Object)));
        check("*/*, application/yaml", Place::Whole, Some((Yaml, Form::Object)));
        check(
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            Place::Whole,
            Some((Json, Form::PartialList)),
        );
        check("application/json;stream=watch", Place::Stream, Some((Json, Form::Object)));
    }

    #[test]
    fn both_versions_of_metadata_are_served() {
        let meta = |accept: &str| {
            let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
            negotiate(&headers, Place::Whole).ok().map(|accepted| (accepted.form, accepted.meta.api_version()))
        };
        let table = |version: &str| format!("application/json;as=Table;v={version};g=meta.k8s.io");
        assert_eq!(meta(&table("v1")), Some((Form::Table, "meta.k8s.io/v1")));
        assert_eq!(meta(&table("v1beta1")), Some((Form::Table, "meta.k8s.io/v1beta1")));
        assert_eq!(meta(&table("v2")), None);
        assert_eq!(meta("application/json;as=Table;v=v1;g=example.com"), None);
        let both = format!("{},{}", table("v1beta1"), table("v1"));
        assert_eq!(meta(&both), Some((Form::Table, "meta.k8s.io/v1beta1")), "the first of equals");
    }

    #[test]
    fn what_is_not_served_is_refused_with_what_is() {
        check("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1", Place::Whole, None);
        check("application/yaml", Place::Stream, None);
        check("application/json;q=0", Place::Whole, None);
        check("application/json;as=Tree;g=meta.k8s.io;v=v1", Place::Whole, None);
    }
}

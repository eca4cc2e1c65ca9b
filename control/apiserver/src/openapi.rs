//! `/openapi/v2` and `/openapi/v3`: made from the table when somebody asks, kept until the table changes.
//!
//! A document is kept compressed, as nearly everyone wants it, for it takes megabytes otherwise. Version 2, which fewer clients
//! read, is made on its own, as JSON and as protobuf. Hashes name content, so a client's copy stays good across restarts.
//! Absent on purpose: version 3 as protobuf (a client that takes nothing else is told 406); schemas of custom resources
//! come with their rows.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use wharf_machinery::openapi::{self, Definitions, V2_PROTOBUF, V2_PROTOBUF_ACCEPTED};
use wharf_registry::{Row, Subresource};
use wharf_types::{ApiError, GroupVersion};

use crate::discovery;
use crate::nonresource;
use crate::reply::{self, Body};
use crate::verbs::delete::returns_deleted;

const JSON: &str = "application/json";
/// For a document asked for by its hash, which never changes.
const FOREVER: &str = "public, immutable, max-age=31536000";

/// The documents of a table.
#[derive(Default)]
pub struct Documents {
    current: Mutex<Option<Arc<Built>>>,
}

/// What was made of these rows.
struct Built {
    rows: Vec<Arc<Row>>,
    index: Document,
    /// The index before it is packed, for adding other servers' documents.
    paths: Value,
    /// By path below `/openapi/v3/`.
    v3: BTreeMap<String, Document>,
    /// Of these rows and of the other servers' documents that it was made with.
    v2: Mutex<Option<(Vec<Swagger>, Arc<Two>)>>,
}

/// Another server's document of version 2, and how the paths start that it speaks for.
pub type Swagger = (String, Arc<Value>);

/// What other servers say of their schemas.
#[derive(Default)]
pub struct Others {
    /// Of version 3: the path in the index, and the hash.
    pub indexed: Vec<(String, String)>,
    /// Of version 3, by path: made here for servers that publish version 2 alone.
    pub converted: BTreeMap<String, Converted>,
    pub swaggers: Vec<Swagger>,
}

/// Version 3 as it is published here for another server, made of its version 2.
#[derive(Clone, Debug)]
pub struct Converted(Document);

impl Converted {
    pub fn of(swagger: &Value) -> Self {
        Self(Document::json(&openapi::convert::v2_to_v3(swagger)))
    }

    pub fn from_v3(document: &Value) -> Self {
        Self(Document::json(document))
    }

    pub fn hash(&self) -> &str {
        &self.0.hash
    }
}

/// Version 2 in both of its forms.
struct Two {
    json: Document,
    protobuf: Document,
}

#[derive(Clone, Debug)]
struct Document {
    content_type: &'static str,
    packed: Bytes,
    hash: String,
}

impl Document {
    fn json(value: &Value) -> Self {
        Self::new(JSON, value.to_string().as_bytes())
    }

    fn new(content_type: &'static str, bytes: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 8), Compression::default());
        // Writing to memory cannot fail.
        let packed = encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes all bytes");
        Self { content_type, packed: packed.into(), hash: openapi::hash(bytes) }
    }

    fn reply(&self, headers: &HeaderMap) -> Response<Body> {
        if let Some(unchanged) = nonresource::unchanged(&self.hash, headers) {
            return unchanged;
        }
        let mut response = if nonresource::reads_gzip(headers) {
            let mut response = reply::bytes(StatusCode::OK, self.content_type, self.packed.clone());
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        } else {
            let mut bytes = Vec::new();
            // What was packed here unpacks.
            GzDecoder::new(&*self.packed).read_to_end(&mut bytes).expect("packed bytes unpack");
            reply::bytes(StatusCode::OK, self.content_type, bytes)
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, nonresource::entity_tag(&self.hash));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Accept"));
        response
    }
}

impl Documents {
    /// Answers `/openapi/REST`; none where there is no such document.
    pub async fn answer(
        &self,
        rows: Vec<Arc<Row>>,
        others: Others,
        rest: &[&str],
        request: &Parts,
    ) -> Result<Option<Response<Body>>, ApiError> {
        if !matches!(rest, ["v2"] | ["v3", ..]) {
            return Ok(None);
        }
        let Some(form) = Form::accepted(&request.headers, rest == ["v2"]) else {
            return Err(ApiError::not_acceptable(&[JSON]));
        };
        let built = self.built(rows).await?;
        let document = match rest {
            ["v2"] => {
                let both = built.v2(others.swaggers).await?;
                let document = if form == Form::Protobuf { &both.protobuf } else { &both.json };
                return Ok(Some(document.reply(&request.headers)));
            }
            ["v3"] if !others.indexed.is_empty() => {
                let index = Document::json(&with_others(built.paths.clone(), &others.indexed));
                return Ok(Some(index.reply(&request.headers)));
            }
            ["v3"] => &built.index,
            [_, path @ ..] => {
                let path = path.join("/");
                let made = || others.converted.get(&path).map(|Converted(document)| document);
                return Ok(built.v3.get(&path).or_else(made).map(|document| by_hash(document, request)));
            }
            [] => return Ok(None),
        };
        Ok(Some(document.reply(&request.headers)))
    }

    async fn built(&self, rows: Vec<Arc<Row>>) -> Result<Arc<Built>, ApiError> {
        let mut current = self.current.lock().await;
        if let Some(built) = current.as_ref().filter(|built| same(&built.rows, &rows)) {
            return Ok(built.clone());
        }
        let built = Arc::new(tokio::task::spawn_blocking(move || build(rows)).await.map_err(ApiError::internal)?);
        *current = Some(built.clone());
        Ok(built)
    }
}

impl Built {
    async fn v2(&self, swaggers: Vec<Swagger>) -> Result<Arc<Two>, ApiError> {
        let mut held = self.v2.lock().await;
        if let Some((_, both)) = held.as_ref().filter(|(made_with, _)| same_swaggers(made_with, &swaggers)) {
            return Ok(both.clone());
        }
        let (resources, definitions) = (resources(&self.rows), definitions(&self.rows, true));
        let with = swaggers.clone();
        let made = tokio::task::spawn_blocking(move || {
            let mut document = openapi::v2(&resources, &definitions);
            with.iter().for_each(|(prefix, other)| openapi::merge_v2(&mut document, other, prefix));
            let protobuf = Document::new(V2_PROTOBUF, &openapi::v2_protobuf(&document));
            Arc::new(Two { json: Document::json(&document), protobuf })
        });
        let made = made.await.map_err(ApiError::internal)?;
        *held = Some((swaggers, made.clone()));
        Ok(made)
    }
}

/// True for the very same rows: a row that changes is another one.
fn same(a: &[Arc<Row>], b: &[Arc<Row>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn same_swaggers(a: &[Swagger], b: &[Swagger]) -> bool {
    let same = |((a_prefix, a), (b_prefix, b)): (&Swagger, &Swagger)| a_prefix == b_prefix && Arc::ptr_eq(a, b);
    a.len() == b.len() && a.iter().zip(b).all(same)
}

fn build(rows: Vec<Arc<Row>>) -> Built {
    let (resources, definitions) = (resources(&rows), definitions(&rows, false));
    let groups = discovery::groups(&rows);
    let versions: Vec<&GroupVersion> =
        groups.iter().flat_map(|group| &group.versions).map(|version| &version.group_version).collect();
    let of_versions = versions
        .iter()
        .map(|version| (openapi::v3_path(version), openapi::v3(version, &resources, &definitions)))
        .chain(openapi::v3_others(&resources, &definitions));
    let v3: BTreeMap<String, Document> =
        of_versions.map(|(path, document)| (path, Document::json(&document))).collect();
    let index = openapi::v3_index(v3.iter().map(|(path, held)| (path.as_str(), held.hash.as_str())));
    let paths = index;
    let index = Document::json(&paths);
    Built { rows, index, paths, v3, v2: Mutex::default() }
}

/// The index with other servers' documents, by path and hash.
fn with_others(mut index: Value, others: &[(String, String)]) -> Value {
    for (path, hash) in others {
        index["paths"][path] = json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")});
    }
    index
}

/// A document asked for by its hash may be kept for good; one asked for by another has moved.
fn by_hash(document: &Document, request: &Parts) -> Response<Body> {
    let query = request.uri.query().unwrap_or_default();
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("hash=")).filter(|hash| !hash.is_empty());
    match asked {
        Some(hash) if hash != document.hash => {
            let mut response = reply::bytes(StatusCode::MOVED_PERMANENTLY, "text/plain; charset=utf-8", Bytes::new());
            let location = format!("{}?hash={}", request.uri.path(), document.hash);
            if let Ok(location) = HeaderValue::from_str(&location) {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
        asked => {
            let mut response = document.reply(&request.headers);
            if asked.is_some() {
                response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(FOREVER));
            }
            response
        }
    }
}

/// The form of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Protobuf,
}

impl Form {
    /// The first that the client takes and the document has.
    fn accepted(headers: &HeaderMap, protobuf: bool) -> Option<Self> {
        if !headers.contains_key(header::ACCEPT) {
            return Some(Form::Json);
        }
        let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut media =
            accepted.flat_map(|value| value.split(',')).map(|clause| clause.split(';').next().unwrap_or_default());
        media.find_map(|media| match media.trim() {
            JSON | "application/*" | "*/*" | "" => Some(Form::Json),
            media if protobuf && V2_PROTOBUF_ACCEPTED.contains(&media) => Some(Form::Protobuf),
            _ => None,
        })
    }
}

fn resources(rows: &[Arc<Row>]) -> Vec<openapi::Resource> {
    rows.iter().map(|row| resource(row)).collect()
}

/// Schemas of the kinds that are not built in.
fn definitions(rows: &[Arc<Row>], v2: bool) -> Definitions {
    rows.iter().filter_map(|row| Some((row.kind.schema_name(), row.kind.definition(v2)?))).collect()
}

fn resource(row: &Row) -> openapi::Resource {
    openapi::Resource {
        gvr: row.gvr.clone(),
        gvk: row.gvk.clone(),
        namespaced: row.namespaced(),
        verbs: discovery::verbs(row, None),
        schema: row.kind.schema_name(),
        returns_deleted: returns_deleted(&row.gvr),
        subresources: discovery::subresources(row).into_iter().map(|which| subresource(row, which)).collect(),
    }
}

fn subresource(row: &Row, which: Subresource) -> openapi::Subresource {
    let (gvk, verbs) = (discovery::kind(row, which), discovery::verbs(row, Some(which)));
    let (verbs, body) = match which {
        Subresource::Exec | Subresource::Attach | Subresource::PortForward | Subresource::Proxy => {
            (vec!["connect"], None)
        }
        Subresource::Log => (verbs, None),
        _ => {
            let schema = if gvk == row.gvk { row.kind.schema_name() } else { wharf_machinery::schema::type_name(&gvk) };
            (verbs, Some((gvk, schema)))
        }
    };
    openapi::Subresource { name: which.name().to_owned(), verbs, body }
}

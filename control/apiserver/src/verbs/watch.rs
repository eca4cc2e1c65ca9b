//! WATCH: the cache's frames, as they come, for as long as was asked.
//!
//! A frame is encoded once and shared by everyone who watches; Tables and metadata are made once for each form.
//! Once a watch is let in, what goes wrong is told as an ERROR event, as upstream does. Over a websocket each frame is a message
//! ([`crate::connect`] sees to that).

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rand::Rng;
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep};
use wharf_cache::{Delivery, EventType, Item, Start, Watch};
use wharf_machinery::protobuf;
use wharf_store::Revision;
use wharf_types::ApiError;

use crate::call::Call;
use crate::negotiate::{self, Encoding, Form, Place};
use crate::options::{ListOptions, Version};
use crate::reply::{self, Body, BoxError, Reply};
use crate::table::{self, Include};
use crate::verbs::list;
use crate::versions;

/// How long a watch lasts that does not say, at least and at most: upstream's `--min-request-timeout`.
const LASTS_S: std::ops::Range<u64> = 1800..3600;
/// How often a watch that asks for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

pub async fn watch(call: &Call) -> Result<Reply, ApiError> {
    let options = ListOptions::parse(&call.query, &call.row, true)?;
    let accepted = negotiate::negotiate(&call.headers, Place::Stream)?;
    let as_metadata = accepted.form == Form::Partial;
    let form = match accepted.form {
        Form::Object => Shape::Object,
        Form::Partial => Shape::Partial,
        Form::Table => Shape::Table { include: Include::parse(&call.query)?, started: false },
        Form::PartialList => return Err(ApiError::not_acceptable(negotiate::STREAMED)),
    };
    let filter = list::filter(call, &options)?;
    let start = start(&options);
    if start == Start::InitialEvents {
        list::not_older_than(call, options.version).await?;
    }
    let watch = call.collection.watch(start, filter).map_err(list::cache_error)?;
    let seconds = options.timeout_seconds.unwrap_or_else(|| rand::rng().random_range(LASTS_S));
    let stream = Stream {
        watch,
        row: call.row.clone(),
        clock: call.server.clock.clone(),
        shape: form,
        protobuf: accepted.encoding == Encoding::Protobuf && (as_metadata || protobuf::knows(&call.row.gvk)),
        bookmarks: options.allow_bookmarks,
        marks_initial_end: options.send_initial_events == Some(true),
        tick: ticks(),
        deadline: Box::pin(tokio::time::sleep(Duration::from_secs(seconds))),
        over: false,
    };
    Ok(Reply::Stream(response(stream)))
}

fn start(options: &ListOptions) -> Start {
    match (options.send_initial_events, options.version) {
        (Some(true), _) | (None, Version::Unset | Version::Any) => Start::InitialEvents,
        (Some(false), Version::Unset | Version::Any) => Start::Now,
        (_, Version::At(revision)) => Start::After(revision),
    }
}

fn ticks() -> Interval {
    let mut tick = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

fn response(stream: Stream) -> Response<Body> {
    let content_type = if stream.protobuf { protobuf::STREAM_MEDIA_TYPE } else { "application/json" };
    let frames = futures::stream::unfold(stream, |mut stream| async move {
        let frame = stream.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(frame)), stream))
    });
    let mut response = Response::new(StreamBody::new(frames.boxed()).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// What each object is sent as.
enum Shape {
    Object,
    Partial,
    /// The first Table carries the columns, the others none.
    Table {
        include: Include,
        started: bool,
    },
}

struct Stream {
    watch: Watch,
    row: std::sync::Arc<wharf_registry::Row>,
    clock: crate::server::Clock,
    shape: Shape,
    /// Frames are protobuf: objects as they are, or their metadata.
    protobuf: bool,
    bookmarks: bool,
    marks_initial_end: bool,
    tick: Interval,
    deadline: Pin<Box<Sleep>>,
    over: bool,
}

impl Stream {
    /// The next frame; none when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.over {
            let item = tokio::select! {
                biased;
                () = &mut self.deadline => {
                    self.over = true;
                    return self.bookmark_now();
                }
                item = self.watch.next() => item?,
                _ = self.tick.tick(), if self.bookmarks => match self.bookmark_now() {
                    Some(frame) => return Some(frame),
                    None => continue,
                },
            };
            match item {
                Ok(Item::Event(delivery)) => match versions::delivered(&self.row, delivery).await {
                    Ok(delivery) => return Some(self.frame(&delivery)),
                    Err(error) => {
                        self.over = true;
                        return Some(self.in_encoding(error_frame(&error)));
                    }
                },
                Ok(Item::InitialEventsEnd(revision)) if self.bookmarks && self.marks_initial_end => {
                    return Some(self.bookmark(revision, true));
                }
                Ok(Item::InitialEventsEnd(_)) => {}
                Err(error) => {
                    self.over = true;
                    return Some(self.in_encoding(error_frame(&list::cache_error(error))));
                }
            }
        }
        None
    }

    fn frame(&mut self, delivery: &Delivery) -> Bytes {
        let object = &delivery.entry.bytes;
        match &mut self.shape {
            Shape::Object if self.protobuf => delivery.encoded(FORMAT_PROTOBUF, || protobuf_frame(&delivery.frame())),
            Shape::Object => delivery.frame(),
            Shape::Partial => {
                let make = || wrap(delivery.kind.as_str(), |out| reply::write_partial(out, object));
                match self.protobuf {
                    true => delivery.encoded(FORMAT_PARTIAL_PROTOBUF, || protobuf_frame(&make())),
                    false => delivery.encoded(FORMAT_PARTIAL, make),
                }
            }
            Shape::Table { include, started } => {
                let (include, first) = (*include, !std::mem::replace(started, true));
                let now = (self.clock)();
                let make =
                    || table_frame(delivery.kind, &self.row, include, first, now, object, delivery.entry.revision);
                if first { make() } else { delivery.encoded(format_of(include), make) }
            }
        }
    }

    /// A bookmark of how far the watch has come, if it wants any and has come anywhere.
    fn bookmark_now(&mut self) -> Option<Bytes> {
        let revision = self.watch.progress();
        (self.bookmarks && revision > Revision(0)).then(|| self.bookmark(revision, false))
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> Bytes {
        let annotations = if initial_end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
        let meta = format!(r#""metadata":{{"resourceVersion":"{revision}","creationTimestamp":null{annotations}}}"#);
        let (kind, api_version) = match self.shape {
            Shape::Object => (self.row.gvk.kind.to_string(), self.row.gvk.group_version().to_string()),
            Shape::Partial => ("PartialObjectMetadata".to_owned(), "meta.k8s.io/v1".to_owned()),
            Shape::Table { .. } => ("Table".to_owned(), "meta.k8s.io/v1".to_owned()),
        };
        let rest =
            if matches!(self.shape, Shape::Table { .. }) { r#","columnDefinitions":null,"rows":[]"# } else { "" };
        let object = format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}",{meta}{rest}}}"#);
        self.in_encoding(format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n").into())
    }

    fn in_encoding(&self, frame: Bytes) -> Bytes {
        if self.protobuf { protobuf_frame(&frame) } else { frame }
    }
}

/// Forms of a frame beside the object's own, as [`Delivery::encoded`] tells them apart.
const FORMAT_PARTIAL: u8 = 1;
const FORMAT_PROTOBUF: u8 = 5;
const FORMAT_PARTIAL_PROTOBUF: u8 = 6;

fn format_of(include: Include) -> u8 {
    match include {
        Include::None => 2,
        Include::Metadata => 3,
        Include::Object => 4,
    }
}

#[derive(serde::Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    object: serde_json::Value,
}

/// A frame of JSON as one of protobuf; that of an error where the object cannot be written.
fn protobuf_frame(json: &[u8]) -> Bytes {
    let encode = |json: &[u8]| -> Result<Vec<u8>, ApiError> {
        let event: Event<'_> = serde_json::from_slice(json).map_err(ApiError::internal)?;
        let object = protobuf::encode_object(&event.object).map_err(ApiError::internal)?;
        protobuf::frame(event.kind, &object).map_err(ApiError::internal)
    };
    encode(json).or_else(|error| encode(&error_frame(&error))).unwrap_or_default().into()
}

fn table_frame(
    kind: EventType,
    row: &wharf_registry::Row,
    include: Include,
    first: bool,
    now: jiff::Timestamp,
    object: &[u8],
    revision: Revision,
) -> Bytes {
    wrap(kind.as_str(), |out| {
        table::head(out, &table::ListMeta { revision: &revision.to_string(), ..Default::default() });
        if first {
            table::columns(out, row);
        } else {
            out.extend_from_slice(br#","columnDefinitions":null"#);
        }
        table::rows(out, row, include, now, [object])?;
        out.push(b'}');
        Ok(())
    })
}

/// `{"type":…,"object":…}\n`; an ERROR event where the object cannot be written.
fn wrap(kind: &str, object: impl FnOnce(&mut Vec<u8>) -> Result<(), ApiError>) -> Bytes {
    let mut out = format!(r#"{{"type":"{kind}","object":"#).into_bytes();
    match object(&mut out) {
        Ok(()) => {
            out.extend_from_slice(b"}\n");
            out.into()
        }
        Err(error) => error_frame(&error),
    }
}

fn error_frame(error: &ApiError) -> Bytes {
    let status = serde_json::to_string(&error.status()).expect("a Status serialises to JSON");
    format!("{{\"type\":\"ERROR\",\"object\":{status}}}\n").into()
}

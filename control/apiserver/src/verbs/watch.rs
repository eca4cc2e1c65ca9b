//! WATCH: the cache's frames, as they come, for as long as was asked.
//!
//! A frame is encoded once and shared by everyone who watches; Tables and metadata are made once for each form. What waits for a
//! watcher when it is looked at goes out together.
//! Once a watch is let in, what goes wrong is told as an ERROR event, as upstream does. Over a websocket each frame is a message
//! ([`crate::connect`] sees to that).

mod alarm;
mod frames;
mod piece;

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Response, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use rand::Rng;
use wharf_cache::{Delivery, Item, Start, Watch};
use wharf_machinery::selector::FieldSelector;
use wharf_store::Revision;
use wharf_types::ApiError;

use self::alarm::{Alarm, Due};
use self::frames::{Frames, Shape};
use self::piece::Piece;
use crate::call::Call;
use crate::connect::websocket;
use crate::negotiate::{self, Form, Place};
use crate::options::{ListOptions, Version};
use crate::reply::{Body, BoxError, Reply};
use crate::table::Include;
use crate::verbs::list;
use crate::versions;

/// How long a watch lasts that does not say, at least and at most: upstream's `--min-request-timeout`.
const LASTS_S: std::ops::Range<u64> = 1800..3600;
/// Once a piece of a watch's body is as long as this, no further frame is added to it.
const PIECE_BYTES: usize = 16 << 10;

pub async fn watch(call: &Call) -> Result<Reply, ApiError> {
    let options = ListOptions::parse(&call.query, &call.row, true)?;
    let accepted = negotiate::negotiate(&call.headers, Place::Stream)?;
    let shape = match accepted.form {
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
    let alarm = Alarm::new(Duration::from_secs(seconds), options.allow_bookmarks);
    let stream = Stream {
        watch,
        late: list::late(call, &options),
        frames: Frames::new(call, shape, &accepted),
        bookmarks: options.allow_bookmarks,
        marks_initial_end: options.send_initial_events == Some(true),
        // There, each piece becomes a message.
        gathers: !websocket::asks(&call.headers),
        converting: None,
        alarm,
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

fn response(stream: Stream) -> Response<Body> {
    let content_type = stream.frames.content_type();
    let mut response = Response::new(stream.boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

struct Stream {
    watch: Watch,
    /// What of the selection only the row's version of an object decides.
    late: Option<FieldSelector>,
    frames: Frames,
    bookmarks: bool,
    marks_initial_end: bool,
    /// Frames that are there together may go out in one piece.
    gathers: bool,
    /// An event whose object is being put into the row's version.
    converting: Option<BoxFuture<'static, Result<Option<Delivery>, ApiError>>>,
    alarm: Alarm,
    over: bool,
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut piece = Piece::default();
        while !self.over
            && let Poll::Ready(due) = self.alarm.poll(context)
        {
            piece.extend(self.bookmark_now());
            self.over = matches!(due, Due::End);
        }
        let enough = if self.gathers { PIECE_BYTES } else { 1 };
        while !self.over && piece.length < enough {
            match self.poll_next(context) {
                Poll::Ready(frame) => piece.extend(frame),
                Poll::Pending => break,
            }
        }
        match piece.whole() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None if self.over => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}

impl Stream {
    /// The next frame; none where nothing is to be said, or the watch is over.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(converting) = &mut self.converting {
            let converted = ready!(converting.as_mut().poll(context));
            self.converting = None;
            return Poll::Ready(match converted {
                Ok(chosen) => chosen.map(|delivery| self.frames.frame(&delivery)),
                Err(error) => Some(self.fail(&error)),
            });
        }
        Poll::Ready(match ready!(self.watch.poll_next(context)) {
            Some(Ok(Item::Event(delivery))) if self.shows_as_stored(&delivery) => Some(self.frames.frame(&delivery)),
            Some(Ok(Item::Event(delivery))) => {
                let (row, late) = (self.frames.row().clone(), self.late.clone());
                let chosen = async move { versions::chosen(&row, delivery, late.as_ref()).await };
                self.converting = Some(Box::pin(chosen));
                None
            }
            Some(Ok(Item::InitialEventsEnd(revision))) => {
                (self.bookmarks && self.marks_initial_end).then(|| self.frames.bookmark(revision, true))
            }
            Some(Err(error)) => Some(self.fail(&list::cache_error(error))),
            None => {
                self.over = true;
                None
            }
        })
    }

    /// True where the event is the watcher's, as the cache has it.
    fn shows_as_stored(&self, delivery: &Delivery) -> bool {
        self.late.is_none() && versions::delivers_as_stored(self.frames.row(), delivery)
    }

    /// The last frame.
    fn fail(&mut self, error: &ApiError) -> Bytes {
        self.over = true;
        self.frames.error(error)
    }

    /// A bookmark of how far the watch has come, if it wants any and has come anywhere.
    fn bookmark_now(&mut self) -> Option<Bytes> {
        // The watch counts what is being converted as seen; its client has not seen it.
        if !self.bookmarks || self.converting.is_some() {
            return None;
        }
        let revision = self.watch.progress();
        (revision > Revision(0)).then(|| self.frames.bookmark(revision, false))
    }
}

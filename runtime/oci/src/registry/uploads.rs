//! Blob uploads under way.
//!
//! An upload is a temporary file and a running digest; it ends with the right digest, or leaves nothing. Uploads that
//! nobody touches for a while are dropped when room is needed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::error::Error;
use crate::digest::Digest;
use crate::import::MODULE_MAX_BYTES;
use crate::store::{Pin, Store, Writer};

/// Uploads under way at once.
pub const UPLOADS_MAX: usize = 64;
/// After this long without a request an upload may be dropped.
pub const UPLOAD_IDLE: Duration = Duration::from_secs(600);
/// Longest wait for the next bytes of a body.
pub const BODY_DEADLINE: Duration = Duration::from_secs(60);

struct Upload {
    repository: String,
    touched: Instant,
    /// Taken while a request writes; none then.
    writer: Option<Writer>,
}

#[derive(Default)]
pub(super) struct Uploads {
    by_id: Mutex<HashMap<Uuid, Upload>>,
}

impl Uploads {
    pub(super) fn start(&self, store: &Store, repository: &str) -> Result<Uuid, Error> {
        let mut uploads = self.by_id.lock();
        if uploads.len() >= UPLOADS_MAX {
            uploads.retain(|_, upload| upload.touched.elapsed() < UPLOAD_IDLE);
        }
        if uploads.len() >= UPLOADS_MAX {
            return Err(Error::TooMany);
        }
        let id = Uuid::new_v4();
        let writer = Some(store.blobs().writer(MODULE_MAX_BYTES)?);
        uploads.insert(id, Upload { repository: repository.to_owned(), touched: Instant::now(), writer });
        Ok(id)
    }

    /// Bytes received so far.
    pub(super) fn written(&self, repository: &str, id: &str) -> Result<u64, Error> {
        let id: Uuid = id.parse().map_err(|_| Error::UploadUnknown)?;
        let uploads = self.by_id.lock();
        let upload = uploads.get(&id).filter(|upload| upload.repository == repository).ok_or(Error::UploadUnknown)?;
        Ok(upload.writer.as_ref().map_or(0, Writer::written))
    }

    pub(super) fn cancel(&self, repository: &str, id: &str) -> Result<(), Error> {
        self.written(repository, id)?;
        let id: Uuid = id.parse().map_err(|_| Error::UploadUnknown)?;
        self.by_id.lock().remove(&id).map(drop).ok_or(Error::UploadUnknown)
    }

    /// Appends a body; returns the bytes received in all. A body that breaks off ends the upload.
    pub(super) async fn append(&self, repository: &str, id: &str, at: Option<u64>, body: Body) -> Result<u64, Error> {
        let (id, mut writer) = self.take(repository, id, at)?;
        match receive(&mut writer, body).await {
            Ok(()) => {
                let written = writer.written();
                if let Some(upload) = self.by_id.lock().get_mut(&id) {
                    upload.writer = Some(writer);
                    upload.touched = Instant::now();
                }
                Ok(written)
            }
            Err(error) => {
                self.by_id.lock().remove(&id);
                Err(error)
            }
        }
    }

    /// Appends a last body and gives the blob its name.
    pub(super) async fn finish(
        &self,
        store: &Arc<Store>,
        (repository, id): (&str, &str),
        at: Option<u64>,
        body: Body,
        digest: &Digest,
    ) -> Result<Pin, Error> {
        let (id, mut writer) = self.take(repository, id, at)?;
        let received = receive(&mut writer, body).await;
        self.by_id.lock().remove(&id);
        received?;
        let pin = store.pin(digest);
        store.blobs().finish(writer, Some(digest)).await?;
        Ok(pin)
    }

    fn take(&self, repository: &str, id: &str, at: Option<u64>) -> Result<(Uuid, Writer), Error> {
        let id: Uuid = id.parse().map_err(|_| Error::UploadUnknown)?;
        let mut uploads = self.by_id.lock();
        let upload =
            uploads.get_mut(&id).filter(|upload| upload.repository == repository).ok_or(Error::UploadUnknown)?;
        let Some(writer) = upload.writer.as_ref() else {
            return Err(Error::UploadInvalid("another request is writing to it".to_owned()));
        };
        if at.is_some_and(|at| at != writer.written()) {
            return Err(Error::OutOfOrder);
        }
        upload.touched = Instant::now();
        upload.writer.take().map(|writer| (id, writer)).ok_or(Error::UploadUnknown)
    }
}

async fn receive(writer: &mut Writer, body: Body) -> Result<(), Error> {
    let mut stream = body.into_data_stream();
    let slow = |_| Error::UploadInvalid("the body stalled".to_owned());
    while let Some(bytes) = timeout(BODY_DEADLINE, stream.next()).await.map_err(slow)? {
        let bytes = bytes.map_err(|error| Error::UploadInvalid(format!("the body broke off: {error}")))?;
        writer.write(&bytes).await?;
    }
    Ok(())
}

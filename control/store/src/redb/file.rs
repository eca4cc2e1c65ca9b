//! Makes the file, opens it, and checks that it is one of ours.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use ::redb::{Builder, Database, DatabaseError, ReadableDatabase, TableError};

use super::format::{FORMAT, FORMAT_KEY, INDEX, LOG, META};
use super::writer::{Mark, read_mark};
use super::{Options, failed};
use crate::{Error, Result, Revision};

/// Only the owner reads the cluster's secrets.
const FILE_MODE: u32 = 0o600;

/// Opens the store's file, which is made if need be.
pub fn open(path: &Path, options: Options) -> Result<(Database, Mark)> {
    make(path, options)?;
    let database = open_file(path, options)?;
    let mark = prepare(&database, path)?;
    Ok((database, mark))
}

/// Opens or makes a redb file.
fn open_file(path: &Path, options: Options) -> Result<Database> {
    let database = Builder::new()
        .set_cache_size(options.cache_bytes)
        .set_repair_callback(|session| {
            tracing::info!(progress = session.progress(), "checking the store after a crash")
        })
        .create(path);
    database.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => Error::InUse { path: path.display().to_string() },
        error => failed("open the store")(error),
    })
}

/// Sees to it that there is a whole file, readable by its owner only. A new one is made under another name and gets its
/// own when it is complete, so that a crash on the way leaves nothing that cannot be opened.
fn make(path: &Path, options: Options) -> Result<()> {
    let io = |source: std::io::Error| Error::Backend { operation: "make the store's file", source: source.into() };
    if path.try_exists().map_err(io)? {
        return fs::set_permissions(path, Permissions::from_mode(FILE_MODE)).map_err(io);
    }
    let new = path.with_added_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&new).map_err(io)?;
    let database = open_file(&new, options)?;
    prepare(&database, &new)?;
    drop(database);
    // Unlike a rename, a link does not replace what another process may have made meanwhile.
    match fs::hard_link(&new, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(io(error)),
        _ => fs::remove_file(&new).map_err(io)?,
    }
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(folder) => File::open(folder).and_then(|folder| folder.sync_all()).map_err(io),
        None => Ok(()),
    }
}

/// Checks the format, or lays it out in a new file.
fn prepare(database: &Database, path: &Path) -> Result<Mark> {
    let transaction = database.begin_read().map_err(failed("read the format"))?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => return lay_out(database),
        Err(error) => return Err(failed("open meta")(error)),
    };
    let found = meta.get(FORMAT_KEY).map_err(failed("read meta"))?.map_or(0, |format| format.value());
    if found != FORMAT {
        return Err(Error::Format { path: path.display().to_string(), found, supported: FORMAT });
    }
    read_mark(&meta)
}

fn lay_out(database: &Database) -> Result<Mark> {
    let transaction = database.begin_write().map_err(failed("lay out the file"))?;
    transaction.open_table(INDEX).map_err(failed("open the index"))?;
    transaction.open_table(LOG).map_err(failed("open the log"))?;
    let mut meta = transaction.open_table(META).map_err(failed("open meta"))?;
    meta.insert(FORMAT_KEY, FORMAT).map_err(failed("write meta"))?;
    drop(meta);
    transaction.commit().map_err(failed("lay out the file"))?;
    Ok(Mark { revision: Revision(0), compacted: Revision(0), history_bytes: 0 })
}

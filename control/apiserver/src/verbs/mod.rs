//! The verbs, each written once over the resource table.

pub mod create;
pub mod delete;
pub mod delete_collection;
pub mod get;
pub mod list;
pub mod page;
pub mod patch;
pub mod update;
pub mod watch;
pub mod write;

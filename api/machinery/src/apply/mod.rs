//! Server-side apply: documents under a schema, sets of fields, and who owns which.
//!
//! A port of the mechanism of structured-merge-diff v6 and of `apimachinery/pkg/util/managedfields`. [`schema::Root`] is the
//! seam for kinds; [`Tracker`] is what the verbs call. Documents are [`crate::tree::Value`]s, which borrow their text.
//! Absent on purpose: conversion between versions (a field set of another served version is taken as it is).

mod compare;
pub mod conflict;
mod managers;
mod merge;
mod path;
mod reconcile;
pub mod schema;
mod set;
pub mod text;
mod tracker;
mod updater;
mod validate;

pub use compare::{Comparison, compare};
pub use managers::{Held, Id, Managers, Operation, Sent, UPDATE_MANAGERS_MAX};
pub use merge::{merge, without};
pub use path::{Element, Number, Path, Scalar};
pub use schema::Root;
pub use set::Set;
pub use tracker::{Applied, LAST_APPLIED, Tracker};
pub use updater::{Error, Filter, Updater};
pub use validate::{atomics, go_value, validate};

/// Every field that a document mentions.
pub fn fields(value: &crate::tree::Value<'_>, root: &Root) -> Result<Set, String> {
    set::mentioned(value, root.get())
}

#[cfg(test)]
mod tests;

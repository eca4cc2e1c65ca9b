//! The resource table: one [`Row`] and one strategy file for each kind.
//!
//! The verbs in `apiserver` are written once over [`Kind`]; a strategy says only what differs by kind. Rows of built-in kinds
//! stand in [`builtin`]; rows of custom resources join the [`Table`] at run time.
//! Absent on purpose: I/O. Strategies are pure; what must allocate or look at other objects happens in `apiserver`.

mod admission;
pub mod builtin;
mod checks;
mod convert;
pub mod custom;
pub mod flowcontrol;
mod kind;
mod kinds;
pub mod meta;
mod network;
mod podspec;
mod quantity;
mod row;
pub mod strategy;
#[cfg(test)]
mod testing;
mod text;
mod wire;

/// What a CustomResourceDefinition must hold, for who keeps them.
pub mod definitions {
    pub use crate::kinds::crd::{CLEANUP, has_condition, is_protected, set_condition};
}

pub use convert::{Convert, ConvertError, Converted, Edit, Mapped, between, ordered};
pub use kind::{DecodeError, Kind, Typed};
pub use kinds::priorityclass::{SYSTEM_CLASSES, SystemClass};
pub use podspec::defaults::pull_policy;
pub use row::{Row, Scope, Subresource, Table};
pub use strategy::{Asked, Column, FieldPaths, Graceful, Scale, Strategy};

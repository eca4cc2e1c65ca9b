//! CEL, the Common Expression Language, as Kubernetes uses it.
//!
//! ```
//! use wharf_machinery::cel::{Budget, Program, Variables};
//! let program = Program::compile("object.spec.replicas <= 5 && !has(object.spec.paused)").unwrap();
//! let object = serde_json::json!({"spec": {"replicas": 3}});
//! let variables = Variables::default().json("object", &object);
//! assert_eq!(program.is_true(&variables, &mut Budget::admission()), Ok(true));
//! ```
//!
//! [`Program::compile`] parses once; [`Program::evaluate`] runs on [`Variables`] and pays from a [`Budget`]. JSON is read where it
//! lies: binding a large object costs nothing. What is not JSON is bound as an [`Object`] of one's own: an authorizer, variables
//! that are computed when they are asked for.
//!
//! [`Env`] declares the types of variables: [`Env::compile`] refuses what could not run, and tells what it may cost.
//!
//! The grammar and the macros are the parser's of the crate `cel`, the libraries (strings, lists, regex, url, ip, cidr, quantity,
//! semver, format, sets, math, …) those of `kube-cel`. The evaluator is our own: it counts its steps, and it reads JSON in place.
//! Invariants: evaluation ends, after at most as many steps as the budget has; what a step costs follows cel-go's
//! `runtimecost.go` and `k8s.io/apiserver/pkg/cel/library/cost.go`, so upstream's limits mean here what they mean there.
//! Absent on purpose: protobuf messages, `cel.bind`.

mod admission;
mod check;
mod compile;
mod cost;
mod equal;
mod eval;
mod functions;
mod library;
mod macros;
mod named;
mod openapi;
mod operators;
mod signatures;
mod types;
mod value;

pub use admission::{namespace_type, request_type};
pub use check::Env;
pub use compile::{CompileError, Program, SOURCE_MAX};
pub use cost::{Budget, CALL_MAX, VALIDATION_MAX};
pub use eval::Variables;
pub use openapi::type_of_kind;
pub use types::{Fields, ListKind, Type, escape, is_reserved, unescape};
pub use value::{Key, Object, Value};

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no such key: {0}")]
    NoSuchKey(String),
    #[error("no such overload")]
    NoSuchOverload,
    #[error("undeclared reference to '{0}' (in container '')")]
    Undeclared(String),
    #[error("division by zero")]
    DivisionByZero,
    #[error("modulus by zero")]
    ModulusByZero,
    #[error("integer overflow")]
    Overflow,
    #[error("index out of bounds: {0}")]
    OutOfBounds(i64),
    #[error("{0}")]
    Other(String),
    /// One expression cost too much: [`CALL_MAX`].
    #[error("operation cancelled: actual cost limit exceeded")]
    CallCost,
    /// All expressions together cost too much.
    #[error("validation failed due to running out of cost budget, no further validation rules will be run")]
    Exhausted,
}

impl Error {
    pub(crate) fn other(text: impl std::fmt::Display) -> Self {
        Error::Other(text.to_string())
    }

    /// True where nothing in the expression may recover from it.
    pub fn is_cost(&self) -> bool {
        matches!(self, Error::CallCost | Error::Exhausted)
    }
}

#[cfg(test)]
mod tests;

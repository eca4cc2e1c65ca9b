//! Functions that the crates `cel` and `kube-cel` have, called with our values.
//!
//! A call is handed over as a tiny expression whose arguments are variables. Values that are not scalars are copied for it, which
//! is why the common functions are our own (`functions`). A library that panics, as some do on a wrong number of arguments,
//! is an error of the expression.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use kube_cel::KubeCelExt;
use kube_cel::cel::common::ast::{CallExpr, Expr, IdedExpr};
use kube_cel::cel::objects::{Key as ForeignKey, Map, OptionalValue};
use kube_cel::cel::{self, Context, ExecutionError};

use super::value::{Key, Value};
use super::{Error, value};

/// Everything that the libraries register, made once.
fn context() -> &'static Context<'static> {
    static ALL: OnceLock<Context<'static>> = OnceLock::new();
    ALL.get_or_init(|| Context::default().with_all())
}

const NAMES: [&str; 8] = ["a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7"];

/// Calls a function; with `method` the first argument is what it is called on. `name` may be qualified: `sets.contains`.
pub(super) fn call<'a>(name: &str, arguments: &[Value<'_>], method: bool) -> Result<Value<'a>, Error> {
    if arguments.len() > NAMES.len() {
        return Err(Error::NoSuchOverload);
    }
    let mut scope = context().new_inner_scope();
    for (name, argument) in NAMES.iter().zip(arguments) {
        scope.add_variable_from_value(*name, foreign(argument)?);
    }
    let ident = |name: &str| IdedExpr { id: 0, expr: Expr::Ident(name.to_owned()) };
    let mut idents = NAMES[..arguments.len()].iter().map(|name| ident(name));
    let target = if method { idents.next() } else { name.split_once('.').map(|(space, _)| ident(space)) };
    let func_name = if method { name } else { name.rsplit('.').next().unwrap_or(name) };
    let call = CallExpr { func_name: func_name.to_owned(), target: target.map(Box::new), args: idents.collect() };
    let expression = IdedExpr { id: 0, expr: Expr::Call(call) };
    match catch_unwind(AssertUnwindSafe(|| scope.resolve(&expression))) {
        Ok(result) => result.map(ours).map_err(error),
        Err(_) => Err(Error::NoSuchOverload),
    }
}

fn error(error: ExecutionError) -> Error {
    match error {
        ExecutionError::NoSuchKey(key) => Error::NoSuchKey(key.to_string()),
        ExecutionError::UndeclaredReference(name) => Error::Undeclared(name.to_string()),
        ExecutionError::FunctionError { message, .. } => Error::Other(message),
        ExecutionError::DivisionByZero(_) => Error::DivisionByZero,
        ExecutionError::RemainderByZero(_) => Error::ModulusByZero,
        ExecutionError::Overflow(..) => Error::Overflow,
        _ => Error::NoSuchOverload,
    }
}

fn foreign(value: &Value<'_>) -> Result<cel::Value, Error> {
    Ok(match value {
        Value::Null => cel::Value::Null,
        Value::Bool(yes) => cel::Value::Bool(*yes),
        Value::Int(number) => cel::Value::Int(*number),
        Value::Uint(number) => cel::Value::UInt(*number),
        Value::Double(number) => cel::Value::Float(*number),
        Value::String(text) => cel::Value::String(Arc::new(text.to_string())),
        Value::Bytes(bytes) => cel::Value::Bytes(bytes.clone()),
        Value::Type(name) => cel::Value::String(Arc::new(name.clone())),
        Value::Optional(inner) => {
            let inner = inner.as_deref().map(foreign).transpose()?;
            cel::Value::Opaque(Arc::new(inner.map_or_else(OptionalValue::none, OptionalValue::of)))
        }
        Value::Library(value) => value.clone(),
        Value::Object(_) => return Err(Error::NoSuchOverload),
        other => match (other.elements(), other.entries()) {
            (Some(values), _) => cel::Value::List(Arc::new(values.iter().map(foreign).collect::<Result<_, _>>()?)),
            (_, Some(entries)) => {
                let mut map = HashMap::with_capacity(entries.len());
                for (key, value) in entries {
                    let key = match key {
                        Key::Bool(yes) => ForeignKey::Bool(yes),
                        Key::Int(number) => ForeignKey::Int(number),
                        Key::Uint(number) => ForeignKey::Uint(number),
                        Key::String(text) => ForeignKey::String(Arc::new(text.into_owned())),
                    };
                    map.insert(key, foreign(&value)?);
                }
                cel::Value::Map(Map { map: Arc::new(map) })
            }
            _ => return Err(Error::NoSuchOverload),
        },
    })
}

fn ours<'a>(value: cel::Value) -> Value<'a> {
    match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(yes) => Value::Bool(yes),
        cel::Value::Int(number) => Value::Int(number),
        cel::Value::UInt(number) => Value::Uint(number),
        cel::Value::Float(number) => Value::Double(number),
        cel::Value::String(text) => Value::String(Arc::unwrap_or_clone(text).into()),
        cel::Value::Bytes(bytes) => Value::Bytes(bytes),
        cel::Value::List(values) => Value::list(Arc::unwrap_or_clone(values).into_iter().map(ours).collect()),
        cel::Value::Map(map) => {
            let entry = |(key, value): (&ForeignKey, &cel::Value)| {
                let key = match key {
                    ForeignKey::Bool(yes) => Key::Bool(*yes),
                    ForeignKey::Int(number) => Key::Int(*number),
                    ForeignKey::Uint(number) => value::Value::Uint(*number).to_key().unwrap_or(Key::Uint(*number)),
                    ForeignKey::String(text) => Key::String(text.to_string().into()),
                };
                (key, ours(value.clone()))
            };
            Value::Map(Arc::new(map.map.iter().map(entry).collect()))
        }
        cel::Value::Opaque(opaque) => match opaque.downcast_ref::<OptionalValue>() {
            Some(optional) => Value::Optional(optional.value().map(|value| Box::new(ours(value.clone())))),
            None => Value::Library(cel::Value::Opaque(opaque)),
        },
        other => Value::Library(other),
    }
}

/// An operator on times or durations.
pub(super) fn operator<'a>(name: &str, a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>, Error> {
    call(name, &[a.clone(), b.clone()], false)
}

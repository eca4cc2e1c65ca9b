//! Operators on values.

use std::cmp::Ordering;
use std::sync::Arc;

use kube_cel::cel::common::ast::operators as op;

use super::cost::{Budget, traverse};
use super::equal::{compare, equal, same_keys};
use super::eval::Result;
use super::functions::weight;
use super::types::ListKind;
use super::value::Value;
use super::{Error, library};

const ALL: [&str; 17] = [
    op::LOGICAL_NOT,
    op::NEGATE,
    op::ADD,
    op::SUBSTRACT,
    op::MULTIPLY,
    op::DIVIDE,
    op::MODULO,
    op::EQUALS,
    op::NOT_EQUALS,
    op::LESS,
    op::LESS_EQUALS,
    op::GREATER,
    op::GREATER_EQUALS,
    op::IN,
    op::INDEX,
    op::OPT_INDEX,
    op::OPT_SELECT,
];

pub(super) fn is_operator(name: &str) -> bool {
    ALL.contains(&name)
}

pub(super) fn apply<'a>(name: &str, mut arguments: Vec<Value<'a>>, budget: &mut Budget) -> Result<Value<'a>> {
    budget.spend(1)?;
    if arguments.len() == 1 {
        return match (name, &arguments[0]) {
            (op::LOGICAL_NOT, Value::Bool(value)) => Ok(Value::Bool(!value)),
            (op::NEGATE, Value::Int(value)) => value.checked_neg().map(Value::Int).ok_or(Error::Overflow),
            (op::NEGATE, Value::Double(value)) => Ok(Value::Double(-value)),
            _ => Err(Error::NoSuchOverload),
        };
    }
    let (Some(b), Some(a), None) = (arguments.pop(), arguments.pop(), arguments.pop()) else {
        return Err(Error::NoSuchOverload);
    };
    match name {
        op::EQUALS | op::NOT_EQUALS => {
            budget.spend(weight(&a).min(weight(&b)))?;
            Ok(Value::Bool(equal(&a, &b) == (name == op::EQUALS)))
        }
        op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
            budget.spend(weight(&a).min(weight(&b)))?;
            order(name, &a, &b)
        }
        op::IN => contains(&a, &b, budget),
        op::INDEX | op::OPT_INDEX | op::OPT_SELECT => index(name, a, b),
        op::ADD => add(a, b, budget),
        _ => arithmetic(name, &a, &b),
    }
}

fn order<'a>(name: &str, a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    let nan = |value: &Value<'_>| matches!(value, Value::Double(number) if number.is_nan());
    let Some(order) = compare(a, b) else {
        return if nan(a) || nan(b) { Ok(Value::Bool(false)) } else { Err(Error::NoSuchOverload) };
    };
    Ok(Value::Bool(match name {
        op::LESS => order == Ordering::Less,
        op::LESS_EQUALS => order != Ordering::Greater,
        op::GREATER => order == Ordering::Greater,
        _ => order != Ordering::Less,
    }))
}

fn contains<'a>(item: &Value<'a>, of: &Value<'a>, budget: &mut Budget) -> Result<Value<'a>> {
    if let Some(values) = of.elements() {
        budget.spend(values.len() as u64)?;
        return Ok(Value::Bool(values.iter().any(|value| equal(value, item))));
    }
    if let Value::String(name) = item {
        // A field's name is not escaped here: `in` asks the map.
        return match of {
            Value::Json(serde_json::Value::Object(entries), _) => Ok(Value::Bool(entries.contains_key(&**name))),
            _ => Ok(Value::Bool(of.field(name)?.is_some())),
        };
    }
    match (of, item.to_key()) {
        (Value::Map(entries), key) => Ok(Value::Bool(key.is_some_and(|key| entries.contains_key(&key)))),
        (Value::Json(..), _) => Ok(Value::Bool(false)),
        _ => Err(Error::NoSuchOverload),
    }
}

/// `a[b]`, `a[?b]` and `a.?b`.
fn index<'a>(name: &str, a: Value<'a>, b: Value<'a>) -> Result<Value<'a>> {
    let (of, optional) = match a {
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => (*inner, true),
        value => (value, name != op::INDEX),
    };
    let found = match element(&of, &b, name == op::OPT_SELECT) {
        Err(Error::OutOfBounds(_)) if optional => None,
        result => result?,
    };
    if optional {
        return Ok(Value::Optional(found.map(Box::new)));
    }
    found.ok_or_else(|| Error::NoSuchKey(b.to_json().map(|json| text_of(&json)).unwrap_or_default()))
}

fn text_of(json: &serde_json::Value) -> String {
    json.as_str().map_or_else(|| json.to_string(), ToOwned::to_owned)
}

fn element<'a>(of: &Value<'a>, key: &Value<'a>, select: bool) -> Result<Option<Value<'a>>> {
    if let (Value::Json(serde_json::Value::Array(values), ty), Some(super::Key::Int(at))) = (of, key.to_key()) {
        let value = usize::try_from(at).ok().and_then(|at| values.get(at));
        return value.map(|value| Some(Value::json(value, ty.element()))).ok_or(Error::OutOfBounds(at));
    }
    match (of, key) {
        (Value::List(values), key) => match key.to_key() {
            Some(super::Key::Int(at)) => {
                let value = usize::try_from(at).ok().and_then(|at| values.get(at));
                value.cloned().map(Some).ok_or(Error::OutOfBounds(at))
            }
            _ => Err(Error::NoSuchOverload),
        },
        (Value::Json(serde_json::Value::Object(_), super::Type::Object(_)), Value::String(name)) if !select => {
            // Names in brackets are as JSON has them.
            super::escape(name).map_or(Ok(None), |name| of.field(&name))
        }
        (_, Value::String(name)) => of.field(name),
        (Value::Map(entries), key) => Ok(key.to_key().and_then(|key| entries.get(&key).cloned())),
        (Value::Json(serde_json::Value::Object(_), _), _) => Ok(None),
        _ => Err(Error::NoSuchOverload),
    }
}

fn add<'a>(a: Value<'a>, b: Value<'a>, budget: &mut Budget) -> Result<Value<'a>> {
    match (&a, &b) {
        (Value::Int(a), Value::Int(b)) => a.checked_add(*b).map(Value::Int).ok_or(Error::Overflow),
        (Value::Uint(a), Value::Uint(b)) => a.checked_add(*b).map(Value::Uint).ok_or(Error::Overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(a + b)),
        (Value::String(a), Value::String(b)) => {
            budget.spend(traverse(a.len() + b.len()))?;
            Ok(Value::from(format!("{a}{b}")))
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            budget.spend(traverse(a.len() + b.len()))?;
            Ok(Value::Bytes(Arc::new([a.as_slice(), b].concat())))
        }
        (Value::Library(_), Value::Library(_)) => library::operator(op::ADD, &a, &b),
        _ => join(&a, &b, budget),
    }
}

/// Lists one after the other; sets and maps of `x-kubernetes-list-type` as the union that an apply would make.
fn join<'a>(a: &Value<'a>, b: &Value<'a>, budget: &mut Budget) -> Result<Value<'a>> {
    let (Some(mut values), Some(added)) = (a.elements(), b.elements()) else { return Err(Error::NoSuchOverload) };
    budget.spend((values.len() + added.len()) as u64 / 10)?;
    match a.list_kind() {
        ListKind::Atomic => values.extend(added),
        ListKind::Set => {
            for value in added {
                budget.spend(values.len() as u64 / 10)?;
                if !values.iter().any(|held| equal(held, &value)) {
                    values.push(value);
                }
            }
        }
        ListKind::Map(keys) => {
            for value in added {
                budget.spend(values.len() as u64 / 10)?;
                match values.iter_mut().find(|held| same_keys(held, &value, keys)) {
                    Some(held) => *held = value,
                    None => values.push(value),
                }
            }
        }
    }
    Ok(Value::list(values))
}

fn arithmetic<'a>(name: &str, a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    let whole = match (name, a, b) {
        (op::SUBSTRACT, Value::Int(a), Value::Int(b)) => a.checked_sub(*b).map(Value::Int),
        (op::SUBSTRACT, Value::Uint(a), Value::Uint(b)) => a.checked_sub(*b).map(Value::Uint),
        (op::MULTIPLY, Value::Int(a), Value::Int(b)) => a.checked_mul(*b).map(Value::Int),
        (op::MULTIPLY, Value::Uint(a), Value::Uint(b)) => a.checked_mul(*b).map(Value::Uint),
        (op::DIVIDE, Value::Int(_), Value::Int(0)) | (op::DIVIDE, Value::Uint(_), Value::Uint(0)) => {
            return Err(Error::DivisionByZero);
        }
        (op::MODULO, Value::Int(_), Value::Int(0)) | (op::MODULO, Value::Uint(_), Value::Uint(0)) => {
            return Err(Error::ModulusByZero);
        }
        (op::DIVIDE, Value::Int(a), Value::Int(b)) => a.checked_div(*b).map(Value::Int),
        (op::DIVIDE, Value::Uint(a), Value::Uint(b)) => a.checked_div(*b).map(Value::Uint),
        (op::MODULO, Value::Int(a), Value::Int(b)) => a.checked_rem(*b).map(Value::Int),
        (op::MODULO, Value::Uint(a), Value::Uint(b)) => a.checked_rem(*b).map(Value::Uint),
        (op::SUBSTRACT, Value::Double(a), Value::Double(b)) => return Ok(Value::Double(a - b)),
        (op::MULTIPLY, Value::Double(a), Value::Double(b)) => return Ok(Value::Double(a * b)),
        (op::DIVIDE, Value::Double(a), Value::Double(b)) => return Ok(Value::Double(a / b)),
        (op::SUBSTRACT, Value::Library(_), Value::Library(_)) => return library::operator(name, a, b),
        _ => return Err(Error::NoSuchOverload),
    };
    whole.ok_or(Error::Overflow)
}

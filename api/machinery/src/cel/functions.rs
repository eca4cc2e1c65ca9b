//! Functions: the common ones here, the rest from the libraries.

use std::borrow::Cow;
use std::sync::Arc;

use super::cost::{self, traverse};
use super::eval::{Evaluator, Result};
use super::value::{Value, double_text};
use super::{Error, compile, library};

/// Names that functions are qualified with: `sets.contains`.
const NAMESPACES: [&str; 10] =
    ["sets", "math", "ip", "cidr", "format", "optional", "base64", "jsonpatch", "lists", "strings"];

pub(super) fn is_namespaced(space: &str) -> bool {
    NAMESPACES.contains(&space)
}

/// How much there is to walk in a value, in steps: a tenth of its characters, elements and entries.
pub(super) fn weight(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => traverse(text.len()),
        Value::Bytes(bytes) => traverse(bytes.len()),
        Value::Json(json, _) => nodes(json).div_ceil(10),
        Value::List(values) => 1 + values.iter().map(weight).sum::<u64>(),
        Value::Map(entries) => 1 + entries.values().map(weight).sum::<u64>(),
        Value::Optional(Some(inner)) => weight(inner),
        _ => 1,
    }
}

fn nodes(json: &serde_json::Value) -> u64 {
    match json {
        serde_json::Value::String(text) => text.len() as u64,
        serde_json::Value::Array(values) => 1 + values.iter().map(nodes).sum::<u64>(),
        serde_json::Value::Object(entries) => 1 + entries.values().map(nodes).sum::<u64>(),
        _ => 1,
    }
}

/// Calls a function; with `method` the first argument is what it is called on.
pub(super) fn call<'a>(
    evaluator: &mut Evaluator<'a, '_>,
    name: &str,
    arguments: Vec<Value<'a>>,
    method: bool,
) -> Result<Value<'a>> {
    evaluator.budget.spend(1)?;
    if let Some(result) = own(evaluator, name, &arguments, method) {
        return result;
    }
    // What is handed over is copied, and walked.
    evaluator.budget.spend(arguments.iter().map(weight).sum())?;
    library::call(name, &arguments, method)
}

fn own<'a>(
    evaluator: &mut Evaluator<'a, '_>,
    name: &str,
    arguments: &[Value<'a>],
    method: bool,
) -> Option<Result<Value<'a>>> {
    Some(match (name, arguments) {
        ("size", [value]) => value.size().map(|size| Value::Int(size as i64)).ok_or(Error::NoSuchOverload),
        ("contains", [Value::String(text), Value::String(part)]) if method => {
            let price = traverse(text.len()).saturating_mul(traverse(part.len()).max(1));
            evaluator.budget.spend(price).map(|()| Value::Bool(text.contains(&**part)))
        }
        ("startsWith", [Value::String(text), Value::String(part)]) if method => {
            evaluator.budget.spend(traverse(part.len())).map(|()| Value::Bool(text.starts_with(&**part)))
        }
        ("endsWith", [Value::String(text), Value::String(part)]) if method => {
            evaluator.budget.spend(traverse(part.len())).map(|()| Value::Bool(text.ends_with(&**part)))
        }
        ("matches", [Value::String(text), Value::String(pattern)]) => matches(evaluator, text, pattern),
        ("type", [value]) => Ok(Value::Type(value.type_name())),
        ("dyn", [value]) => Ok(value.clone()),
        ("int", [value]) => int(value)?,
        ("uint", [value]) => uint(value)?,
        ("double", [value]) => double(value)?,
        ("bool", [value]) => bool_(value)?,
        ("string", [value]) => string(value)?,
        ("bytes", [Value::String(text)]) => Ok(Value::Bytes(Arc::new(text.as_bytes().to_vec()))),
        ("bytes", [Value::Bytes(bytes)]) => Ok(Value::Bytes(bytes.clone())),
        ("optional.none", []) => Ok(Value::Optional(None)),
        ("optional.of", [value]) => Ok(Value::Optional(Some(Box::new(value.clone())))),
        ("optional.ofNonZeroValue", [value]) => {
            Ok(Value::Optional((!value.is_zero()).then(|| Box::new(value.clone()))))
        }
        (name, [Value::Optional(held), rest @ ..]) => return optional(name, held, rest),
        _ => return None,
    })
}

fn optional<'a>(name: &str, held: &Option<Box<Value<'a>>>, rest: &[Value<'a>]) -> Option<Result<Value<'a>>> {
    Some(match (name, held, rest) {
        ("hasValue", held, []) => Ok(Value::Bool(held.is_some())),
        ("value", Some(value), []) => Ok((**value).clone()),
        ("value", None, []) => Err(Error::other("optional.none() dereference")),
        ("orValue", Some(value), [_]) => Ok((**value).clone()),
        ("orValue", None, [other]) => Ok(other.clone()),
        ("or", Some(_), [_]) => Ok(Value::Optional(held.clone())),
        ("or", None, [other]) => Ok(other.clone()),
        _ => return None,
    })
}

fn matches<'a>(evaluator: &mut Evaluator<'a, '_>, text: &str, pattern: &str) -> Result<Value<'a>> {
    evaluator.budget.spend(cost::regex(text.len(), pattern.len()))?;
    let held = evaluator.program.regexes.get(pattern);
    let compiled = match held {
        Some(regex) => Cow::Borrowed(regex),
        None => Cow::Owned(compile::regex(pattern).map_err(Error::other)?),
    };
    Ok(Value::Bool(compiled.is_match(text)))
}

/// Conversions; none where a library knows the type.
type Converted<'a> = Option<Result<Value<'a>>>;

fn int<'a>(value: &Value<'_>) -> Converted<'a> {
    Some(match value {
        Value::Int(number) => Ok(Value::Int(*number)),
        Value::Uint(number) => i64::try_from(*number).map(Value::Int).map_err(|_| Error::Overflow),
        Value::Double(number)
            if number.is_finite() && *number > -9.223372036854776e18 && *number < 9.223372036854776e18 =>
        {
            Ok(Value::Int(*number as i64))
        }
        Value::Double(_) => Err(Error::Overflow),
        Value::String(text) => text
            .parse()
            .map(Value::Int)
            .map_err(|_| Error::other(format!("type conversion error from 'string' to 'int': {text:?}"))),
        _ => return None,
    })
}

fn uint<'a>(value: &Value<'_>) -> Converted<'a> {
    Some(match value {
        Value::Uint(number) => Ok(Value::Uint(*number)),
        Value::Int(number) => u64::try_from(*number).map(Value::Uint).map_err(|_| Error::Overflow),
        Value::Double(number) if *number >= 0.0 && *number < 1.8446744073709552e19 => Ok(Value::Uint(*number as u64)),
        Value::Double(_) => Err(Error::Overflow),
        Value::String(text) => text
            .parse()
            .map(Value::Uint)
            .map_err(|_| Error::other(format!("type conversion error from 'string' to 'uint': {text:?}"))),
        _ => return None,
    })
}

fn double<'a>(value: &Value<'_>) -> Converted<'a> {
    Some(match value {
        Value::Double(number) => Ok(Value::Double(*number)),
        Value::Int(number) => Ok(Value::Double(*number as f64)),
        Value::Uint(number) => Ok(Value::Double(*number as f64)),
        Value::String(text) => text
            .parse()
            .map(Value::Double)
            .map_err(|_| Error::other(format!("type conversion error from 'string' to 'double': {text:?}"))),
        _ => return None,
    })
}

fn bool_<'a>(value: &Value<'_>) -> Converted<'a> {
    Some(match value {
        Value::Bool(yes) => Ok(Value::Bool(*yes)),
        Value::String(text) => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            _ => Err(Error::other(format!("type conversion error from 'string' to 'bool': {text:?}"))),
        },
        _ => return None,
    })
}

fn string<'a>(value: &Value<'a>) -> Converted<'a> {
    Some(match value {
        Value::String(text) => Ok(Value::String(text.clone())),
        Value::Bool(yes) => Ok(Value::from(yes.to_string())),
        Value::Int(number) => Ok(Value::from(number.to_string())),
        Value::Uint(number) => Ok(Value::from(number.to_string())),
        Value::Double(number) => Ok(Value::from(double_text(*number))),
        Value::Bytes(bytes) => String::from_utf8(bytes.to_vec())
            .map(Value::from)
            .map_err(|_| Error::other("invalid UTF-8 in bytes, cannot convert to string")),
        _ => return None,
    })
}

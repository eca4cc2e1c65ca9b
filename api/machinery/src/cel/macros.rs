//! Macros that the parser leaves as calls: those on optionals, and those that go over two variables.
//!
//! Source: cel-go's `cel/library.go` (`optMap`, `optFlatMap`) and `ext/comprehensions.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube_cel::cel::common::ast::{CallExpr, Expr, IdedExpr};

use super::Error;
use super::eval::{Evaluator, Result};
use super::value::Value;

/// The value of the call, if it is such a macro.
pub(super) fn expand<'a>(
    evaluator: &mut Evaluator<'a, '_>,
    call: &'a CallExpr,
    target: &'a IdedExpr,
) -> Option<Result<Value<'a>>> {
    let idents: Vec<&str> = call.args.iter().map_while(ident).collect();
    match (call.func_name.as_str(), idents.as_slice(), call.args.as_slice()) {
        ("optMap", [name, ..], [_, body]) => Some(optional(evaluator, target, name, body, false)),
        ("optFlatMap", [name, ..], [_, body]) => Some(optional(evaluator, target, name, body, true)),
        (kind, [first, second, ..], [_, _, rest @ ..]) if is_two_variable(kind, rest.len()) => {
            let plan = Loop { kind, first, second, rest };
            Some(plan.run(evaluator, target))
        }
        _ => None,
    }
}

pub(super) fn is_two_variable(kind: &str, rest: usize) -> bool {
    match kind {
        "all" | "exists" | "existsOne" | "exists_one" => rest == 1,
        "transformList" | "transformMap" | "transformMapEntry" => rest == 1 || rest == 2,
        _ => false,
    }
}

fn ident(expression: &IdedExpr) -> Option<&str> {
    if let Expr::Ident(name) = &expression.expr { Some(name) } else { None }
}

fn optional<'a>(
    evaluator: &mut Evaluator<'a, '_>,
    target: &'a IdedExpr,
    name: &'a str,
    body: &'a IdedExpr,
    flat: bool,
) -> Result<Value<'a>> {
    let inner = match evaluator.eval(target)? {
        Value::Optional(Some(inner)) => *inner,
        Value::Optional(None) => return Ok(Value::Optional(None)),
        _ => return Err(Error::NoSuchOverload),
    };
    evaluator.scopes.push((name, Ok(inner)));
    let value = evaluator.eval(body);
    evaluator.scopes.pop();
    match value? {
        value @ Value::Optional(_) if flat => Ok(value),
        _ if flat => Err(Error::NoSuchOverload),
        value => Ok(Value::Optional(Some(Box::new(value)))),
    }
}

/// A macro over indexes and elements, or keys and values.
struct Loop<'a, 'r> {
    kind: &'a str,
    first: &'r &'a str,
    second: &'r &'a str,
    rest: &'a [IdedExpr],
}

impl<'a> Loop<'a, '_> {
    fn run(&self, evaluator: &mut Evaluator<'a, '_>, target: &'a IdedExpr) -> Result<Value<'a>> {
        let range = evaluator.eval(target)?;
        let mut out = Out::default();
        for (first, second) in pairs(&range)? {
            evaluator.budget.spend(1)?;
            let depth = evaluator.scopes.len();
            evaluator.scopes.push((self.first, Ok(first.clone())));
            evaluator.scopes.push((self.second, Ok(second)));
            let step = self.step(evaluator, first, &mut out);
            evaluator.scopes.truncate(depth);
            if step? {
                break;
            }
        }
        out.value(self.kind)
    }

    /// One round; true where no further one matters.
    fn step(&self, evaluator: &mut Evaluator<'a, '_>, first: Value<'a>, out: &mut Out<'a>) -> Result<bool> {
        let (filter, body) = match self.rest {
            [filter, body] => (Some(filter), body),
            [body] => (None, body),
            _ => return Err(Error::NoSuchOverload),
        };
        if let Some(filter) = filter
            && !evaluator.eval(filter)?.as_bool().ok_or(Error::NoSuchOverload)?
        {
            return Ok(false);
        }
        let value = evaluator.eval(body);
        match self.kind {
            "transformList" => out.list.push(value?),
            "transformMap" => {
                let key = first.to_key().ok_or(Error::NoSuchOverload)?;
                out.map.insert(key, value?);
            }
            "transformMapEntry" => {
                for (key, value) in value?.entries().ok_or(Error::NoSuchOverload)? {
                    if out.map.insert(key.clone(), value).is_some() {
                        return Err(Error::other(format!("insert failed: key {key} already exists")));
                    }
                }
            }
            kind => match value.and_then(|value| value.as_bool().ok_or(Error::NoSuchOverload)) {
                Err(error) if error.is_cost() || kind.to_ascii_lowercase().contains("one") => return Err(error),
                Err(error) => out.error = out.error.take().or(Some(error)),
                Ok(yes) => {
                    out.yes += usize::from(yes);
                    out.no += usize::from(!yes);
                    return Ok((kind == "all" && !yes) || (kind == "exists" && yes));
                }
            },
        }
        Ok(false)
    }
}

#[derive(Default)]
struct Out<'a> {
    yes: usize,
    no: usize,
    error: Option<Error>,
    list: Vec<Value<'a>>,
    map: BTreeMap<super::Key<'a>, Value<'a>>,
}

impl<'a> Out<'a> {
    fn value(self, kind: &str) -> Result<Value<'a>> {
        match kind {
            "transformList" => return Ok(Value::list(self.list)),
            "transformMap" | "transformMapEntry" => return Ok(Value::Map(Arc::new(self.map))),
            "all" if self.no > 0 => return Ok(Value::Bool(false)),
            "exists" if self.yes > 0 => return Ok(Value::Bool(true)),
            _ => {}
        }
        match self.error {
            Some(error) => Err(error),
            None => Ok(Value::Bool(match kind {
                "all" => true,
                "exists" => false,
                _ => self.yes == 1,
            })),
        }
    }
}

fn pairs<'a>(range: &Value<'a>) -> Result<Vec<(Value<'a>, Value<'a>)>> {
    if let Some(values) = range.elements() {
        return Ok(values.into_iter().enumerate().map(|(at, value)| (Value::Int(at as i64), value)).collect());
    }
    let entries = range.entries().ok_or(Error::NoSuchOverload)?;
    Ok(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

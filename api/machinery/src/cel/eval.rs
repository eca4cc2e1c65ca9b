//! Evaluation: a walk over the tree that pays for each step.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators as op,
};
use serde_json::Value as Json;

use super::compile::Program;
use super::cost::{self, Budget};
use super::functions::{self, is_namespaced};
use super::types::Type;
use super::value::{ANY, Object, Value};
use super::{Error, macros, operators};

pub(super) type Result<T> = std::result::Result<T, Error>;

/// Named values that an expression may ask for.
#[derive(Clone, Debug, Default)]
pub struct Variables<'a> {
    values: Vec<(&'a str, Value<'a>)>,
}

impl<'a> Variables<'a> {
    pub fn set(mut self, name: &'a str, value: Value<'a>) -> Self {
        self.values.push((name, value));
        self
    }

    /// JSON that nobody declared a type for.
    pub fn json(self, name: &'a str, json: &'a Json) -> Self {
        self.set(name, Value::json(json, &ANY))
    }

    /// JSON of a type.
    pub fn typed(self, name: &'a str, json: &'a Json, ty: &'a Type) -> Self {
        self.set(name, Value::json(json, ty))
    }

    pub fn object(self, name: &'a str, object: impl Object<'a> + 'a) -> Self {
        self.set(name, Value::object(object))
    }

    fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.values.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

impl Program {
    /// The value of the expression. After an error that [is a cost](Error::is_cost) nothing more should be asked of the budget.
    pub fn evaluate<'a>(&'a self, variables: &Variables<'a>, budget: &mut Budget) -> Result<Value<'a>> {
        budget.begin();
        Evaluator { program: self, variables, scopes: Vec::new(), budget }.eval(&self.expression)
    }

    /// The value of an expression that must be a bool.
    pub fn is_true<'a>(&'a self, variables: &Variables<'a>, budget: &mut Budget) -> Result<bool> {
        let value = self.evaluate(variables, budget)?;
        value.as_bool().ok_or_else(|| Error::other(format!("expected bool but got {}", value.type_name())))
    }
}

pub(super) struct Evaluator<'a, 'v> {
    pub program: &'a Program,
    variables: &'v Variables<'a>,
    /// Variables of macros, the innermost last. An accumulator may hold an error, which `&&` and `||` may yet overcome.
    pub scopes: Vec<(&'a str, Result<Value<'a>>)>,
    pub budget: &'v mut Budget,
}

impl<'a> Evaluator<'a, '_> {
    pub fn eval(&mut self, expression: &'a IdedExpr) -> Result<Value<'a>> {
        match &expression.expr {
            Expr::Literal(literal) => Ok(value_of(literal)),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::List(list) => {
                self.budget.spend(cost::LIST)?;
                let mut values = Vec::with_capacity(list.elements.len());
                for (index, element) in list.elements.iter().enumerate() {
                    let value = self.eval(element)?;
                    match value {
                        Value::Optional(inner) if list.optional_indices.contains(&index) => {
                            values.extend(inner.map(|inner| *inner));
                        }
                        value => values.push(value),
                    }
                }
                Ok(Value::list(values))
            }
            Expr::Map(map) => {
                self.budget.spend(cost::MAP)?;
                let mut entries = BTreeMap::new();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { return Err(Error::NoSuchOverload) };
                    let key = self.eval(&entry.key)?;
                    let key = key.to_key().ok_or_else(|| Error::other("unsupported key type"))?;
                    match self.eval(&entry.value)? {
                        Value::Optional(None) if entry.optional => continue,
                        Value::Optional(Some(value)) if entry.optional => entries.insert(key, *value),
                        value => entries.insert(key, value),
                    };
                }
                Ok(Value::Map(Arc::new(entries)))
            }
            // `Object{…}` of mutating policies: the fields are a map's.
            Expr::Struct(object) => {
                self.budget.spend(cost::MAP)?;
                let mut entries = BTreeMap::new();
                for entry in &object.entries {
                    let EntryExpr::StructField(field) = &entry.expr else { return Err(Error::NoSuchOverload) };
                    let key = super::value::Key::String(super::types::unescape(&field.field));
                    match self.eval(&field.value)? {
                        Value::Optional(None) if field.optional => continue,
                        Value::Optional(Some(value)) if field.optional => entries.insert(key, *value),
                        value => entries.insert(key, value),
                    };
                }
                Ok(Value::Map(Arc::new(entries)))
            }
            Expr::Unspecified => Err(Error::NoSuchOverload),
        }
    }

    pub fn knows(&self, name: &str) -> bool {
        self.scopes.iter().any(|(known, _)| *known == name) || self.variables.get(name).is_some()
    }

    fn ident(&mut self, name: &str) -> Result<Value<'a>> {
        if let Some((_, value)) = self.scopes.iter().rev().find(|(known, _)| *known == name) {
            if !name.starts_with('@') {
                self.budget.spend(1)?;
            }
            return value.clone();
        }
        self.budget.spend(1)?;
        if let Some(value) = self.variables.get(name) {
            return Ok(value.clone());
        }
        const TYPES: [&str; 11] =
            ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type", "dyn"];
        if TYPES.contains(&name) { Ok(Value::Type(name.to_owned())) } else { Err(Error::Undeclared(name.to_owned())) }
    }

    fn select(&mut self, select: &'a SelectExpr) -> Result<Value<'a>> {
        if let Some(name) = self.type_name(select) {
            return Ok(Value::Type(name));
        }
        let operand = self.eval(&select.operand)?;
        self.budget.spend(1)?;
        // What is selected from an optional is an optional.
        if let Value::Optional(inner) = operand {
            let found = inner.map(|inner| inner.field(&select.field)).transpose()?.flatten();
            return Ok(if select.test { Value::Bool(found.is_some()) } else { Value::Optional(found.map(Box::new)) });
        }
        let found = operand.field(&select.field)?;
        if select.test {
            return Ok(Value::Bool(found.is_some()));
        }
        found.ok_or_else(|| Error::NoSuchKey(select.field.clone()))
    }

    /// `google.protobuf.Timestamp` and such are names of types.
    fn type_name(&self, select: &SelectExpr) -> Option<String> {
        let name = dotted(select)?;
        let root = name.split('.').next()?;
        let known = ["google.protobuf.Timestamp", "google.protobuf.Duration", "net.IP", "net.CIDR", "kubernetes.URL"];
        (!self.knows(root) && known.contains(&name.as_str())).then_some(name)
    }

    fn call(&mut self, call: &'a CallExpr) -> Result<Value<'a>> {
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (op::CONDITIONAL, [condition, yes, no]) => match self.eval(condition)?.as_bool() {
                Some(true) => self.eval(yes),
                Some(false) => self.eval(no),
                None => Err(Error::NoSuchOverload),
            },
            (op::LOGICAL_AND, [a, b]) => self.logic(a, b, false),
            (op::LOGICAL_OR, [a, b]) => self.logic(a, b, true),
            (op::NOT_STRICTLY_FALSE, [condition]) => match self.eval(condition) {
                Err(error) if error.is_cost() => Err(error),
                Ok(Value::Bool(false)) => Ok(Value::Bool(false)),
                _ => Ok(Value::Bool(true)),
            },
            (op::ADD, [a, b]) => self.add(a, b),
            _ if name.contains('_') && call.target.is_none() && operators::is_operator(name) => {
                let arguments = self.arguments(&call.args)?;
                operators::apply(name, arguments, self.budget)
            }
            (op::IN, [_, _]) => {
                let arguments = self.arguments(&call.args)?;
                operators::apply(name, arguments, self.budget)
            }
            _ => self.function(call),
        }
    }

    fn function(&mut self, call: &'a CallExpr) -> Result<Value<'a>> {
        let name = call.func_name.as_str();
        let Some(target) = &call.target else {
            let arguments = self.arguments(&call.args)?;
            return functions::call(self, name, arguments, false);
        };
        if let Expr::Ident(space) = &target.expr
            && !self.knows(space)
            && is_namespaced(space)
        {
            let arguments = self.arguments(&call.args)?;
            return functions::call(self, &format!("{space}.{name}"), arguments, false);
        }
        if let Some(value) = macros::expand(self, call, target) {
            return value;
        }
        let mut arguments = vec![self.eval(target)?];
        arguments.extend(self.arguments(&call.args)?);
        if let Value::Object(object) = &arguments[0] {
            self.budget.spend(1)?;
            return object.call(name, &arguments[1..]);
        }
        functions::call(self, name, arguments, true)
    }

    fn arguments(&mut self, expressions: &'a [IdedExpr]) -> Result<Vec<Value<'a>>> {
        expressions.iter().map(|expression| self.eval(expression)).collect()
    }

    /// `&&` and `||`: an error on one side does not matter if the other side decides.
    fn logic(&mut self, a: &'a IdedExpr, b: &'a IdedExpr, decides: bool) -> Result<Value<'a>> {
        let a = self.eval(a).and_then(|value| value.as_bool().ok_or(Error::NoSuchOverload));
        match a {
            Ok(value) if value == decides => return Ok(Value::Bool(decides)),
            Err(error) if error.is_cost() => return Err(error),
            _ => {}
        }
        let b = self.eval(b).and_then(|value| value.as_bool().ok_or(Error::NoSuchOverload));
        match (a, b) {
            (_, Ok(value)) if value == decides => Ok(Value::Bool(decides)),
            (_, Err(error)) if error.is_cost() => Err(error),
            (Err(error), _) | (_, Err(error)) => Err(error),
            _ => Ok(Value::Bool(!decides)),
        }
    }

    /// `+`. A macro's accumulator is extended in place: the old value is nobody's any more once the step is done.
    fn add(&mut self, a: &'a IdedExpr, b: &'a IdedExpr) -> Result<Value<'a>> {
        if let (Expr::Ident(name), Expr::List(_)) = (&a.expr, &b.expr)
            && name.starts_with('@')
        {
            let added = self.eval(b)?;
            let slot = self.scopes.iter_mut().rev().find(|(known, _)| known == name);
            let held = slot.map_or(Err(Error::NoSuchOverload), |(_, value)| std::mem::replace(value, Ok(Value::Null)));
            return match (held?, added) {
                (Value::List(mut held), Value::List(added)) => {
                    Arc::make_mut(&mut held).extend(added.iter().cloned());
                    Ok(Value::List(held))
                }
                _ => Err(Error::NoSuchOverload),
            };
        }
        let (a, b) = (self.eval(a)?, self.eval(b)?);
        operators::apply(op::ADD, vec![a, b], self.budget)
    }

    fn comprehension(&mut self, loop_: &'a ComprehensionExpr) -> Result<Value<'a>> {
        let range = self.eval(&loop_.iter_range)?;
        let items = items(&range)?;
        let accu = self.eval(&loop_.accu_init);
        let depth = self.scopes.len();
        self.scopes.push((&loop_.accu_var, accu));
        let result = self.rounds(loop_, items, depth);
        self.scopes.truncate(depth);
        result
    }

    fn rounds(&mut self, loop_: &'a ComprehensionExpr, items: Vec<Value<'a>>, depth: usize) -> Result<Value<'a>> {
        for item in items {
            // cel-go pays for the condition and for each round.
            self.budget.spend(1)?;
            if self.eval(&loop_.loop_cond)?.as_bool() == Some(false) {
                break;
            }
            self.scopes.truncate(depth + 1);
            self.scopes.push((&loop_.iter_var, Ok(item)));
            let step = self.eval(&loop_.loop_step);
            if let Err(error) = &step
                && (error.is_cost() || !self.is_logic(loop_))
            {
                return step;
            }
            self.scopes.truncate(depth + 1);
            self.scopes[depth].1 = step;
        }
        self.scopes.truncate(depth + 1);
        self.eval(&loop_.result)
    }

    /// True for `all` and `exists`, which may overcome an error in a later round.
    fn is_logic(&self, loop_: &ComprehensionExpr) -> bool {
        matches!(&loop_.loop_step.expr, Expr::Call(call) if matches!(call.func_name.as_str(), op::LOGICAL_AND | op::LOGICAL_OR))
    }
}

/// What a macro goes over: the elements of a list or the keys of a map.
pub(super) fn items<'a>(range: &Value<'a>) -> Result<Vec<Value<'a>>> {
    if let Some(values) = range.elements() {
        return Ok(values);
    }
    let entries = range.entries().ok_or(Error::NoSuchOverload)?;
    Ok(entries.into_iter().map(|(key, _)| key.into()).collect())
}

/// `a.b.c` as text, where it is nothing but names.
fn dotted(select: &SelectExpr) -> Option<String> {
    let operand = match &select.operand.expr {
        Expr::Ident(name) => name.clone(),
        Expr::Select(select) => dotted(select)?,
        _ => return None,
    };
    (!select.test).then(|| format!("{operand}.{}", select.field))
}

pub(super) fn value_of(literal: &LiteralValue) -> Value<'_> {
    match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Value::Bytes(Arc::new(value.inner().to_vec())),
        LiteralValue::Double(value) => Value::Double(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(value) => Value::String(Cow::Borrowed(value.inner())),
        LiteralValue::UInt(value) => Value::Uint(*value.inner()),
    }
}

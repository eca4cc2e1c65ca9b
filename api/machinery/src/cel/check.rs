//! The check of an expression before it runs: names, types, and what it may cost at most.
//!
//! Source: cel-go's `checker` (types and `cost.go`) and `apiserver/pkg/cel/library/cost.go`. What is `dyn` is let through, as there. The
//! cost is a bound from the sizes that types name; a size that nobody names is the most that a request could carry.
//! Weaker than upstream's on purpose: columns in messages are those of the first place with that name.

use std::sync::Arc;

use kube_cel::cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, operators as op,
};

use super::compile::{CompileError, Program};
use super::functions::is_namespaced;
use super::macros::is_two_variable;
use super::signatures::{Overload, overloads};
use super::types::{ListKind, Type, unescape};

/// Longest request, in bytes: what bounds a size that no schema bounds.
const REQUEST_MAX: u64 = 3 * 1024 * 1024;

/// Variables and their types.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: Vec<(String, Type)>,
}

impl Env {
    pub fn variable(mut self, name: &str, ty: Type) -> Self {
        self.variables.push((name.to_owned(), ty));
        self
    }

    /// Parses and checks an expression. The program knows its [output](Program::output) and its [cost](Program::cost_max).
    pub fn compile(&self, source: &str) -> Result<Program> {
        let mut program = Program::compile(source)?;
        let mut checker = Checker { source, scope: self.variables.clone() };
        let known = checker.check(&program.expression)?;
        program.output = known.ty;
        program.cost_max = known.cost;
        Ok(program)
    }
}

/// What is known of a value.
#[derive(Clone, Debug)]
struct Known {
    ty: Type,
    /// Most characters, elements or entries.
    size: u64,
    /// Most that it costs to get it.
    cost: u64,
}

impl Known {
    fn new(ty: Type, cost: u64) -> Self {
        Self { size: size_of(&ty), ty, cost }
    }

    fn of_size(ty: Type, size: u64, cost: u64) -> Self {
        Self { ty, size, cost }
    }
}

/// The most that a value of a type may hold.
fn size_of(ty: &Type) -> u64 {
    match ty {
        Type::String(max) | Type::Bytes(max) => max.unwrap_or(REQUEST_MAX),
        Type::List(of, _, max) => max.unwrap_or(REQUEST_MAX / (least(of) + 1)),
        Type::Map(_, of, max) => max.unwrap_or(REQUEST_MAX / (least(of) + 5)),
        Type::Dyn => REQUEST_MAX,
        Type::Optional(of) => size_of(of),
        _ => 1,
    }
}

/// The fewest bytes that a value of a type takes in JSON.
fn least(ty: &Type) -> u64 {
    match ty {
        Type::Bool => 4,
        Type::Timestamp => 10,
        Type::Duration => 4,
        Type::String(_) | Type::Bytes(_) | Type::List(..) | Type::Map(..) | Type::Object(_) => 2,
        _ => 1,
    }
}

type Result<T> = std::result::Result<T, CompileError>;

struct Checker<'s> {
    source: &'s str,
    scope: Vec<(String, Type)>,
}

impl Checker<'_> {
    fn check(&mut self, expression: &IdedExpr) -> Result<Known> {
        match &expression.expr {
            Expr::Literal(literal) => Ok(literal_of(literal)),
            Expr::Ident(name) => self.ident(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::List(list) => {
                let mut held: Option<Type> = None;
                let mut cost = 10;
                for (index, element) in list.elements.iter().enumerate() {
                    let known = self.check(element)?;
                    cost = sum(cost, known.cost);
                    let ty = match known.ty {
                        Type::Optional(of) if list.optional_indices.contains(&index) => Type::clone(&of),
                        ty => ty,
                    };
                    held = Some(held.map_or(ty.clone(), |held| common(&held, &ty)));
                }
                let ty = Type::List(Arc::new(held.unwrap_or_default()), ListKind::Atomic, None);
                Ok(Known::of_size(ty, list.elements.len() as u64, cost))
            }
            Expr::Map(map) => self.entries(&map.entries),
            Expr::Struct(object) => {
                let mut known = self.entries(&object.entries)?;
                known.ty = Type::Dyn;
                Ok(known)
            }
            Expr::Unspecified => Err(self.error("", "unspecified expression")),
        }
    }

    fn entries(&mut self, entries: &[kube_cel::cel::common::ast::IdedEntryExpr]) -> Result<Known> {
        let (mut keys, mut values): (Option<Type>, Option<Type>) = (None, None);
        let mut cost = 30;
        for entry in entries {
            let (key, value, optional) = match &entry.expr {
                EntryExpr::MapEntry(entry) => (Some(&entry.key), &entry.value, entry.optional),
                EntryExpr::StructField(field) => (None, &field.value, field.optional),
            };
            if let Some(key) = key {
                let key = self.check(key)?;
                cost = sum(cost, key.cost);
                keys = Some(keys.map_or(key.ty.clone(), |held| common(&held, &key.ty)));
            }
            let value = self.check(value)?;
            cost = sum(cost, value.cost);
            let ty = match value.ty {
                Type::Optional(of) if optional => Type::clone(&of),
                ty => ty,
            };
            values = Some(values.map_or(ty.clone(), |held| common(&held, &ty)));
        }
        let ty = Type::Map(Arc::new(keys.unwrap_or_default()), Arc::new(values.unwrap_or_default()), None);
        Ok(Known::of_size(ty, entries.len() as u64, cost))
    }

    fn ident(&self, name: &str) -> Result<Known> {
        if let Some((_, ty)) = self.scope.iter().rev().find(|(known, _)| known == name) {
            return Ok(Known::new(ty.clone(), 1));
        }
        const TYPES: [&str; 11] =
            ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type", "dyn"];
        if TYPES.contains(&name) {
            return Ok(Known::new(Type::Type, 1));
        }
        Err(self.error(name, &format!("undeclared reference to '{name}' (in container '')")))
    }

    fn knows(&self, name: &str) -> bool {
        self.scope.iter().any(|(known, _)| known == name)
    }

    fn select(&mut self, select: &SelectExpr) -> Result<Known> {
        if root(&select.operand)
            .is_some_and(|root| matches!(root, "google" | "net" | "kubernetes") && !self.knows(root))
        {
            return Ok(Known::new(Type::Type, 1));
        }
        let operand = self.check(&select.operand)?;
        let (of, optional) = match &operand.ty {
            Type::Optional(of) => (Type::clone(of), true),
            ty => (ty.clone(), false),
        };
        let ty = self.field(&of, &select.field)?;
        let cost = sum(operand.cost, 1);
        Ok(match (select.test, optional) {
            (true, _) => Known::new(Type::Bool, cost),
            (false, true) => Known::new(Type::optional(ty), cost),
            (false, false) => Known::new(ty, cost),
        })
    }

    fn field(&self, of: &Type, name: &str) -> Result<Type> {
        match of {
            Type::Dyn | Type::Open(_) => Ok(Type::Dyn),
            Type::Map(_, values, _) => Ok(Type::clone(values)),
            Type::Object(fields) => match fields.fields.get(&*unescape(name)) {
                Some(ty) => Ok(ty.clone()),
                None => Err(self.error(&format!(".{name}"), &format!("undefined field '{name}'"))),
            },
            other => Err(self.error(&format!(".{name}"), &format!("type '{other}' does not support field selection"))),
        }
    }

    fn call(&mut self, call: &CallExpr) -> Result<Known> {
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (op::CONDITIONAL, [condition, yes, no]) => {
                let (condition, yes, no) = (self.check(condition)?, self.check(yes)?, self.check(no)?);
                self.expect(name, &condition.ty, &Type::Bool, &[&condition, &yes, &no])?;
                if !unifies(&yes.ty, &no.ty) {
                    return Err(self.no_overload(name, &[&condition, &yes, &no]));
                }
                let ty = if matches!(yes.ty, Type::Dyn) { no.ty.clone() } else { yes.ty.clone() };
                Ok(Known::of_size(ty, yes.size.max(no.size), sum(condition.cost, yes.cost.max(no.cost))))
            }
            (op::LOGICAL_AND | op::LOGICAL_OR, [a, b]) => {
                let (a, b) = (self.check(a)?, self.check(b)?);
                self.expect(name, &a.ty, &Type::Bool, &[&a, &b])?;
                self.expect(name, &b.ty, &Type::Bool, &[&a, &b])?;
                Ok(Known::new(Type::Bool, sum(a.cost, b.cost)))
            }
            (op::NOT_STRICTLY_FALSE, [condition]) => {
                let condition = self.check(condition)?;
                Ok(Known::new(Type::Bool, condition.cost))
            }
            (op::ADD, [a, b]) if matches!(&a.expr, Expr::Ident(name) if name.starts_with('@')) => {
                // What a macro gathers is of what it adds.
                let (a, b) = (self.check(a)?, self.check(b)?);
                Ok(Known::of_size(b.ty, REQUEST_MAX, sum(a.cost, b.cost)))
            }
            _ if call.target.is_none() && super::operators::is_operator(name) => self.operator(name, &call.args),
            _ => self.function(call),
        }
    }

    fn operator(&mut self, name: &str, arguments: &[IdedExpr]) -> Result<Known> {
        let known = arguments.iter().map(|argument| self.check(argument)).collect::<Result<Vec<_>>>()?;
        let all: Vec<&Known> = known.iter().collect();
        let base = known.iter().fold(1, |cost, known| sum(cost, known.cost));
        let refuse = || self.no_overload(name, &all);
        match (name, known.as_slice()) {
            (op::LOGICAL_NOT, [a]) if fits(&a.ty, &Type::Bool) => Ok(Known::new(Type::Bool, base)),
            (op::NEGATE, [a]) if is_any(&a.ty, &[Type::Int, Type::Double]) => Ok(Known::new(a.ty.clone(), base)),
            (op::EQUALS | op::NOT_EQUALS, [a, b])
                if unifies(&a.ty, &b.ty) || matches!((&a.ty, &b.ty), (Type::Null, _) | (_, Type::Null)) =>
            {
                Ok(Known::new(Type::Bool, sum(base, a.size.min(b.size).div_ceil(10))))
            }
            (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [a, b])
                if (is_number(&a.ty) && is_number(&b.ty)) || (is_ordered(&a.ty) && unifies(&a.ty, &b.ty)) =>
            {
                Ok(Known::new(Type::Bool, sum(base, a.size.min(b.size).div_ceil(10))))
            }
            (op::IN, [a, b]) => match &b.ty {
                Type::List(of, ..) if unifies(&a.ty, of) => Ok(Known::new(Type::Bool, sum(base, b.size))),
                Type::Map(keys, ..) if unifies(&a.ty, keys) => Ok(Known::new(Type::Bool, base)),
                Type::Dyn => Ok(Known::new(Type::Bool, base)),
                _ => Err(refuse()),
            },
            (op::INDEX | op::OPT_INDEX, [a, b]) => self.index(name, a, b, base, &all),
            (op::OPT_SELECT, [a, _]) => {
                let of = if let Type::Optional(of) = &a.ty { Type::clone(of) } else { a.ty.clone() };
                let field = match arguments.get(1).map(|argument| &argument.expr) {
                    Some(Expr::Literal(LiteralValue::String(name))) => name.inner().to_owned(),
                    _ => return Err(refuse()),
                };
                Ok(Known::new(Type::optional(self.field(&of, &field)?), base))
            }
            (op::ADD, [a, b]) => added(a, b, base).ok_or_else(refuse),
            (op::SUBSTRACT, [a, b]) => {
                let ty = match (&a.ty, &b.ty) {
                    (Type::Timestamp, Type::Timestamp) => Type::Duration,
                    (Type::Timestamp, Type::Duration) => Type::Timestamp,
                    (Type::Duration, Type::Duration) => Type::Duration,
                    (a, b) if is_number(a) && unifies(a, b) => a.clone(),
                    _ => return Err(refuse()),
                };
                Ok(Known::new(ty, base))
            }
            (op::MULTIPLY | op::DIVIDE, [a, b]) if is_number(&a.ty) && unifies(&a.ty, &b.ty) => {
                Ok(Known::new(a.ty.clone(), base))
            }
            (op::MODULO, [a, b]) if is_any(&a.ty, &[Type::Int, Type::Uint]) && unifies(&a.ty, &b.ty) => {
                Ok(Known::new(a.ty.clone(), base))
            }
            _ => Err(refuse()),
        }
    }

    fn index(&self, name: &str, a: &Known, b: &Known, base: u64, all: &[&Known]) -> Result<Known> {
        let (of, optional) = match &a.ty {
            Type::Optional(of) => (Type::clone(of), true),
            ty => (ty.clone(), name == op::OPT_INDEX),
        };
        let ty = match &of {
            Type::List(of, ..) if is_number(&b.ty) => Type::clone(of),
            Type::Map(keys, of, _) if unifies(keys, &b.ty) => Type::clone(of),
            Type::Dyn | Type::Object(_) if fits(&b.ty, &Type::STRING) || is_number(&b.ty) => Type::Dyn,
            _ => return Err(self.no_overload(name, all)),
        };
        Ok(Known::new(if optional { Type::optional(ty) } else { ty }, base))
    }

    fn function(&mut self, call: &CallExpr) -> Result<Known> {
        let name = call.func_name.as_str();
        if let Some(target) = &call.target {
            if let Expr::Ident(space) = &target.expr
                && !self.knows(space)
                && is_namespaced(space)
            {
                return self.overload(&format!("{space}.{name}"), None, &call.args);
            }
            if let Some(known) = self.expanded(call, target)? {
                return Ok(known);
            }
        }
        self.overload(name, call.target.as_deref(), &call.args)
    }

    fn overload(&mut self, name: &str, target: Option<&IdedExpr>, arguments: &[IdedExpr]) -> Result<Known> {
        let known =
            target.into_iter().chain(arguments).map(|argument| self.check(argument)).collect::<Result<Vec<_>>>()?;
        let cost = known.iter().fold(1, |cost, known| sum(cost, known.cost));
        // A caller's own object has methods that nobody declares.
        if target.is_some() && matches!(known.first().map(|known| &known.ty), Some(Type::Dyn)) {
            return Ok(Known::new(result_of_dyn(name, target.is_some(), known.len()), cost));
        }
        let Some(candidates) = overloads(name) else {
            return Err(self.error(name, &format!("undeclared reference to '{name}' (in container '')")));
        };
        let all: Vec<&Known> = known.iter().collect();
        let found =
            candidates.iter().filter(|held| held.method == target.is_some()).find_map(|held| matched(held, &known));
        let Some(ty) = found else { return Err(self.no_overload(name, &all)) };
        let walked = match (name, known.as_slice()) {
            ("matches" | "find" | "findAll", [text, pattern, ..]) => {
                (text.size + 1).div_ceil(10).saturating_mul(pattern.size.div_ceil(4).max(1))
            }
            ("size" | "type" | "dyn" | "hasValue" | "value" | "orValue" | "or", _) => 0,
            ("contains", [text, part]) => text.size.div_ceil(10).saturating_mul(part.size.div_ceil(10).max(1)),
            ("startsWith" | "endsWith", [_, part]) => part.size.div_ceil(10),
            ("sets.contains" | "sets.equivalent" | "sets.intersects", [a, b]) => a.size.saturating_mul(b.size),
            ("isSorted" | "sum" | "min" | "max" | "indexOf" | "lastIndexOf", [list, ..]) => list.size,
            (_, known) => known.iter().fold(0, |walked, known| sum(walked, known.size.div_ceil(10))),
        };
        // What is made of strings and lists is no longer than they are together.
        let size = match &ty {
            Type::String(_) | Type::List(..) => known.iter().fold(0, |size, known| sum(size, known.size)).max(64),
            ty => size_of(ty),
        };
        Ok(Known::of_size(ty, size, sum(cost, walked)))
    }

    /// Macros that the parser leaves as calls.
    fn expanded(&mut self, call: &CallExpr, target: &IdedExpr) -> Result<Option<Known>> {
        let name = |index: usize| match call.args.get(index).map(|argument| &argument.expr) {
            Some(Expr::Ident(name)) => Some(name.clone()),
            _ => None,
        };
        let kind = call.func_name.as_str();
        if matches!(kind, "optMap" | "optFlatMap") && call.args.len() == 2 {
            let (Some(variable), of) = (name(0), self.check(target)?) else { return Ok(None) };
            let inner = if let Type::Optional(of) = &of.ty { Type::clone(of) } else { Type::Dyn };
            let body = self.within(&[(variable, inner)], |checker| checker.check(&call.args[1]))?;
            let ty = if kind == "optMap" { Type::optional(body.ty) } else { body.ty };
            return Ok(Some(Known::new(ty, sum(of.cost, body.cost))));
        }
        if call.args.len() < 3 || !is_two_variable(kind, call.args.len() - 2) {
            return Ok(None);
        }
        let (Some(first), Some(second)) = (name(0), name(1)) else { return Ok(None) };
        let range = self.check(target)?;
        let (key, value) = match &range.ty {
            Type::List(of, ..) => (Type::Int, Type::clone(of)),
            Type::Map(keys, of, _) => (Type::clone(keys), Type::clone(of)),
            _ => (Type::Dyn, Type::Dyn),
        };
        let scope = [(first, key.clone()), (second, value)];
        let bodies = self.within(&scope, |checker| {
            call.args[2..].iter().map(|argument| checker.check(argument)).collect::<Result<Vec<_>>>()
        })?;
        let round = bodies.iter().fold(1, |cost, known| sum(cost, known.cost));
        let last = bodies.last().map(|known| known.ty.clone()).unwrap_or_default();
        let ty = match kind {
            "transformList" => Type::list(last),
            "transformMap" => Type::Map(Arc::new(key), Arc::new(last), None),
            "transformMapEntry" => last,
            _ => Type::Bool,
        };
        let cost = sum(range.cost, range.size.saturating_mul(round));
        Ok(Some(Known::of_size(ty, range.size, cost)))
    }

    fn within<T>(&mut self, names: &[(String, Type)], work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let depth = self.scope.len();
        self.scope.extend_from_slice(names);
        let result = work(self);
        self.scope.truncate(depth);
        result
    }

    fn comprehension(&mut self, loop_: &ComprehensionExpr) -> Result<Known> {
        let range = self.check(&loop_.iter_range)?;
        let item = match &range.ty {
            Type::List(of, ..) => Type::clone(of),
            Type::Map(keys, ..) => Type::clone(keys),
            Type::Dyn => Type::Dyn,
            other => {
                let why = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return Err(self.error("", &why));
            }
        };
        let init = self.check(&loop_.accu_init)?;
        let accu =
            (loop_.accu_var.clone(), if matches!(init.ty, Type::List(..)) { Type::Dyn } else { init.ty.clone() });
        let scope = [accu.clone(), (loop_.iter_var.clone(), item)];
        let step = self.within(&scope, |checker| checker.check(&loop_.loop_step))?;
        let cost = sum(range.cost, range.size.saturating_mul(sum(step.cost, 1)));
        let accu = (accu.0, if matches!(init.ty, Type::List(..)) { step.ty } else { init.ty });
        let result = self.within(&[accu], |checker| checker.check(&loop_.result))?;
        let size = if matches!(result.ty, Type::List(..)) { range.size } else { result.size };
        Ok(Known::of_size(result.ty, size, sum(cost, result.cost)))
    }

    fn expect(&self, name: &str, held: &Type, wanted: &Type, all: &[&Known]) -> Result<()> {
        if fits(held, wanted) { Ok(()) } else { Err(self.no_overload(name, all)) }
    }

    fn no_overload(&self, name: &str, known: &[&Known]) -> CompileError {
        let types: Vec<String> = known.iter().map(|known| known.ty.to_string()).collect();
        let applied = if super::operators::is_operator(name)
            || name.starts_with('_')
            || overloads(name).is_some_and(|all| all.iter().all(|held| !held.method))
        {
            format!("({})", types.join(", "))
        } else {
            format!(
                "{}.({})",
                types.first().cloned().unwrap_or_default(),
                types.get(1..).unwrap_or_default().join(", ")
            )
        };
        let word = name.trim_matches('_');
        self.error(word, &format!("found no matching overload for '{name}' applied to '{applied}'"))
    }

    /// The error at the first place where a word stands.
    fn error(&self, word: &str, why: &str) -> CompileError {
        let at = if word.is_empty() { 0 } else { self.source.find(word).unwrap_or_default() };
        let before = &self.source[..at];
        let line = before.matches('\n').count();
        let column = before.rsplit('\n').next().map_or(0, |text| text.chars().count());
        let shown = self.source.lines().nth(line).unwrap_or_default();
        let pointer = format!("{}^", ".".repeat(column));
        CompileError(format!("ERROR: <input>:{}:{}: {why}\n | {shown}\n | {pointer}", line + 1, column + 1))
    }
}

fn sum(a: u64, b: u64) -> u64 {
    a.saturating_add(b)
}

fn root(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Ident(name) => Some(name),
        Expr::Select(select) => root(&select.operand),
        _ => None,
    }
}

fn literal_of(literal: &LiteralValue) -> Known {
    match literal {
        LiteralValue::Boolean(_) => Known::new(Type::Bool, 0),
        LiteralValue::Bytes(value) => Known::of_size(Type::Bytes(None), value.inner().len() as u64, 0),
        LiteralValue::Double(_) => Known::new(Type::Double, 0),
        LiteralValue::Int(_) => Known::new(Type::Int, 0),
        LiteralValue::Null => Known::new(Type::Null, 0),
        LiteralValue::String(value) => Known::of_size(Type::STRING, value.inner().chars().count() as u64, 0),
        LiteralValue::UInt(_) => Known::new(Type::Uint, 0),
    }
}

fn added(a: &Known, b: &Known, base: u64) -> Option<Known> {
    let size = sum(a.size, b.size);
    let ty = match (&a.ty, &b.ty) {
        (Type::Timestamp, Type::Duration) | (Type::Duration, Type::Timestamp) => Type::Timestamp,
        (Type::Duration, Type::Duration) => Type::Duration,
        (Type::Dyn, other) | (other, Type::Dyn) => other.clone(),
        (Type::String(_), Type::String(_)) => {
            return Some(Known::of_size(Type::STRING, size, sum(base, size.div_ceil(10))));
        }
        (Type::Bytes(_), Type::Bytes(_)) => {
            return Some(Known::of_size(Type::Bytes(None), size, sum(base, size.div_ceil(10))));
        }
        (Type::List(x, ..), Type::List(y, ..)) if unifies(x, y) => {
            let of = if matches!(**x, Type::Dyn) { y } else { x };
            let ty = Type::List(of.clone(), ListKind::Atomic, None);
            return Some(Known::of_size(ty, size, base));
        }
        (x, y) if is_number(x) && unifies(x, y) => x.clone(),
        _ => return None,
    };
    Some(Known::new(ty, base))
}

/// The type that a method of something unknown returns: that of its only overload, if there is one.
fn result_of_dyn(name: &str, method: bool, arguments: usize) -> Type {
    let mut fitting =
        overloads(name).into_iter().flatten().filter(|held| held.method == method && held.arguments.len() == arguments);
    match (fitting.next(), fitting.next()) {
        (Some(only), None) if !matches!(only.result, Type::Open(_) | Type::List(..) | Type::Optional(_)) => {
            only.result.clone()
        }
        (Some(first), Some(second)) if first.result == second.result => first.result.clone(),
        _ => Type::Dyn,
    }
}

/// The result of an overload, if it takes these arguments.
fn matched(overload: &Overload, known: &[Known]) -> Option<Type> {
    if overload.arguments.len() != known.len() {
        return None;
    }
    let mut open: [Option<Type>; 2] = [None, None];
    let fits = overload.arguments.iter().zip(known).all(|(wanted, known)| unify(wanted, &known.ty, &mut open));
    fits.then(|| close(&overload.result, &open))
}

fn unify(wanted: &Type, held: &Type, open: &mut [Option<Type>; 2]) -> bool {
    match (wanted, held) {
        (Type::Open(index), held) => {
            let slot = &mut open[usize::from(*index)];
            match slot {
                Some(known) if !matches!(known, Type::Dyn) => unifies(known, held),
                _ => {
                    *slot = Some(held.clone());
                    true
                }
            }
        }
        (Type::List(wanted, ..), Type::List(held, ..)) | (Type::Optional(wanted), Type::Optional(held)) => {
            unify(wanted, held, open)
        }
        (Type::Map(keys, values, _), Type::Map(k, v, _)) => unify(keys, k, open) && unify(values, v, open),
        (Type::Map(_, values, _), Type::Object(_)) => unify(values, &Type::Dyn, open),
        (wanted, held) => fits(held, wanted),
    }
}

fn close(ty: &Type, open: &[Option<Type>; 2]) -> Type {
    match ty {
        Type::Open(index) => open[usize::from(*index)].clone().unwrap_or_default(),
        Type::List(of, kind, max) => Type::List(Arc::new(close(of, open)), kind.clone(), *max),
        Type::Map(keys, of, max) => Type::Map(Arc::new(close(keys, open)), Arc::new(close(of, open)), *max),
        Type::Optional(of) => Type::optional(close(of, open)),
        ty => ty.clone(),
    }
}

/// True where a value of one type may stand for one of the other.
fn fits(held: &Type, wanted: &Type) -> bool {
    unifies(held, wanted)
}

fn unifies(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Open(_), _) | (_, Type::Dyn | Type::Open(_)) => true,
        (Type::String(_), Type::String(_)) | (Type::Bytes(_), Type::Bytes(_)) => true,
        (Type::List(a, ..), Type::List(b, ..)) | (Type::Optional(a), Type::Optional(b)) => unifies(a, b),
        (Type::Map(k, v, _), Type::Map(l, w, _)) => unifies(k, l) && unifies(v, w),
        (Type::Object(_), Type::Object(_)) => a == b,
        // Of what may be nothing, null is a value.
        (Type::Null, Type::Object(_) | Type::Timestamp | Type::Duration | Type::Optional(_) | Type::Library(_))
        | (Type::Object(_) | Type::Timestamp | Type::Duration | Type::Optional(_) | Type::Library(_), Type::Null) => {
            true
        }
        (a, b) => a == b,
    }
}

/// The type of both.
fn common(a: &Type, b: &Type) -> Type {
    let known = !matches!(a, Type::Dyn) && !matches!(b, Type::Dyn);
    if a == b || (known && unifies(a, b)) { a.clone() } else { Type::Dyn }
}

fn is_any(ty: &Type, of: &[Type]) -> bool {
    matches!(ty, Type::Dyn) || of.contains(ty)
}

fn is_number(ty: &Type) -> bool {
    is_any(ty, &[Type::Int, Type::Uint, Type::Double])
}

fn is_ordered(ty: &Type) -> bool {
    matches!(ty, Type::Dyn | Type::Bool | Type::String(_) | Type::Bytes(_) | Type::Timestamp | Type::Duration)
}

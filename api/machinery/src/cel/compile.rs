//! From text to a program.
//!
//! The parser recurses with what it reads, so it runs on a stack of its own, and what it may read is limited. Constant patterns
//! are compiled here, once. Source of the limits: cel-go's parser, where they are 100,000 code points and a depth of 250.

use std::collections::HashMap;

use kube_cel::cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators as op};
use kube_cel::cel::parser::Parser;
use regex::{Regex, RegexBuilder};

use super::types::Type;

/// Longest expression, in bytes.
pub const SOURCE_MAX: usize = 32 * 1024;
/// Deepest tree.
const DEPTH_MAX: usize = 250;
/// Most brackets open at once; each costs the parser some twenty frames.
const NESTING_MAX: usize = 96;
/// Only the part that is used is ever paged in.
const STACK: usize = 512 * 1024 * 1024;
/// Largest compiled pattern, in bytes.
const REGEX_MAX: usize = 1024 * 1024;

/// An expression that can be evaluated any number of times, by any number of threads.
#[derive(Debug)]
pub struct Program {
    pub(super) source: String,
    pub(super) expression: IdedExpr,
    /// Patterns that stand in the expression as literals.
    pub(super) regexes: HashMap<String, Regex>,
    pub(super) output: Type,
    pub(super) cost_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CompileError(pub String);

impl Program {
    /// Parses an expression. Names and types are looked at when it runs.
    pub fn compile(source: &str) -> Result<Self, CompileError> {
        limit(source)?;
        let parse = || {
            let parsed = Parser::new().enable_optional_syntax(true).max_recursion_depth(DEPTH_MAX as u16).parse(source);
            let expression = parsed.map_err(|errors| CompileError(errors.to_string()))?;
            if depth(&expression) > DEPTH_MAX {
                return Err(CompileError(format!("expression recursion limit exceeded: {DEPTH_MAX}")));
            }
            let mut regexes = HashMap::new();
            collect_regexes(&expression, &mut regexes)?;
            Ok(Program { source: source.to_owned(), expression, regexes, output: Type::Dyn, cost_max: u64::MAX })
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, parse);
            let thread = thread.map_err(|error| CompileError(format!("start the parser: {error}")))?;
            thread.join().unwrap_or_else(|_| Err(CompileError("ERROR: <input>:1:1: the parser gave up".to_owned())))
        })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of the value, as far as the check knew.
    pub fn output(&self) -> &Type {
        &self.output
    }

    /// The most that the expression may cost, as far as the check could tell.
    pub fn cost_max(&self) -> u64 {
        self.cost_max
    }

    /// True where the expression asks for this variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.expression.references().has_variable(variable)
    }

    /// True where the expression asks for this field of this variable, as `a.b` or `a.?b`.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        selects(&self.expression, Some(variable), field)
    }

    /// True where the expression asks anything for this field.
    pub fn selects_anywhere(&self, field: &str) -> bool {
        selects(&self.expression, None, field)
    }
}

fn selects(expression: &IdedExpr, variable: Option<&str>, field: &str) -> bool {
    let of =
        |operand: &IdedExpr| variable.is_none_or(|name| matches!(&operand.expr, Expr::Ident(held) if held == name));
    let here = match &expression.expr {
        Expr::Select(select) => select.field == field && of(&select.operand),
        Expr::Call(call) if call.func_name == op::OPT_SELECT => match call.args.as_slice() {
            [operand, IdedExpr { expr: Expr::Literal(LiteralValue::String(name)), .. }] => {
                name.inner() == field && of(operand)
            }
            _ => false,
        },
        _ => false,
    };
    here || children(&expression.expr).into_iter().any(|child| selects(child, variable, field))
}

/// Compiles a pattern; linear in time by construction, limited in size here.
pub(super) fn regex(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(REGEX_MAX).build()
}

/// Refuses what the parser could not bear.
fn limit(source: &str) -> Result<(), CompileError> {
    if source.len() > SOURCE_MAX {
        return Err(CompileError(format!(
            "ERROR: <input>:-1:0: expression code point size exceeds limit: size: {}, limit {SOURCE_MAX}",
            source.chars().count()
        )));
    }
    let (mut open, mut most) = (0usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    if most > NESTING_MAX {
        return Err(CompileError(format!("ERROR: <input>:-1:0: expression recursion limit exceeded: {NESTING_MAX}")));
    }
    Ok(())
}

fn depth(expression: &IdedExpr) -> usize {
    1 + children(&expression.expr).into_iter().map(depth).max().unwrap_or_default()
}

/// The expressions directly in an expression.
pub(super) fn children(expression: &Expr) -> Vec<&IdedExpr> {
    match expression {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(loop_) => {
            vec![&loop_.iter_range, &loop_.accu_init, &loop_.loop_cond, &loop_.loop_step, &loop_.result]
        }
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Struct(object) => object.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect(),
        Expr::Select(select) => vec![&select.operand],
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// Functions whose first argument after the target is a pattern.
const PATTERNS: [&str; 3] = ["matches", "find", "findAll"];

fn collect_regexes(expression: &IdedExpr, into: &mut HashMap<String, Regex>) -> Result<(), CompileError> {
    if let Expr::Call(CallExpr { func_name, target, args }) = &expression.expr
        && PATTERNS.contains(&func_name.as_str())
        && let Some(Expr::Literal(LiteralValue::String(pattern))) =
            args.get(usize::from(target.is_none())).map(|argument| &argument.expr)
    {
        let pattern = pattern.inner();
        let compiled = regex(pattern)
            .map_err(|error| CompileError(format!("ERROR: <input>:1:1: invalid matches argument: {error}")))?;
        into.insert(pattern.to_owned(), compiled);
    }
    children(&expression.expr).into_iter().try_for_each(|child| collect_regexes(child, into))
}

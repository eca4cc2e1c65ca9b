//! CEL expressions as they are checked when they are written: syntax, names and the type of the result.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/cel/compile.go`. The objects are of any type here: the status of a policy tells
//! of theirs. The request and the namespace have their types. Absent: the types of what expressions that make patches build.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use kube_cel::cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};
use kube_cel::cel::parser::{Expression, ParseErrors, Parser};
use wharf_machinery::cel::{Env, Type, namespace_type, request_type};
use wharf_types::field::{Error, Errors, Path};
use wharf_types::k8s::api::admissionregistration::v1::MatchCondition;

use super::repeated;
use crate::checks;

/// Most match conditions of one webhook or policy.
const CONDITIONS_MAX: usize = 64;

/// Names that every expression sees.
const ALWAYS: &[&str] = &["object", "oldObject", "request", "namespaceObject"];
/// Names of types, and what library functions are called under.
const LIBRARY: &[&str] = &[
    "bool",
    "bytes",
    "double",
    "duration",
    "int",
    "list",
    "map",
    "null_type",
    "string",
    "timestamp",
    "type",
    "uint",
    "base64",
    "cidr",
    "format",
    "ip",
    "jsonpatch",
    "lists",
    "math",
    "optional",
    "regex",
    "sets",
    "strings",
    "google",
];

/// Which names an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    pub params: bool,
    /// True where `authorizer` is not there.
    pub without_authorizer: bool,
    /// True where `Object{}` and `JSONPatch{}` can be built.
    pub patches: bool,
    /// True where `variables` is there.
    pub composes: bool,
    pub variables: BTreeSet<String>,
}

impl Scope {
    /// The types of the names that an expression sees. An authorizer's answers depend on nothing that is typed.
    fn env(&self) -> Env {
        static REQUEST: LazyLock<Type> = LazyLock::new(request_type);
        static NAMESPACE: LazyLock<Type> = LazyLock::new(namespace_type);
        let mut env = Env::default()
            .variable("object", Type::Dyn)
            .variable("oldObject", Type::Dyn)
            .variable("request", REQUEST.clone())
            .variable("namespaceObject", NAMESPACE.clone());
        if self.params {
            env = env.variable("params", Type::Dyn);
        }
        if !self.without_authorizer {
            env = env.variable("authorizer", Type::Dyn);
        }
        if self.composes {
            let fields = self.variables.iter().map(|name| (name.as_str(), Type::Dyn));
            env = env.variable("variables", Type::object("kubernetes.variables", fields));
        }
        env
    }

    fn knows(&self, name: &str) -> bool {
        match name {
            "params" => self.params,
            "authorizer" => !self.without_authorizer,
            "variables" => self.composes,
            "Object" | "JSONPatch" => self.patches,
            // What macros make up for themselves.
            name if name.starts_with('@') || name.starts_with("__") => true,
            name => ALWAYS.contains(&name) || LIBRARY.contains(&name),
        }
    }
}

/// What an expression has to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returns {
    Anything,
    Bool,
    Text,
    TextOrNull,
    Object,
    Patch,
}

impl Returns {
    /// Why a result of this type does not do; none where it may. `found` is the type as cel-go prints it.
    fn refuse(self, kind: &str, found: &str) -> Option<String> {
        let (fits, wanted) = match self {
            Returns::Anything => return None,
            Returns::Bool => (kind == "bool", "bool"),
            Returns::Text => (kind == "string", "string"),
            Returns::TextOrNull => (matches!(kind, "string" | "null_type"), "one of [string null_type]"),
            Returns::Object => (kind == "Object", "Object"),
            Returns::Patch => (kind == "list", "list(JSONPatch)"),
        };
        (!fits).then(|| format!("must evaluate to {wanted} but got {found}"))
    }
}

pub fn validate_conditions(conditions: &[MatchCondition], scope: &Scope, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if conditions.len() > CONDITIONS_MAX {
        errors.push(Error::too_many(path, conditions.len(), CONDITIONS_MAX));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let (expression, name) = (condition.expression.trim(), condition.name.as_str());
        if expression.is_empty() {
            errors.push(Error::required(&path.child("expression"), ""));
        } else {
            errors.extend(check(expression, scope, Returns::Bool, &path.child("expression")));
        }
        match name {
            "" => errors.push(Error::required(&path.child("name"), "")),
            name => errors.extend(checks::qualified_name(name, &path.child("name"))),
        }
    }
    errors.extend(repeated(conditions.iter().map(|condition| condition.name.as_str()), path, Some("name")));
    errors
}

/// An error about an expression that cannot be run.
pub fn check(text: &str, scope: &Scope, returns: Returns, path: &Path) -> Option<Error> {
    compile(text, scope, returns).err().map(|why| Error::invalid(path, text, why))
}

fn compile(text: &str, scope: &Scope, returns: Returns) -> Result<(), String> {
    let parser = Parser::new().enable_optional_syntax(true);
    let parsed = parser.parse(text).map_err(|errors| format!("compilation failed: {}", syntax(&errors)))?;
    let mut unknown = Vec::new();
    names(&parsed, scope, &mut Vec::new(), &mut unknown);
    if !unknown.is_empty() {
        let lines: Vec<String> = unknown.iter().map(|problem| problem.shown(text)).collect();
        return Err(format!("compilation failed: {}", lines.join("\n")));
    }
    let refusal = match scope.patches {
        true => kind(&parsed).and_then(|kind| returns.refuse(kind, &in_full(kind))),
        false => {
            let program = scope.env().compile(text).map_err(|error| format!("compilation failed: {error}"))?;
            judge(program.output(), &parsed, returns)
        }
    };
    refusal.map_or(Ok(()), Err)
}

/// Why the type of a result does not do. What may be anything is refused where it is taken from an object as it is: elsewhere
/// more may be known of it than the check of types knows.
fn judge(output: &Type, parsed: &Expression, returns: Returns) -> Option<String> {
    let (kind, found) = match output {
        Type::Dyn if !is_of_object(parsed) => return None,
        Type::Dyn => ("dyn", "dyn".to_owned()),
        Type::Null => ("null_type", "null_type".to_owned()),
        Type::Bool => ("bool", "bool".to_owned()),
        Type::String(_) => ("string", "string".to_owned()),
        Type::Timestamp => ("timestamp", "google.protobuf.Timestamp".to_owned()),
        Type::Duration => ("duration", "google.protobuf.Duration".to_owned()),
        other => ("", other.to_string()),
    };
    returns.refuse(kind, &found)
}

/// True for a field, or an element, of what has no type.
fn is_of_object(expression: &Expression) -> bool {
    match &expression.expr {
        Expr::Ident(name) => matches!(name.as_str(), "object" | "oldObject" | "params"),
        Expr::Select(select) => !select.test && is_of_object(&select.operand),
        Expr::Call(call) if call.func_name == operators::INDEX => call.args.first().is_some_and(is_of_object),
        _ => false,
    }
}

/// A type as cel-go prints it.
fn in_full(kind: &str) -> String {
    match kind {
        "list" => "list(dyn)".to_owned(),
        "map" => "map(dyn, dyn)".to_owned(),
        kind => kind.to_owned(),
    }
}

/// As cel-go prints what it cannot parse.
fn syntax(errors: &ParseErrors) -> String {
    let line = |info: &kube_cel::cel::parser::ParseError| {
        let (row, column) = info.pos;
        let source = info.source_info.as_ref().and_then(|source| source.snippet(row - 1));
        let at = pointer(source.unwrap_or_default(), usize::try_from(column).unwrap_or(1));
        format!("ERROR: <input>:{row}:{column}: {}{at}", info.msg)
    };
    errors.errors.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn pointer(line: &str, column: usize) -> String {
    format!("\n | {line}\n | {}^", ".".repeat(column.saturating_sub(1)))
}

enum Problem {
    Undeclared(String),
    Undefined(String),
}

impl Problem {
    /// With the place where the name first stands.
    fn shown(&self, text: &str) -> String {
        let (name, why) = match self {
            Problem::Undeclared(name) => (name.clone(), format!("undeclared reference to '{name}' (in container '')")),
            Problem::Undefined(name) => (format!(".{name}"), format!("undefined field '{name}'")),
        };
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let alone = |(at, _): &(usize, &str)| {
            let before = text[..*at].chars().next_back().is_some_and(|c| word(c) || c == '.');
            let after = text[at + name.len()..].chars().next().is_some_and(word);
            !after && (name.starts_with('.') || !before)
        };
        let at = text.match_indices(&name).find(alone).map_or(0, |(at, _)| at);
        let row = text[..at].matches('\n').count() + 1;
        let column = at - text[..at].rfind('\n').map_or(0, |newline| newline + 1) + 1;
        let line = text.lines().nth(row - 1).unwrap_or_default();
        format!("ERROR: <input>:{row}:{column}: {why}{}", pointer(line, column))
    }
}

/// Collects the names that nothing declares. `bound` are those of the comprehensions around.
fn names(expression: &Expression, scope: &Scope, bound: &mut Vec<String>, unknown: &mut Vec<Problem>) {
    match &expression.expr {
        Expr::Ident(name) if !bound.contains(name) && !scope.knows(name) => {
            unknown.push(Problem::Undeclared(name.clone()));
        }
        Expr::Call(call) => {
            call.target.iter().for_each(|target| names(target, scope, bound, unknown));
            call.args.iter().for_each(|argument| names(argument, scope, bound, unknown));
        }
        Expr::Select(select) => {
            let of_variables = matches!(&select.operand.expr, Expr::Ident(name) if name == "variables");
            if of_variables && scope.composes && !scope.variables.contains(&select.field) {
                unknown.push(Problem::Undefined(select.field.clone()));
            }
            // `Object.spec` names a type.
            names(&select.operand, scope, bound, unknown);
        }
        Expr::List(list) => list.elements.iter().for_each(|element| names(element, scope, bound, unknown)),
        Expr::Map(map) => entries(map.entries.iter().map(|entry| &entry.expr), scope, bound, unknown),
        Expr::Struct(built) => {
            let head = built.type_name.trim_start_matches('.').split('.').next().unwrap_or_default();
            if !scope.knows(head) {
                unknown.push(Problem::Undeclared(built.type_name.clone()));
            }
            entries(built.entries.iter().map(|entry| &entry.expr), scope, bound, unknown);
        }
        Expr::Comprehension(loops) => {
            names(&loops.iter_range, scope, bound, unknown);
            names(&loops.accu_init, scope, bound, unknown);
            let before = bound.len();
            bound.extend([loops.iter_var.clone(), loops.accu_var.clone()]);
            bound.extend(loops.iter_var2.clone());
            for part in [&loops.loop_cond, &loops.loop_step, &loops.result] {
                names(part, scope, bound, unknown);
            }
            bound.truncate(before);
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

fn entries<'a>(
    entries: impl Iterator<Item = &'a EntryExpr>,
    scope: &Scope,
    bound: &mut Vec<String>,
    unknown: &mut Vec<Problem>,
) {
    for entry in entries {
        match entry {
            EntryExpr::StructField(field) => names(&field.value, scope, bound, unknown),
            EntryExpr::MapEntry(entry) => {
                names(&entry.key, scope, bound, unknown);
                names(&entry.value, scope, bound, unknown);
            }
        }
    }
}

/// The type of the result, where the expression shows it.
fn kind(expression: &Expression) -> Option<&'static str> {
    Some(match &expression.expr {
        Expr::Literal(literal) => match literal {
            LiteralValue::Boolean(_) => "bool",
            LiteralValue::Bytes(_) => "bytes",
            LiteralValue::Double(_) => "double",
            LiteralValue::Int(_) => "int",
            LiteralValue::Null => "null_type",
            LiteralValue::String(_) => "string",
            LiteralValue::UInt(_) => "uint",
        },
        Expr::List(_) => "list",
        Expr::Map(_) => "map",
        Expr::Struct(built) if built.type_name.trim_start_matches('.') == "Object" => "Object",
        Expr::Struct(_) => "struct",
        Expr::Select(select) if select.test => "bool",
        Expr::Call(call) => match call.func_name.as_str() {
            operators::CONDITIONAL => {
                let (yes, no) = (kind(call.args.get(1)?)?, kind(call.args.get(2)?)?);
                return (yes == no).then_some(yes);
            }
            operators::ADD => return call.args.iter().find_map(kind),
            operators::LOGICAL_AND
            | operators::LOGICAL_OR
            | operators::LOGICAL_NOT
            | operators::EQUALS
            | operators::NOT_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS
            | operators::LESS
            | operators::LESS_EQUALS
            | operators::IN => "bool",
            "string" if call.target.is_none() => "string",
            "size" | "int" => "int",
            "startsWith" | "endsWith" | "contains" | "matches" => "bool",
            _ => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, returns: Returns, expected: Result<(), &str>) {
        let scope = Scope { composes: true, variables: BTreeSet::from(["limit".to_owned()]), ..Scope::default() };
        assert_eq!(compile(text, &scope, returns).as_ref().map_err(String::as_str).copied(), expected, "{text}");
    }

    #[test]
    fn what_can_be_run_passes() {
        check("object.spec.replicas <= variables.limit && request.operation == 'CREATE'", Returns::Bool, Ok(()));
        check("object.spec.containers.all(c, c.image.startsWith('a'))", Returns::Bool, Ok(()));
        check("authorizer.group('').resource('pods').check('create').allowed()", Returns::Bool, Ok(()));
        check("'replicas: ' + string(object.spec.replicas)", Returns::Text, Ok(()));
        check("object.?metadata.?labels['a'].orValue('') == ''", Returns::Bool, Ok(()));
    }

    #[test]
    fn names_that_nothing_declares_are_shown_where_they_stand() {
        let message = "compilation failed: ERROR: <input>:1:6: undeclared reference to 'obj' (in container '')\n | a || obj.x\n | .....^";
        let both = "compilation failed: ERROR: <input>:1:1: undeclared reference to 'a' (in container '')\n | a || obj.x\n | ^";
        let expected = format!("{both}\n{}", message.trim_start_matches("compilation failed: "));
        check("a || obj.x", Returns::Bool, Err(&expected));
        check(
            "params.x > 1",
            Returns::Bool,
            Err(
                "compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params.x > 1\n | ^",
            ),
        );
        check(
            "variables.other > 1",
            Returns::Bool,
            Err(
                "compilation failed: ERROR: <input>:1:10: undefined field 'other'\n | variables.other > 1\n | .........^",
            ),
        );
    }

    #[test]
    fn the_result_is_of_the_right_type() {
        check("1 + 2", Returns::Bool, Err("must evaluate to bool but got int"));
        check("true", Returns::Text, Err("must evaluate to string but got bool"));
        check("5", Returns::TextOrNull, Err("must evaluate to one of [string null_type] but got int"));
        check("null", Returns::TextOrNull, Ok(()));
        check("object.spec.paused", Returns::Bool, Err("must evaluate to bool but got dyn"));
        check("object.metadata.labels['a']", Returns::Text, Err("must evaluate to string but got dyn"));
        check("variables.limit", Returns::Bool, Ok(()));
        check("request.userInfo", Returns::Bool, Err("must evaluate to bool but got kubernetes.UserInfo"));
        check("request.userInfo.username", Returns::Text, Ok(()));
        check("request.userInfo.groups", Returns::Text, Err("must evaluate to string but got list(string)"));
    }

    #[test]
    fn what_has_a_type_is_held_to_it() {
        let found = |text: &str| compile(text, &Scope::default(), Returns::Bool).expect_err("a mistake");
        let undefined = "compilation failed: ERROR: <input>:1:8: undefined field 'user'";
        assert!(found("request.user == 'a'").starts_with(undefined));
        assert!(
            found("request.name == 1").contains("found no matching overload for '_==_' applied to '(string, int)'")
        );
        assert!(found("namespaceObject.metadata.name > 5").contains("applied to '(string, int)'"));
    }

    #[test]
    fn syntax_errors_are_shown_where_they_stand() {
        let error = compile("object.x >", &Scope::default(), Returns::Bool).unwrap_err();
        assert!(error.starts_with("compilation failed: ERROR: <input>:1:11: Syntax error: "), "{error}");
    }
}

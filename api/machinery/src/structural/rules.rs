//! `x-kubernetes-validations`: rules in CEL at any level of a schema.
//!
//! Compiled once for a schema; evaluated on the JSON where it lies. A rule that asks for `oldSelf` runs only where there is an old
//! value that is surely the same part of the object. A rule that fails on a value that has not changed is let through
//! (KEP-4008). All rules for one object share one budget.
//! Source: `apiserver/schema/cel/{compilation,validation}.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;
use wharf_types::field::{Error, Errors, Kind, Path};

use super::validate::counterpart;
use super::{Additional, ListType, Rule, Schema};
use crate::cel::{self, Budget, Env, Fields, ListKind, Program, Type, Value, Variables};

/// Longest message that an expression may make, in bytes.
const MESSAGE_MAX: usize = 5120;

/// The rules of a schema and of what is below it; only nodes that have any.
#[derive(Debug, Default)]
pub struct RuleSet {
    ty: Type,
    rules: Vec<Compiled>,
    properties: BTreeMap<String, RuleSet>,
    additional: Option<Box<RuleSet>>,
    items: Option<Box<RuleSet>>,
}

#[derive(Debug)]
struct Compiled {
    rule: Rule,
    program: Result<Program, String>,
    message: Option<Program>,
    is_transition: bool,
}

impl RuleSet {
    /// The rules of a whole schema; none if there are none. What cannot be compiled fails when it is evaluated.
    pub fn new(schema: &Schema) -> Option<Self> {
        Self::of(schema, true)
    }

    fn of(schema: &Schema, resource: bool) -> Option<Self> {
        let set = Self {
            ty: type_of(schema, resource || schema.embedded).unwrap_or_default(),
            rules: schema.rules.iter().map(Compiled::new).collect(),
            properties: schema
                .properties
                .iter()
                .filter_map(|(name, schema)| Some((name.clone(), Self::of(schema, false)?)))
                .collect(),
            additional: match &schema.additional {
                Some(Additional::Schema(schema)) => Self::of(schema, false).map(Box::new),
                _ => None,
            },
            items: schema.items.as_ref().and_then(|schema| Self::of(schema, false)).map(Box::new),
        };
        let empty =
            set.rules.is_empty() && set.properties.is_empty() && set.additional.is_none() && set.items.is_none();
        (!empty).then_some(set)
    }

    /// Which rules an object breaks.
    pub fn validate(&self, schema: &Schema, value: &Json, old: Option<&Json>, budget: &mut Budget) -> Errors {
        let mut errors = Vec::new();
        // Running out of budget ends the walk; it has been told by then.
        let _ = self.walk(schema, value, old, &Path::root(), budget, &mut errors);
        errors
    }

    fn walk(
        &self,
        schema: &Schema,
        value: &Json,
        old: Option<&Json>,
        path: &Path,
        budget: &mut Budget,
        errors: &mut Errors,
    ) -> Result<(), OutOfBudget> {
        for rule in &self.rules {
            rule.check(&self.ty, schema, value, old, path, budget, errors)?;
        }
        match value {
            Json::Object(fields) => {
                for (name, value) in fields {
                    let old = old.and_then(|old| old.get(name));
                    let (set, path) = match (schema.properties.get(name), &self.additional) {
                        (Some(_), _) => (self.properties.get(name), path.child(name)),
                        (None, Some(set)) => (Some(&**set), path.key(name)),
                        (None, None) => continue,
                    };
                    if let (Some(set), Some(schema)) = (set, schema.field(name)) {
                        set.walk(schema, value, old, &path, budget, errors)?;
                    }
                }
            }
            Json::Array(values) => {
                let (Some(set), Some(items)) = (&self.items, &schema.items) else { return Ok(()) };
                for (index, value) in values.iter().enumerate() {
                    let old = old.and_then(|old| counterpart(schema, value, old));
                    set.walk(items, value, old, &path.index(index), budget, errors)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

struct OutOfBudget;

/// Most that one rule may cost by estimate: upstream's `StaticEstimatedCostLimit`.
const RULE_COST_MAX: u64 = 10_000_000;
/// Most that all rules of a schema may cost together: upstream's `StaticEstimatedCRDCostLimit`.
const SCHEMA_COST_MAX: u64 = 100_000_000;

/// What is wrong with the rules of a schema, in upstream's words.
pub fn problems(schema: &Schema, path: &Path) -> Errors {
    let mut look = Look { errors: Vec::new(), total: 0 };
    look.at(schema, path, 1, true, None);
    if look.total > SCHEMA_COST_MAX {
        let why = too_costly(
            "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema",
            look.total,
            SCHEMA_COST_MAX,
        );
        look.errors.push(Error::forbidden(path, why));
    }
    look.errors
}

struct Look {
    errors: Errors,
    total: u64,
}

impl Look {
    /// `times` is how often the node may be in one object; `apart` names the list whose elements cannot be told apart.
    fn at(&mut self, schema: &Schema, path: &Path, times: u64, resource: bool, apart: Option<&Path>) {
        if !schema.rules.is_empty() {
            let at = path.child("x-kubernetes-validations");
            match type_of(schema, resource || schema.embedded) {
                Some(ty) => {
                    for (index, rule) in schema.rules.iter().enumerate() {
                        self.rule(rule, &ty, &at.index(index), times, apart);
                    }
                }
                None => self.errors.push(Error::invalid(&at, "", "rules need a schema with a type")),
            }
        }
        for (name, inner) in &schema.properties {
            self.at(inner, &path.child("properties").key(name), times, false, apart);
        }
        if let Some(items) = &schema.items {
            let below = path.child("items");
            let apart = apart.or(Some(path).filter(|_| schema.list_type != ListType::Map));
            self.at(items, &below, times.saturating_mul(most(schema.checks.max_items, items)), false, apart);
        }
        if let Some(Additional::Schema(inner)) = &schema.additional {
            let below = path.child("additionalProperties");
            self.at(inner, &below, times.saturating_mul(most(schema.checks.max_properties, inner)), false, apart);
        }
    }

    fn rule(&mut self, rule: &Rule, ty: &Type, path: &Path, times: u64, apart: Option<&Path>) {
        let at = path.child("rule");
        let shown = rule.rule.as_str();
        if shown.trim().is_empty() {
            return self.errors.push(Error::required(&at, "rule is not specified"));
        }
        let old = if rule.optional_old_self == Some(true) { Type::optional(ty.clone()) } else { ty.clone() };
        let env = Env::default().variable("self", ty.clone()).variable("oldSelf", old);
        match env.compile(shown.trim()) {
            Err(error) => {
                self.errors.push(Error::invalid(&at, shown, format!("compilation failed: {error}")));
            }
            Ok(program) if !matches!(program.output(), Type::Bool | Type::Dyn) => {
                self.errors.push(Error::invalid(&at, shown, "cel expression must evaluate to a bool"));
            }
            Ok(program) => {
                if let (true, Some(list)) = (program.uses("oldSelf"), apart) {
                    let why =
                        format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
                    self.errors.push(Error::invalid(&at, shown, why));
                }
                let cost = program.cost_max().saturating_mul(times);
                if cost > RULE_COST_MAX {
                    self.errors.push(Error::forbidden(&at, too_costly("estimated rule cost", cost, RULE_COST_MAX)));
                }
                self.total = self.total.saturating_add(cost);
            }
        }
        self.message(rule, &env, path);
        const REASONS: [&str; 4] =
            ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
        if !rule.reason.is_empty() && !REASONS.contains(&rule.reason.as_str()) {
            self.errors.push(Error::not_supported(&path.child("reason"), rule.reason.as_str(), &REASONS));
        }
    }

    fn message(&mut self, rule: &Rule, env: &Env, path: &Path) {
        let message = path.child("message");
        if !rule.message.is_empty() && rule.message.trim().is_empty() {
            let why = "message must be non-empty if specified";
            self.errors.push(Error::invalid(&message, rule.message.as_str(), why));
        } else if rule.message.trim().contains('\n') {
            let why = "message must not contain line breaks";
            self.errors.push(Error::invalid(&message, rule.message.as_str(), why));
        } else if rule.rule.trim().contains('\n') && rule.message.is_empty() {
            self.errors.push(Error::required(&message, "message must be specified if rule contains line breaks"));
        }
        let expression = rule.message_expression.as_str();
        if expression.is_empty() {
            return;
        }
        let at = path.child("messageExpression");
        if expression.trim().is_empty() {
            return self.errors.push(Error::required(&at, "messageExpression must be non-empty if specified"));
        }
        match env.compile(expression.trim()) {
            Err(error) => {
                let why = format!("messageExpression compilation failed: {error}");
                self.errors.push(Error::invalid(&at, expression, why));
            }
            Ok(program) if !matches!(program.output(), Type::String(_) | Type::Dyn) => {
                self.errors.push(Error::invalid(&at, expression, "messageExpression must evaluate to a string"));
            }
            Ok(_) => {}
        }
    }
}

/// How many elements a list or map may have, by what it says or by what a request may carry.
fn most(named: Option<u64>, element: &Schema) -> u64 {
    const REQUEST_MAX: u64 = 3 * 1024 * 1024;
    let least = if matches!(element.kind.as_str(), "object" | "array" | "string") { 3 } else { 2 };
    named.unwrap_or(REQUEST_MAX / least)
}

fn too_costly(what: &str, cost: u64, max: u64) -> String {
    let times = cost as f64 / max as f64;
    let factor = match times {
        times if times > 100.0 => "more than 100x".to_owned(),
        times if times < 1.5 => format!("{times:.6}x"),
        times => format!("{times:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

impl Compiled {
    fn new(rule: &Rule) -> Self {
        let program = Program::compile(rule.rule.trim()).map_err(|error| error.to_string());
        let uses_old = |program: &Program| program.uses("oldSelf");
        let message = Some(&rule.message_expression).filter(|text| !text.is_empty());
        Self {
            is_transition: program.as_ref().is_ok_and(uses_old),
            program,
            message: message.and_then(|text| Program::compile(text.trim()).ok()),
            rule: rule.clone(),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one rule, one place, one budget")]
    fn check<'a>(
        &'a self,
        ty: &'a Type,
        schema: &Schema,
        value: &'a Json,
        old: Option<&'a Json>,
        path: &Path,
        budget: &mut Budget,
        errors: &mut Errors,
    ) -> Result<(), OutOfBudget> {
        let optional = self.rule.optional_old_self == Some(true);
        if self.is_transition && old.is_none() && !optional {
            return Ok(());
        }
        let old_value = match (old, optional) {
            (Some(old), true) => Value::Optional(Some(Box::new(Value::json(old, ty)))),
            (None, true) => Value::Optional(None),
            (Some(old), false) => Value::json(old, ty),
            (None, false) => Value::Null,
        };
        let variables = Variables::default().set("self", Value::json(value, ty)).set("oldSelf", old_value);
        let shown = || named_type(schema);
        let program = match &self.program {
            Ok(program) => program,
            Err(why) => {
                errors.push(Error::invalid(path, shown(), format!("rule compile error: {why}")));
                return Ok(());
            }
        };
        match program.is_true(&variables, budget) {
            Ok(true) => {}
            // What has not changed is not held against an update, but a rule about change speaks of just that.
            Ok(false) if !self.is_transition && old == Some(value) => {}
            Ok(false) => errors.push(self.broken(schema, &variables, path, budget)),
            Err(cel::Error::Exhausted) => {
                errors.push(Error::invalid(path, shown(), cel::Error::Exhausted.to_string()));
                return Err(OutOfBudget);
            }
            Err(error) => errors.push(Error::invalid(path, shown(), self.failure(&error))),
        }
        Ok(())
    }

    fn failure(&self, error: &cel::Error) -> String {
        let rule = self.shown();
        match error {
            cel::Error::CallCost => {
                format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {rule}"
                )
            }
            cel::Error::NoSuchOverload => format!(
                "'{error}': call arguments did not match a supported operator, function or macro signature for rule: {rule}"
            ),
            error => format!("{error} evaluating rule: {rule}"),
        }
    }

    fn shown(&self) -> &str {
        let message = self.rule.message.trim();
        if message.is_empty() { self.rule.rule.trim() } else { message }
    }

    fn broken<'a>(&'a self, schema: &Schema, variables: &Variables<'a>, path: &Path, budget: &mut Budget) -> Error {
        let own = self.message.as_ref().and_then(|program| message(program, variables, budget));
        let detail = own.unwrap_or_else(|| match self.rule.message.trim() {
            "" => format!("failed rule: {}", self.rule.rule.trim()),
            message => message.to_owned(),
        });
        let path = field(path, &self.rule.field_path);
        let mut error = Error::invalid(&path, named_type(schema), detail);
        error.kind = match self.rule.reason.as_str() {
            "FieldValueRequired" => Kind::Required,
            "FieldValueForbidden" => Kind::Forbidden,
            "FieldValueDuplicate" => Kind::Duplicate,
            _ => Kind::Invalid,
        };
        if matches!(error.kind, Kind::Required | Kind::Forbidden) {
            error.value = None;
        }
        if error.kind == Kind::Duplicate {
            error.detail.clear();
        }
        error
    }
}

/// What an expression says, if it says anything that fits on a line.
fn message<'a>(program: &'a Program, variables: &Variables<'a>, budget: &mut Budget) -> Option<String> {
    let value = program.evaluate(variables, budget).ok()?;
    let text = value.as_str()?.trim();
    (!text.is_empty() && text.len() <= MESSAGE_MAX && !text.contains('\n')).then(|| text.to_owned())
}

/// How the value is called in a refusal: by its type.
fn named_type(schema: &Schema) -> &str {
    if schema.kind.is_empty() && schema.int_or_string { "" } else { &schema.kind }
}

/// The path that a rule's `fieldPath` leads to: `.spec.size`, `['a.b']`.
fn field(path: &Path, below: &str) -> Path {
    let mut path = path.clone();
    let mut rest = below;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("['") {
            let Some((name, after)) = after.split_once("']") else { break };
            path = path.child(name);
            rest = after;
        } else {
            let after = rest.strip_prefix('.').unwrap_or(rest);
            let end = after.find(['.', '[']).unwrap_or(after.len());
            path = path.child(&after[..end]);
            rest = &after[end..];
        }
    }
    path
}

/// The type that expressions see; none where the schema does not tell enough. Source: `apiserver/pkg/cel/common/schemas.go`.
pub fn type_of(schema: &Schema, resource: bool) -> Option<Type> {
    if schema.int_or_string {
        return Some(Type::Dyn);
    }
    let checks = &schema.checks;
    Some(match schema.kind.as_str() {
        "object" => match &schema.additional {
            Some(Additional::Schema(values)) => {
                let values = type_of(values, values.embedded)?;
                Type::Map(Arc::new(Type::STRING), Arc::new(values), checks.max_properties)
            }
            _ => Type::Object(Arc::new(fields(schema, resource))),
        },
        "array" => {
            let items = schema.items.as_ref()?;
            let kind = match schema.list_type {
                ListType::Atomic => ListKind::Atomic,
                ListType::Set => ListKind::Set,
                ListType::Map => ListKind::Map(schema.list_map_keys.clone().into()),
            };
            Type::List(Arc::new(type_of(items, items.embedded)?), kind, checks.max_items)
        }
        "string" => match checks.format.as_str() {
            "byte" => Type::Bytes(checks.max_length),
            "duration" => Type::Duration,
            "date" | "date-time" | "datetime" => Type::Timestamp,
            _ => Type::String(longest(schema)),
        },
        "boolean" => Type::Bool,
        "number" => Type::Double,
        "integer" => Type::Int,
        _ => return None,
    })
}

/// The most characters that a string may have.
fn longest(schema: &Schema) -> Option<u64> {
    let checks = &schema.checks;
    let allowed = checks.allowed.iter().filter_map(Json::as_str).map(|text| text.chars().count() as u64).max();
    checks.max_length.or(allowed)
}

fn fields(schema: &Schema, resource: bool) -> Fields {
    let below = |(name, schema): (&String, &Schema)| Some((name.clone(), type_of(schema, schema.embedded)?));
    let mut fields: BTreeMap<String, Type> = schema.properties.iter().filter_map(below).collect();
    if resource {
        fields.insert("apiVersion".to_owned(), Type::STRING);
        fields.insert("kind".to_owned(), Type::STRING);
        let metadata = [("name", Type::String(Some(253))), ("generateName", Type::String(Some(253)))];
        fields.insert("metadata".to_owned(), Type::object("object", metadata));
    }
    Fields { name: "object".to_owned(), fields }
}

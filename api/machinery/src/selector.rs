//! Label and field selectors: parsed once, matched often.
//!
//! Source of the grammar: `k8s.io/apimachinery/pkg/labels` and `pkg/fields`.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use wharf_types::field::{self, Path};
use wharf_types::meta;

use crate::names;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ParseError(pub String);

/// All requirements must hold; none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Empty for `Exists` and `DoesNotExist`; one number for `GreaterThan` and `LessThan`.
    pub values: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl Requirement {
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let bound = self.values.first().and_then(|bound| bound.parse::<i64>().ok());
                match (value.and_then(|value| value.parse::<i64>().ok()), bound) {
                    (Some(value), Some(bound)) if self.operator == Operator::GreaterThan => value > bound,
                    (Some(value), Some(bound)) => value < bound,
                    _ => false,
                }
            }
        }
    }
}

impl LabelSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects no object: what an absent `metav1.LabelSelector` means.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// A map of labels that must all be present, as in a Service's `spec.selector`.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let requirements = labels
            .iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: [value.clone()].into(),
            })
            .collect();
        Self { requirements, nothing: false }
    }

    /// An object's `spec.selector`. An unknown operator selects nothing; validation refuses it beforehand.
    pub fn from_meta(selector: &meta::LabelSelector) -> Self {
        let mut built = Self::from_map(selector.match_labels.as_ref().unwrap_or(&BTreeMap::new()));
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return Self::nothing(),
            };
            let values = expression.values.iter().flatten().cloned().collect();
            built.requirements.push(Requirement { key: expression.key.clone(), operator, values });
        }
        built
    }

    /// Parses `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>1`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut requirements = Vec::new();
        for term in split_terms(text)? {
            requirements.push(parse_requirement(term)?);
        }
        Ok(Self { requirements, nothing: false })
    }
}

/// The string form, as `status.selector` of a Scale has it.
impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let key = &requirement.key;
            let values = || requirement.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
            match requirement.operator {
                Operator::In if requirement.values.len() == 1 => write!(f, "{key}={}", values())?,
                Operator::In => write!(f, "{key} in ({})", values())?,
                Operator::NotIn if requirement.values.len() == 1 => write!(f, "{key}!={}", values())?,
                Operator::NotIn => write!(f, "{key} notin ({})", values())?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan => write!(f, "{key}>{}", values())?,
                Operator::LessThan => write!(f, "{key}<{}", values())?,
            }
        }
        Ok(())
    }
}

/// Splits at commas that stand outside parentheses.
fn split_terms(text: &str) -> Result<Vec<&str>, ParseError> {
    let (mut terms, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' if inside => {
                return Err(ParseError(format!("unable to parse requirement: found '(' inside a set in {text:?}")));
            }
            b'(' => inside = true,
            b')' if !inside => {
                return Err(ParseError(format!("unable to parse requirement: found ')' without '(' in {text:?}")));
            }
            b')' => inside = false,
            b',' if !inside => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(ParseError(format!("unable to parse requirement: missing ')' in {text:?}")));
    }
    terms.push(&text[start..]);
    if terms.len() == 1 && terms[0].trim().is_empty() {
        terms.clear();
    }
    Ok(terms)
}

fn parse_requirement(term: &str) -> Result<Requirement, ParseError> {
    let term = term.trim();
    let build = |key: &str, operator, values: &[&str]| {
        let key = key.trim();
        if let Some(message) = names::qualified_name(key).first() {
            return Err(ParseError(format!("unable to parse requirement: key: Invalid value: {key:?}: {message}")));
        }
        let values: BTreeSet<String> = values.iter().map(|value| value.trim().to_owned()).collect();
        for value in &values {
            if let Some(message) = names::label_value(value).first() {
                return Err(ParseError(format!(
                    "unable to parse requirement: values[0][{key}]: Invalid value: {value:?}: {message}"
                )));
            }
            if matches!(operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err() {
                return Err(ParseError(format!(
                    "unable to parse requirement: values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                )));
            }
        }
        Ok(Requirement { key: key.to_owned(), operator, values })
    };
    if let Some(open) = term.find('(') {
        let inner = term[open + 1..]
            .strip_suffix(')')
            .ok_or_else(|| ParseError(format!("unable to parse requirement: unexpected text after ')' in {term:?}")))?;
        let values: Vec<&str> = inner.split(',').collect();
        let (key, word) = term[..open]
            .trim()
            .rsplit_once(char::is_whitespace)
            .ok_or_else(|| ParseError(format!("unable to parse requirement: {term:?} has no operator")))?;
        return match word {
            "in" => build(key, Operator::In, &values),
            "notin" => build(key, Operator::NotIn, &values),
            other => Err(ParseError(format!(
                "unable to parse requirement: found '{other}', expected: in, notin, =, ==, !=, gt, lt"
            ))),
        };
    }
    if let Some(key) = term.strip_prefix('!') {
        return build(key, Operator::DoesNotExist, &[]);
    }
    for (token, operator) in [
        ("!=", Operator::NotIn),
        ("==", Operator::In),
        ("=", Operator::In),
        (">", Operator::GreaterThan),
        ("<", Operator::LessThan),
    ] {
        if let Some((key, value)) = term.split_once(token) {
            return build(key, operator, &[value]);
        }
    }
    build(term, Operator::Exists, &[])
}

/// Equality terms over an object's selectable fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub value: String,
    /// `!=`
    pub negated: bool,
}

impl FieldSelector {
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// A field that the object does not have counts as empty.
    pub fn matches<K: Borrow<str> + Ord>(&self, fields: &BTreeMap<K, String>) -> bool {
        self.terms.iter().all(|term| {
            let held = fields.get(term.field.as_str()).map_or("", String::as_str);
            (held == term.value) != term.negated
        })
    }

    /// The same selector over fields of other names.
    #[must_use]
    pub fn renamed(mut self, name: impl Fn(&str) -> String) -> Self {
        self.terms.iter_mut().for_each(|term| term.field = name(&term.field));
        self
    }

    /// The selector's terms about some of the fields.
    #[must_use]
    pub fn only(mut self, fields: impl Fn(&str) -> bool) -> Self {
        self.terms.retain(|term| fields(&term.field));
        self
    }

    /// The value that `field` is asked to equal, if it is.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.field == field && !term.negated).map(|term| term.value.as_str())
    }

    /// Parses `metadata.name=web,status.phase!=Running`. `\,`, `\=` and `\\` stand for themselves.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut terms = Vec::new();
        for term in split_escaped(text, ',').into_iter().filter(|term| !term.is_empty()) {
            let (field, operator, value) = split_field_term(term)
                .ok_or_else(|| ParseError(format!("invalid selector: '{text}'; can't understand '{term}'")))?;
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, negated: operator == "!=" });
        }
        Ok(Self { terms })
    }
}

fn split_escaped(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == separator {
            parts.push(&text[start..at]);
            start = at + c.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_field_term(term: &str) -> Option<(&str, &str, &str)> {
    for (at, _) in term.char_indices() {
        for operator in ["!=", "==", "="] {
            if term[at..].starts_with(operator) {
                return Some((&term[..at], operator, &term[at + operator.len()..]));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, ParseError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                _ => {
                    return Err(ParseError(format!(
                        "invalid field selector: invalid escape sequence in value: {value}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(ParseError(format!("invalid field selector: unescaped character in value: {value}")));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Checks an object's `metav1.LabelSelector`. Source: `apimachinery/pkg/apis/meta/v1/validation.ValidateLabelSelector`.
pub fn validate(selector: &meta::LabelSelector, path: &Path) -> field::Errors {
    let mut errors = validate_labels(selector.match_labels.as_ref(), &path.child("matchLabels"));
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let count = expression.values.as_ref().map_or(0, Vec::len);
        match expression.operator.as_str() {
            "In" | "NotIn" if count == 0 => {
                errors.push(field::Error::required(
                    &path.child("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                ));
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                errors.push(field::Error::forbidden(
                    &path.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(field::Error::invalid(&path.child("operator"), other, "not a valid selector operator"))
            }
        }
        for message in names::qualified_name(&expression.key) {
            errors.push(field::Error::invalid(&path.child("key"), &expression.key, message));
        }
        for (index, value) in expression.values.iter().flatten().enumerate() {
            for message in names::label_value(value) {
                errors.push(field::Error::invalid(&path.child("values").index(index), value, message));
            }
        }
    }
    errors
}

/// Checks a map of labels. Source: `apimachinery/pkg/apis/meta/v1/validation.ValidateLabels`.
pub fn validate_labels(labels: Option<&BTreeMap<String, String>>, path: &Path) -> field::Errors {
    let mut errors = Vec::new();
    for (key, value) in labels.into_iter().flatten() {
        for message in names::qualified_name(key) {
            errors.push(field::Error::invalid(path, key, message));
        }
        for message in names::label_value(value) {
            errors.push(field::Error::invalid(path, value, message));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, labels: &[(&str, &str)], matches: bool) {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert_eq!(LabelSelector::parse(selector).unwrap().matches(&labels), matches, "{selector}");
    }

    #[test]
    fn label_selectors_match() {
        check("", &[], true);
        check("app=web", &[("app", "web")], true);
        check("app==web,tier!=db", &[("app", "web")], true);
        check("app in (a, b)", &[("app", "b")], true);
        check("app notin (a,b)", &[("app", "b")], false);
        check("app,!tier", &[("app", "x"), ("tier", "y")], false);
        check("n>3", &[("n", "4")], true);
        check("n<3", &[("n", "4")], false);
        check("app=", &[("app", "")], true);
    }

    #[test]
    fn broken_label_selectors_are_refused() {
        for text in ["a in (b", "a b", "a of (b)", ",", "a=b=c", "n>x", "!"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn selectors_print_as_they_parse() {
        let text = "a=b,c!=d,e in (x,y),!f,g";
        assert_eq!(LabelSelector::parse(text).unwrap().to_string(), text);
    }

    #[test]
    fn field_selectors_match_and_unescape() {
        let fields = BTreeMap::from([("metadata.name", "a,b".to_owned()), ("status.phase", "Running".to_owned())]);
        assert!(FieldSelector::parse(r"metadata.name=a\,b,status.phase!=Failed").unwrap().matches(&fields));
        assert!(!FieldSelector::parse("status.phase!=Running").unwrap().matches(&fields));
        assert!(FieldSelector::parse("spec.nodeName=").unwrap().matches(&fields));
        assert!(FieldSelector::parse("nonsense").is_err());
    }
}

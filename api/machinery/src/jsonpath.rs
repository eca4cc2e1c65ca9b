//! JSONPath, as printer columns and selectable fields use it: `.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`.
//!
//! Source: `k8s.io/client-go/util/jsonpath`. Absent on purpose: templates around a path (`{range}`, text), which the API has no use
//! for, and comparisons between two paths.

use serde_json::Value;

/// Longest path, in bytes.
pub const PATH_MAX: usize = 4096;
/// Most values that a path may lead to.
const RESULTS_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// `[1]`, `[-1]`
    Index(i64),
    /// `[1:3]`, `[1:10:2]`
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        by: i64,
    },
    /// `[*]`, `.*`
    All,
    /// `['a','b']`, `[0,2]`
    Several(Vec<Step>),
    /// `..`
    Deep,
    /// `[?(@.a == "b")]`
    Filter(Vec<Step>, Option<(Comparison, Value)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

impl JsonPath {
    /// Parses `.spec.a`, with or without the braces and the leading point.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > PATH_MAX {
            return Err(ParseError(format!("the path is longer than {PATH_MAX} bytes")));
        }
        let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
        let mut parser = Parser { text, at: 0 };
        let steps = parser.steps(true)?;
        Ok(Self { steps })
    }

    /// Every value that the path leads to.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        follow(&self.steps, root)
    }

    /// The names along a path that is nothing but fields: `spec`, `replicas`.
    pub fn fields(&self) -> Option<Vec<&str>> {
        self.steps.iter().map(|step| if let Step::Field(name) = step { Some(name.as_str()) } else { None }).collect()
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn steps(&mut self, whole: bool) -> Result<Vec<Step>, ParseError> {
        let mut steps = Vec::new();
        let _ = self.take("$") || self.take("@");
        loop {
            match self.rest().chars().next() {
                None => return Ok(steps),
                Some('.') if self.take("..") => steps.push(Step::Deep),
                Some('.') => {
                    self.at += 1;
                    if self.rest().is_empty() && steps.is_empty() {
                        return Ok(steps);
                    }
                }
                Some('[') => steps.push(self.bracket()?),
                Some('*') => {
                    self.at += 1;
                    steps.push(Step::All);
                }
                Some(letter) if is_name(letter) => {
                    let name = self.name();
                    steps.push(Step::Field(name));
                }
                Some(letter) if whole => {
                    return Err(ParseError(format!(
                        "unrecognized character in action: U+{:04X} {letter:?}",
                        u32::from(letter)
                    )));
                }
                Some(_) => return Ok(steps),
            }
        }
    }

    /// A field's name; `\` takes the next letter as it is.
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(letter) = self.rest().chars().next() {
            if letter == '\\' {
                self.at += 1;
                let Some(next) = self.rest().chars().next() else { break };
                name.push(next);
                self.at += next.len_utf8();
            } else if is_name(letter) {
                name.push(letter);
                self.at += letter.len_utf8();
            } else {
                break;
            }
        }
        name
    }

    fn bracket(&mut self) -> Result<Step, ParseError> {
        self.at += 1;
        if self.take("?(") {
            return self.filter();
        }
        let Some(end) = close(self.rest()) else { return Err(ParseError("unterminated array".to_owned())) };
        let inside = self.rest()[..end].trim().to_owned();
        self.at += end + 1;
        if inside == "*" {
            return Ok(Step::All);
        }
        let mut parts = split(&inside).into_iter().map(|part| element(part.trim())).collect::<Result<Vec<_>, _>>()?;
        Ok(if parts.len() == 1 { parts.remove(0) } else { Step::Several(parts) })
    }

    fn filter(&mut self) -> Result<Step, ParseError> {
        let spaces = |parser: &mut Self| while parser.take(" ") {};
        spaces(self);
        let left = self.steps(false)?;
        spaces(self);
        let operators = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let operator = operators.into_iter().find(|(text, _)| self.take(text)).map(|(_, operator)| operator);
        let Some(operator) = operator else {
            return if self.take(")]") {
                Ok(Step::Filter(left, None))
            } else {
                Err(ParseError("unterminated filter".to_owned()))
            };
        };
        spaces(self);
        let right = self.literal()?;
        spaces(self);
        if !self.take(")]") {
            return Err(ParseError("unterminated filter".to_owned()));
        }
        Ok(Step::Filter(left, Some((operator, right))))
    }

    fn literal(&mut self) -> Result<Value, ParseError> {
        let quote = self.rest().chars().next().unwrap_or(' ');
        if matches!(quote, '"' | '\'') {
            let Some(length) = self.rest()[1..].find(quote) else {
                return Err(ParseError("unterminated quoted string".to_owned()));
            };
            let text = self.rest()[1..=length].to_owned();
            self.at += length + 2;
            return Ok(text.into());
        }
        let end = self.rest().find([')', ' ']).unwrap_or(self.rest().len());
        let text = self.rest()[..end].to_owned();
        self.at += end;
        serde_json::from_str(&text).map_err(|_| ParseError(format!("cannot compare with {text}")))
    }
}

/// Where a bracket closes that has been opened; brackets in quotes do not count.
fn close(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (None, ']') => return Some(at),
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), letter) if open == letter => quote = None,
            _ => {}
        }
    }
    None
}

/// Splits at commas outside of quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quote) = (Vec::new(), 0, None);
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (None, ',') => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            (None, '\'' | '"') => quote = Some(letter),
            (Some(open), letter) if open == letter => quote = None,
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn element(text: &str) -> Result<Step, ParseError> {
    let quoted = |quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    if let Some(name) = quoted('\'').or_else(|| quoted('"')) {
        return Ok(Step::Field(name.replace('\\', "")));
    }
    let bad = || ParseError(format!("invalid array index {text}"));
    let number = |part: &str| match part.trim() {
        "" => Ok(None),
        part => part.parse::<i64>().map(Some).map_err(|_| bad()),
    };
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [index] => number(index)?.map(Step::Index).ok_or_else(bad),
        [from, to] => Ok(Step::Slice { from: number(from)?, to: number(to)?, by: 1 }),
        [from, to, by] => match number(by)?.unwrap_or(1) {
            by if by > 0 => Ok(Step::Slice { from: number(from)?, to: number(to)?, by }),
            _ => Err(ParseError("step must be > 0".to_owned())),
        },
        _ => Err(bad()),
    }
}

fn is_name(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '-' | '\\' | '/')
}

fn follow<'a>(steps: &[Step], root: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![root];
    for step in steps {
        let mut next = Vec::new();
        for value in found {
            take(step, value, &mut next);
            if next.len() > RESULTS_MAX {
                next.truncate(RESULTS_MAX);
                break;
            }
        }
        found = next;
    }
    found
}

fn take<'a>(step: &Step, value: &'a Value, found: &mut Vec<&'a Value>) {
    match step {
        Step::Field(name) => found.extend(value.get(name)),
        Step::All => match value {
            Value::Array(values) => found.extend(values),
            Value::Object(fields) => found.extend(fields.values()),
            _ => {}
        },
        Step::Index(index) => {
            let Some(values) = value.as_array() else { return };
            let at = if *index < 0 { *index + values.len() as i64 } else { *index };
            found.extend(usize::try_from(at).ok().and_then(|at| values.get(at)));
        }
        Step::Slice { from, to, by } => {
            let Some(values) = value.as_array() else { return };
            let length = values.len() as i64;
            let place = |at: i64| (if at < 0 { at + length } else { at }).clamp(0, length) as usize;
            let (from, to) = (place(from.unwrap_or(0)), place(to.unwrap_or(length)));
            if from < to {
                found.extend(values[from..to].iter().step_by(usize::try_from(*by).unwrap_or(1)));
            }
        }
        Step::Several(steps) => steps.iter().for_each(|step| take(step, value, found)),
        Step::Deep => deep(value, found),
        Step::Filter(left, test) => {
            let Some(values) = value.as_array() else { return };
            found.extend(values.iter().filter(|value| holds(left, test.as_ref(), value)));
        }
    }
}

fn deep<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    if found.len() > RESULTS_MAX {
        return;
    }
    found.push(value);
    match value {
        Value::Array(values) => values.iter().for_each(|value| deep(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| deep(value, found)),
        _ => {}
    }
}

fn holds(left: &[Step], test: Option<&(Comparison, Value)>, value: &Value) -> bool {
    let found = follow(left, value);
    let Some((comparison, right)) = test else { return !found.is_empty() };
    let Some(left) = found.first() else { return false };
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (left, right) => left.as_f64().zip(right.as_f64()).and_then(|(left, right)| left.partial_cmp(&right)),
    };
    let Some(order) = order else { return *comparison == Comparison::NotEqual };
    match comparison {
        Comparison::Equal => order.is_eq(),
        Comparison::NotEqual => order.is_ne(),
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        Comparison::GreaterOrEqual => order.is_ge(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(path: &str, expected: &str) {
        let object = json!({
            "metadata": {"labels": {"a.b/c": "x"}, "name": "n"},
            "spec": {"size": 3, "list": [{"name": "a", "n": 1}, {"name": "b", "n": 2}, {"name": "c", "n": 3}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Live", "status": "False"}]},
        });
        let found = match JsonPath::parse(path) {
            Ok(path) => path.find(&object).into_iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn paths_lead_where_kubectl_follows_them() {
        check(".spec.size", "3");
        check("{.spec.size}", "3");
        check("$.spec.size", "3");
        check(".spec.missing.deeper", "");
        check(r".metadata.labels.a\.b/c", r#""x""#);
        check(".metadata.labels['a.b/c']", r#""x""#);
        check(r".metadata.labels['a\.b/c']", r#""x""#);
        check(".spec.list[0].name", r#""a""#);
        check(".spec.list[-1].name", r#""c""#);
        check(".spec.list[1:].n", "2 3");
        check(".spec.list[0:3:2].n", "1 3");
        check(".spec.list[0,2].n", "1 3");
        check(".spec.list[*].name", r#""a" "b" "c""#);
        check(r#".status.conditions[?(@.type=="Ready")].status"#, r#""True""#);
        check(".status.conditions[?(@.type == 'Live')].status", r#""False""#);
        check(".spec.list[?(@.n>1)].name", r#""b" "c""#);
        check("..type", r#""Ready" "Live""#);
    }

    #[test]
    fn what_is_no_path_is_refused() {
        check(".spec.list[", "error: unterminated array");
        check(".spec.list[x]", "error: invalid array index x");
        check(".spec.list[?(@.a==", "error: cannot compare with ");
        check(".spec.list[?(@.a", "error: unterminated filter");
        check(".spec list", "error: unrecognized character in action: U+0020 ' '");
        check(&".a".repeat(PATH_MAX), "error: the path is longer than 4096 bytes");
    }
}

//! `matchConditions` of an authorization webhook: expressions over the review that must all hold for it to be asked.
//!
//! Source: `k8s.io/apiserver/pkg/authorization/cel`. One that does not hold settles it, whatever else goes wrong. A selector is
//! told only where an expression asks for one, as upstream.

use std::sync::LazyLock;

use serde_json::{Value as Json, json};
use wharf_machinery::cel::{Budget, CALL_MAX, Env, Program, Type, Variables};

use crate::{Attributes, Requirement, User};

const VARIABLE: &str = "request";
/// The fields that cost something to tell.
const SELECTORS: [&str; 2] = ["fieldSelector", "labelSelector"];

static REQUEST: LazyLock<Type> = LazyLock::new(|| {
    let strings = || Type::list(Type::STRING);
    let text = |names: &[&'static str]| names.iter().map(|name| (*name, Type::STRING)).collect::<Vec<_>>();
    let requirement = Type::object(
        "kubernetes.SelectorRequirement",
        [("key", Type::STRING), ("operator", Type::STRING), ("values", strings())],
    );
    let selector =
        |name| Type::object(name, [("rawSelector", Type::STRING), ("requirements", Type::list(requirement.clone()))]);
    let mut resource = text(&["namespace", "verb", "group", "version", "resource", "subresource", "name"]);
    resource.push(("fieldSelector", selector("kubernetes.FieldSelectorAttributes")));
    resource.push(("labelSelector", selector("kubernetes.LabelSelectorAttributes")));
    let path = text(&["path", "verb"]);
    Type::object(
        "kubernetes.SubjectAccessReviewSpec",
        [
            ("resourceAttributes", Type::object("kubernetes.ResourceAttributes", resource)),
            ("nonResourceAttributes", Type::object("kubernetes.NonResourceAttributes", path)),
            ("user", Type::STRING),
            ("groups", strings()),
            ("extra", Type::map(strings())),
            ("uid", Type::STRING),
        ],
    )
});

#[derive(Debug, Default)]
pub struct Conditions {
    programs: Vec<Program>,
    selectors: [bool; 2],
}

impl Conditions {
    /// Adds an expression; the error is for its field.
    pub fn add(&mut self, expression: &str) -> Result<(), String> {
        let env = Env::default().variable(VARIABLE, REQUEST.clone());
        let program = env.compile(expression).map_err(|error| format!("compilation failed: {error}"))?;
        if *program.output() != Type::Bool {
            return Err(format!("must evaluate to bool but got {}", program.output()));
        }
        for (asked, name) in self.selectors.iter_mut().zip(SELECTORS) {
            *asked |= program.selects_anywhere(name);
        }
        self.programs.push(program);
        Ok(())
    }

    /// Whether all hold.
    pub fn hold(&self, user: &User, attributes: &Attributes) -> Result<bool, String> {
        if self.programs.is_empty() {
            return Ok(true);
        }
        let request = self.request(user, attributes);
        let variables = Variables::default().typed(VARIABLE, &request, &REQUEST);
        let mut errors = Vec::new();
        for program in &self.programs {
            match program.is_true(&variables, &mut Budget::new(CALL_MAX, CALL_MAX)) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) => errors.push(format!(
                    "cel evaluation error: expression '{}' resulted in error: {error}",
                    program.source()
                )),
            }
        }
        match errors.len() {
            0 => Ok(true),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }

    /// The review's spec with all of its strings, the empty ones too.
    fn request(&self, user: &User, asked: &Attributes) -> Json {
        let mut request = json!({"user": user.name, "groups": user.groups, "uid": user.uid, "extra": user.extra});
        if !asked.resource_request {
            request["nonResourceAttributes"] = json!({"path": asked.path, "verb": asked.verb});
            return request;
        }
        let mut resource = json!({
            "namespace": asked.namespace, "verb": asked.verb, "group": asked.group, "version": asked.version,
            "resource": asked.resource, "subresource": asked.subresource, "name": asked.name,
        });
        let held = [&asked.field_selector, &asked.label_selector];
        for ((told, name), held) in self.selectors.iter().zip(SELECTORS).zip(held) {
            if *told && !held.is_empty() {
                resource[name] = json!({"requirements": requirements(held)});
            }
        }
        request["resourceAttributes"] = resource;
        request
    }
}

/// As reviews list them.
pub(super) fn requirements(held: &[Requirement]) -> Json {
    let one = |held: &Requirement| match held.values.is_empty() {
        true => json!({"key": held.key, "operator": held.operator}),
        false => json!({"key": held.key, "operator": held.operator, "values": held.values}),
    };
    held.iter().map(one).collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expected` is `yes`, `no`, or how the error goes.
    #[track_caller]
    fn check(expressions: &[&str], expected: &str) {
        let mut conditions = Conditions::default();
        for expression in expressions {
            if let Err(why) = conditions.add(expression) {
                return assert!(why.starts_with(expected), "{why}");
            }
        }
        let attributes = Attributes {
            verb: "list".to_owned(),
            resource_request: true,
            resource: "pods".to_owned(),
            namespace: "a".to_owned(),
            field_selector: vec![Requirement {
                key: "spec.nodeName".to_owned(),
                operator: "In".to_owned(),
                values: vec!["n1".to_owned()],
            }],
            ..Attributes::default()
        };
        let got = match conditions.hold(&User::new("jane", &["dev"]), &attributes) {
            Ok(true) => "yes".to_owned(),
            Ok(false) => "no".to_owned(),
            Err(why) => why,
        };
        assert!(got.starts_with(expected), "{got} for {expressions:?}");
    }

    #[test]
    fn conditions_see_the_review() {
        check(&[], "yes");
        check(&["request.user == 'jane'", "'dev' in request.groups && request.uid == ''"], "yes");
        check(&["request.resourceAttributes.verb == 'list'", "request.resourceAttributes.name == ''"], "yes");
        check(&["has(request.nonResourceAttributes)"], "no");
        check(&["request.resourceAttributes.fieldSelector.requirements[0].values == ['n1']"], "yes");
        check(&["has(request.resourceAttributes.labelSelector)"], "no");
    }

    #[test]
    fn what_does_not_hold_settles_it_and_errors_do_not_pass() {
        let error = "request.extra['a'][0] == 'b'";
        check(&[error, "false"], "no");
        check(&[error, "true"], "cel evaluation error: expression 'request.extra['a'][0] == 'b'' resulted in error: ");
        check(&["request.user"], "must evaluate to bool but got string");
        check(&["request.name == 'a'"], "compilation failed: ERROR: ");
    }
}

//! `matchConditions`: expressions that must all hold for a webhook or policy to be asked.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions`. One that does not hold settles it, whatever else
//! goes wrong; an error counts as the failure policy says.

use wharf_machinery::cel::{Budget, Value, Variables};
use wharf_types::k8s::api::admissionregistration::v1::MatchCondition;

use crate::expression::{Expression, Failure};

/// Compiled conditions.
#[derive(Default)]
pub struct Conditions(Vec<Expression>);

impl Conditions {
    pub fn compile(conditions: &[MatchCondition]) -> Self {
        Self(conditions.iter().map(|condition| Expression::compile(&condition.expression)).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. The error is for a policy of `Fail`; for one of `Ignore` it means no.
    pub fn hold<'a>(&'a self, variables: &Variables<'a>) -> Result<bool, String> {
        let (mut budget, mut errors) = (Budget::match_conditions(), Vec::new());
        for expression in &self.0 {
            match expression.evaluate(variables, &mut budget) {
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(_) => {}
                Err(Failure::Own(why)) => errors.push(why),
                Err(Failure::Exhausted(why)) => return Err(why),
            }
        }
        match errors.len() {
            0 => Ok(true),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }
}

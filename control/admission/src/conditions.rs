//! `matchConditions`: expressions that must all hold for a webhook or policy to be asked.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions`. One that does not hold settles it, whatever else
//! goes wrong; an error counts as the failure policy says.

use wharf_machinery::cel::{Budget, Program, Value};
use wharf_types::k8s::api::admissionregistration::v1::MatchCondition;

use crate::activation::Activation;

/// Compiled conditions.
#[derive(Default)]
pub struct Conditions(Vec<(String, Result<Program, String>)>);

impl Conditions {
    pub fn compile(conditions: &[MatchCondition]) -> Self {
        let compile = |condition: &MatchCondition| {
            let text = condition.expression.trim().to_owned();
            let program = Program::compile(&text).map_err(|error| error.to_string());
            (text, program)
        };
        Self(conditions.iter().map(compile).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether all hold. The error is for a policy of `Fail`; for one of `Ignore` it means no.
    pub fn hold(&self, activation: &Activation<'_>) -> Result<bool, String> {
        if self.0.is_empty() {
            return Ok(true);
        }
        let variables = activation.variables();
        let (mut budget, mut errors) = (Budget::match_conditions(), Vec::new());
        for (text, program) in &self.0 {
            let program = match program {
                Ok(program) => program,
                Err(why) => {
                    errors.push(format!("compilation error: {why}"));
                    continue;
                }
            };
            match program.evaluate(&variables, &mut budget) {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(other) => {
                    errors.push(format!("expression '{text}' resulted in {}, not in a bool", other.type_name()))
                }
                Err(error) if error.is_cost() => return Err(error.to_string()),
                Err(error) => errors.push(format!("expression '{text}' resulted in error: {error}")),
            }
        }
        match errors.len() {
            0 => Ok(true),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }
}

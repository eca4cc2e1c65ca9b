//! One expression of a webhook or policy: compiled once, and told by its text when it fails.

use wharf_machinery::cel::{Budget, Error, Program, Value, Variables};

pub struct Expression {
    pub text: String,
    program: Result<Program, String>,
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// This expression's own fault.
    Own(String),
    /// Nothing is left to evaluate any other with.
    Exhausted(String),
}

impl Failure {
    pub fn message(self) -> String {
        match self {
            Failure::Own(why) | Failure::Exhausted(why) => why,
        }
    }
}

impl Expression {
    pub fn compile(text: &str) -> Self {
        let text = text.trim().to_owned();
        Self { program: Program::compile(&text).map_err(|error| error.to_string()), text }
    }

    /// The value, paid for from the budget.
    pub fn evaluate<'a>(&'a self, variables: &Variables<'a>, budget: &mut Budget) -> Result<Value<'a>, Failure> {
        let text = &self.text;
        let program = self.program.as_ref().map_err(|why| Failure::Own(format!("compilation error: {why}")))?;
        program.evaluate(variables, budget).map_err(|error| match error {
            Error::Exhausted => Failure::Exhausted(error.to_string()),
            error => Failure::Own(format!("expression '{text}' resulted in error: {error}")),
        })
    }

    /// What is wrong with the names of the objects that the expression makes.
    pub fn misnamed(&self) -> Vec<String> {
        self.program.as_ref().map_or_else(|_| Vec::new(), |program| program.misnamed("Object"))
    }
}

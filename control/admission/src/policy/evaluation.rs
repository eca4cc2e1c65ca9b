//! One evaluation of a policy: its variables are computed when an expression first asks for them, and once.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use wharf_machinery::cel::{Budget, Error, Object, Value, Variables};

use crate::activation::Activation;
use crate::expression::Expression;

/// The names that expressions of one evaluation see.
pub struct Evaluation<'a>(Arc<State<'a>>);

struct State<'a> {
    activation: Activation<'a>,
    variables: &'a [(String, Expression)],
    values: Mutex<HashMap<usize, Result<Value<'a>, Error>>>,
    /// Variables may cost as much as all other expressions.
    budget: Mutex<Budget>,
}

impl<'a> Evaluation<'a> {
    pub fn new(activation: Activation<'a>, variables: &'a [(String, Expression)]) -> Self {
        let (values, budget) = (Mutex::default(), Mutex::new(Budget::admission()));
        Self(Arc::new(State { activation, variables, values, budget }))
    }

    pub fn variables(&self) -> Variables<'a> {
        let composed = Composed { state: self.0.clone(), before: self.0.variables.len() };
        self.0.activation.variables().object("variables", composed)
    }
}

/// `variables`, as those see it that stand before an index.
struct Composed<'a> {
    state: Arc<State<'a>>,
    before: usize,
}

impl<'a> Object<'a> for Composed<'a> {
    fn type_name(&self) -> &str {
        "kubernetes.variables"
    }

    fn get(&self, field: &str) -> Option<Result<Value<'a>, Error>> {
        let state = &self.state;
        let index = state.variables[..self.before].iter().position(|(name, _)| name == field)?;
        if let Some(known) = state.values.lock().get(&index) {
            return Some(known.clone());
        }
        let seen = Composed { state: state.clone(), before: index };
        let variables = state.activation.variables().object("variables", seen);
        // Others may be computed on the way, from what is left.
        let mut budget = state.budget.lock().clone();
        let before = budget.left();
        let all: &'a [(String, Expression)] = state.variables;
        let expression = &all[index].1;
        let value = expression.evaluate(&variables, &mut budget).map_err(|failure| {
            Error::Other(format!("composited variable {field:?} fails to evaluate: {}", failure.message()))
        });
        let spent = before - budget.left();
        let mut left = state.budget.lock();
        *left = Budget::new(left.left().saturating_sub(spent), wharf_machinery::cel::CALL_MAX);
        drop(left);
        state.values.lock().insert(index, value.clone());
        Some(value)
    }
}

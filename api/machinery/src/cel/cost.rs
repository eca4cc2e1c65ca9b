//! What evaluation may cost.

use super::Error;

/// Most that one expression may cost: upstream's `PerCallLimit`.
pub const CALL_MAX: u64 = 1_000_000;
/// Most that all rules for one object may cost together: upstream's `RuntimeCELCostBudget`.
pub const VALIDATION_MAX: u64 = 10_000_000;
/// Most that the match conditions of one webhook or policy may cost: upstream's `RuntimeCELCostBudgetMatchConditions`.
const MATCH_CONDITIONS_MAX: u64 = 2_500_000;

/// What is left to spend, shared by the expressions of one request.
#[derive(Clone, Debug)]
pub struct Budget {
    left: u64,
    call_max: u64,
    call: u64,
}

impl Budget {
    pub fn new(total: u64, call_max: u64) -> Self {
        Self { left: total, call_max, call: 0 }
    }

    /// For the rules of a custom resource.
    pub fn validation() -> Self {
        Self::new(VALIDATION_MAX, CALL_MAX)
    }

    /// For the expressions of one admission policy.
    pub fn admission() -> Self {
        Self::new(VALIDATION_MAX, CALL_MAX)
    }

    /// For `matchConditions`.
    pub fn match_conditions() -> Self {
        Self::new(MATCH_CONDITIONS_MAX, CALL_MAX)
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    /// What the last expression cost.
    pub fn call_cost(&self) -> u64 {
        self.call
    }

    pub(super) fn begin(&mut self) {
        self.call = 0;
    }

    pub(super) fn spend(&mut self, cost: u64) -> Result<(), Error> {
        self.call = self.call.saturating_add(cost);
        if self.call > self.call_max {
            self.left = self.left.saturating_sub(cost);
            return Err(Error::CallCost);
        }
        match self.left.checked_sub(cost) {
            Some(left) => self.left = left,
            None => {
                self.left = 0;
                return Err(Error::Exhausted);
            }
        }
        Ok(())
    }
}

/// What it costs to walk a string or bytes of this length: cel-go's `StringTraversalCostFactor`.
pub(super) fn traverse(length: usize) -> u64 {
    (length as u64).div_ceil(10)
}

/// What it costs to match a string of this length with a pattern of that length.
pub(super) fn regex(text: usize, pattern: usize) -> u64 {
    // cel-go: (len + 1) × 0.1 for the text, × 0.25 for the pattern, at least 1 each.
    ((text as u64 + 1).div_ceil(10)).max(1) * ((pattern as u64).div_ceil(4)).max(1)
}

pub(super) const LIST: u64 = 10;
pub(super) const MAP: u64 = 30;

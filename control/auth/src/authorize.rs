//! Several authorizers as one, and the one that needs no file of its own.
//!
//! Source: `k8s.io/apiserver/pkg/authorization/{union,authorizerfactory}`.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Attributes, Authorizer, Decision, MASTERS, User};

/// Asks each in turn: the first that has an opinion wins. What those without one had to say is kept, a line each. One that fails
/// is passed over, unless it says otherwise; only if nobody allows the request has it failed.
pub struct FirstOpinion(Vec<Arc<dyn Authorizer>>);

impl FirstOpinion {
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self(authorizers)
    }
}

#[async_trait]
impl Authorizer for FirstOpinion {
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        let (mut reasons, mut failures) = (Vec::new(), Vec::new());
        let mut denied = false;
        for authorizer in &self.0 {
            match authorizer.authorize(user, attributes).await {
                Decision::NoOpinion(why) if why.is_empty() => {}
                Decision::NoOpinion(why) => reasons.push(why),
                Decision::Failed { denied: false, why } => failures.push(why),
                Decision::Failed { denied: true, why } => {
                    failures.push(why);
                    denied = true;
                    break;
                }
                Decision::Deny(_) if !failures.is_empty() => {
                    denied = true;
                    break;
                }
                opinion => return opinion,
            }
        }
        match failures.len() {
            0 => Decision::NoOpinion(reasons.join("\n")),
            1 => Decision::Failed { denied, why: failures.remove(0) },
            _ => Decision::Failed { denied, why: format!("[{}]", failures.join(", ")) },
        }
    }

    fn lists_rules(&self) -> Result<(), &'static str> {
        self.0.iter().try_for_each(|authorizer| authorizer.lists_rules())
    }
}

/// Lets `system:masters` do everything, so that nobody can lock themselves out for good.
#[derive(Clone, Copy, Debug, Default)]
pub struct Masters;

#[async_trait]
impl Authorizer for Masters {
    async fn authorize(&self, user: &User, _: &Attributes) -> Decision {
        if user.in_group(MASTERS) { Decision::Allow(String::new()) } else { Decision::NoOpinion(String::new()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Always(Decision);

    #[async_trait]
    impl Authorizer for Always {
        async fn authorize(&self, _: &User, _: &Attributes) -> Decision {
            self.0.clone()
        }
    }

    async fn check(decisions: &[Decision], expected: Decision) {
        let all = decisions.iter().map(|decision| Arc::new(Always(decision.clone())) as Arc<dyn Authorizer>);
        let union = FirstOpinion::new(all.collect());
        assert_eq!(union.authorize(&User::default(), &Attributes::default()).await, expected);
    }

    #[tokio::test]
    async fn the_first_opinion_wins() {
        let (allow, deny) = (Decision::Allow("a".into()), Decision::Deny("d".into()));
        let none = |why: &str| Decision::NoOpinion(why.into());
        check(&[none("x"), allow.clone(), deny.clone()], allow).await;
        check(&[deny.clone(), Decision::Allow("a".into())], deny).await;
        check(&[none("x"), none(""), none("y")], none("x\ny")).await;
        check(&[], none("")).await;
    }

    #[tokio::test]
    async fn failures_count_only_where_nobody_allows() {
        let failed = |denied, why: &str| Decision::Failed { denied, why: why.into() };
        let allow = Decision::Allow("a".into());
        check(&[failed(false, "x"), allow.clone()], allow.clone()).await;
        check(&[failed(true, "x"), allow.clone()], failed(true, "x")).await;
        check(&[failed(false, "x"), Decision::NoOpinion("r".into())], failed(false, "x")).await;
        check(&[failed(false, "x"), failed(false, "y")], failed(false, "[x, y]")).await;
        check(&[failed(false, "x"), Decision::Deny("d".into()), allow], failed(true, "x")).await;
    }
}

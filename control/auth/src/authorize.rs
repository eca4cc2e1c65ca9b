//! Several authorizers as one, and the one that needs no file of its own.
//!
//! Source: `k8s.io/apiserver/pkg/authorization/{union,authorizerfactory}`.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{Attributes, Authorizer, Decision, MASTERS, User};

/// Asks each in turn: the first that has an opinion wins. What those without one had to say is kept, a line each.
pub struct FirstOpinion(Vec<Arc<dyn Authorizer>>);

impl FirstOpinion {
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Self {
        Self(authorizers)
    }
}

#[async_trait]
impl Authorizer for FirstOpinion {
    async fn authorize(&self, user: &User, attributes: &Attributes) -> Decision {
        let mut reasons = Vec::new();
        for authorizer in &self.0 {
            match authorizer.authorize(user, attributes).await {
                Decision::NoOpinion(why) if why.is_empty() => {}
                Decision::NoOpinion(why) => reasons.push(why),
                opinion => return opinion,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
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
}

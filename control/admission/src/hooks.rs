//! Hooks: what webhooks and components in this process have in common. Which writes they are about, the order in which they
//! are asked, what their failure means, and which of them are asked again.
//!
//! Source: `k8s.io/apiserver/pkg/admission/plugin/webhook/{generic,mutating,validating}`. How a hook is asked and what is told
//! of it is its [`Asker`]'s.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use wharf_types::ApiError;
use wharf_types::k8s::api::admissionregistration::v1::MatchCondition;

use crate::activation::Activation;
use crate::conditions::Conditions;
use crate::matching::Matcher;
use crate::reinvocation::{Reinvocation, Round};
use crate::subject::{Subject, View};
use crate::{Attributes, Notes, Reader};

/// Why a hook's answer, or the lack of one, is not a yes.
#[derive(Debug)]
pub enum Refusal {
    /// It could not be asked, or made no sense: the failure policy decides.
    Failed(String),
    /// It said no, or this server did in its stead.
    Denied(ApiError),
}

/// Which writes a hook is about: those of its rules where its conditions hold.
pub struct Gate {
    matcher: Matcher,
    conditions: Conditions,
    ignores_failure: bool,
}

impl Gate {
    pub fn new(matcher: Matcher, conditions: Option<&[MatchCondition]>, failure_policy: Option<&str>) -> Self {
        let conditions = Conditions::compile(conditions.unwrap_or_default());
        Self { matcher, conditions, ignores_failure: failure_policy == Some("Ignore") }
    }

    /// What the hook is to be shown of the write; none where it is not to be asked.
    async fn view(
        &self,
        write: &Attributes,
        subject: &Subject,
        cluster: &dyn Reader,
    ) -> Result<Option<Arc<View>>, ApiError> {
        let Some(row) = self.matcher.matches(write, cluster)? else { return Ok(None) };
        let view = subject.view(write, &row).await.map_err(ApiError::internal)?;
        Ok(self.is_wanted(write, &view, cluster)?.then_some(view))
    }

    fn is_wanted(&self, write: &Attributes, view: &View, cluster: &dyn Reader) -> Result<bool, ApiError> {
        if self.conditions.is_empty() {
            return Ok(true);
        }
        let activation = Activation::new(view, None, None, &write.user, cluster);
        match self.conditions.hold(&activation.variables()) {
            Ok(hold) => Ok(hold),
            Err(_) if self.ignores_failure => Ok(false),
            Err(why) => Err(ApiError::forbidden(&write.row.gvr, write.object_name(), why)),
        }
    }
}

/// One hook.
pub trait Hook: Send + Sync {
    /// Tells the hooks of one plugin apart.
    fn uid(&self) -> &str;
    fn gate(&self) -> &Gate;
    /// True for one that changes objects and is called again where something changes after it.
    fn is_reinvoked(&self) -> bool;
}

/// Asks hooks of one sort.
#[async_trait]
pub trait Asker: Send + Sync {
    type Hook: Hook;
    /// What a hook may want done to the object.
    type Change: Send;

    async fn ask(
        &self,
        hook: &Self::Hook,
        asked: (&Attributes, &View),
        cluster: &dyn Reader,
        notes: &mut Notes,
    ) -> Result<Option<Self::Change>, Refusal>;

    /// As the client is told of a hook that could not be asked.
    fn failed(&self, hook: &Self::Hook, why: &str) -> ApiError;

    /// Tells of a hook that could not be asked and is passed over. `place` is the round and the hook's place in it.
    fn passed_over(&self, hook: &Self::Hook, why: &str, place: &str, notes: &mut Notes);

    /// An answer as it counts; none where the hook is passed over.
    fn judge<T>(
        &self,
        hook: &Self::Hook,
        answer: Result<T, Refusal>,
        (place, notes): (&str, &mut Notes),
    ) -> Result<Option<T>, ApiError> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(Refusal::Failed(why)) if hook.gate().ignores_failure => {
                self.passed_over(hook, &why, place, notes);
                Ok(None)
            }
            Err(Refusal::Failed(why)) => Err(self.failed(hook, &why)),
            Err(Refusal::Denied(error)) => Err(error),
        }
    }
}

/// Asks hooks that change objects.
#[async_trait]
pub trait Changer: Asker {
    /// What is remembered of this sort's hooks from one round to the next.
    fn round(reinvocation: &mut Reinvocation) -> &mut Round;

    /// Does to the object what the hook wants; true if that changed it.
    async fn apply(
        &self,
        hook: &Self::Hook,
        change: Self::Change,
        write: &mut Attributes,
        shown: (&View, &Subject),
        told: (&str, &mut Notes),
    ) -> Result<bool, Refusal>;

    /// Tells whether the hook has changed the object.
    fn tell(&self, hook: &Self::Hook, changed: bool, place: &str, notes: &mut Notes);
}

/// Asks hooks that change objects one after another: each sees what those before it have made of the object.
pub async fn change<A: Changer>(
    asker: &A,
    hooks: &[A::Hook],
    write: &mut Attributes,
    cluster: &dyn Reader,
    notes: &mut Notes,
) -> Result<(), ApiError> {
    if hooks.is_empty() || write.configures_admission() {
        return Ok(());
    }
    let again = write.reinvocation.again;
    let round = A::round(&mut write.reinvocation);
    if again && round.changed_since(write.object.as_deref()) {
        round.require();
    }
    let result = walk(asker, hooks, write, cluster, notes).await;
    A::round(&mut write.reinvocation).last_output = write.object.as_ref().map(|object| object.clone_box());
    result
}

async fn walk<A: Changer>(
    asker: &A,
    hooks: &[A::Hook],
    write: &mut Attributes,
    cluster: &dyn Reader,
    notes: &mut Notes,
) -> Result<(), ApiError> {
    let subject = Subject::default();
    let again = write.reinvocation.again;
    for (index, hook) in hooks.iter().enumerate() {
        let left_out = again && !A::round(&mut write.reinvocation).wanted(hook.uid());
        if left_out {
            continue;
        }
        let Some(view) = hook.gate().view(write, &subject, cluster).await? else { continue };
        let place = format!("round_{}_index_{index}", u8::from(again));
        let answer = match asker.ask(hook, (write, &view), cluster, notes).await {
            Ok(Some(change)) => asker.apply(hook, change, write, (&view, &subject), (&place, notes)).await,
            Ok(None) => Ok(false),
            Err(refusal) => Err(refusal),
        };
        let changed = matches!(answer, Ok(true));
        asker.tell(hook, changed, &place, notes);
        if changed {
            A::round(&mut write.reinvocation).require();
            write.reinvocation.wanted = true;
        }
        if hook.is_reinvoked() {
            A::round(&mut write.reinvocation).add(hook.uid());
        }
        asker.judge(hook, answer, (&place, notes))?;
    }
    Ok(())
}

/// Asks hooks that judge objects, all at once; the first refusal counts.
pub async fn validate<A: Asker>(
    asker: &A,
    hooks: &[A::Hook],
    write: &Attributes,
    cluster: &dyn Reader,
    notes: &mut Notes,
) -> Result<(), ApiError> {
    if hooks.is_empty() || write.configures_admission() {
        return Ok(());
    }
    let subject = Subject::default();
    let mut asked: Vec<(&A::Hook, Arc<View>)> = Vec::new();
    for hook in hooks {
        let view = hook.gate().view(write, &subject, cluster).await?;
        asked.extend(view.map(|view| (hook, view)));
    }
    let answers = asked.iter().map(|(hook, view)| async move {
        let mut notes = Notes::default();
        (asker.ask(hook, (write, view), cluster, &mut notes).await, notes)
    });
    let answers = join_all(answers).await;
    let mut refused = None;
    for (index, ((hook, _), (verdict, said))) in asked.iter().zip(answers).enumerate() {
        notes.absorb(said);
        let place = format!("round_0_index_{index}");
        refused = refused.or(asker.judge(hook, verdict, (&place, notes)).err());
    }
    refused.map_or(Ok(()), Err)
}

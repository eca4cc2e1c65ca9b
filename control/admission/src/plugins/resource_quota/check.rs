//! What a write does to the quotas of its namespace. Pure. Source: `CheckRequest`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;
use wharf_machinery::quota::{self, Amounts, Evaluator, read};
use wharf_types::k8s::api::core::v1::{ResourceQuota, ScopedResourceSelectorRequirement};
use wharf_types::{AnyObject, ApiError, BoxObject};

/// Pods on their way out have not ended yet, as far as admission is concerned.
const NOW: Timestamp = Timestamp::MIN;

/// What a write asks of the quotas.
pub struct Demand {
    pub evaluator: Evaluator,
    pub object: BoxObject,
    /// What an update replaces.
    pub old: Option<BoxObject>,
    /// A status only reports what is used already: it is charged and never refused.
    pub is_status: bool,
    /// False where nothing will come of the write.
    pub charges: bool,
    /// The refusal, but for its reason.
    pub refuse: ApiError,
    /// What the configuration wants covered by some quota.
    pub limited: Vec<Limited>,
}

/// A resource that is not to be used where no quota speaks of it. Source: `resourcequota.LimitedResource`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Limited {
    pub api_group: String,
    pub resource: String,
    /// Parts of the names that a quota counts by.
    pub match_contains: Vec<String>,
    pub match_scopes: Vec<ScopedResourceSelectorRequirement>,
}

impl Demand {
    fn refused(&self, why: impl std::fmt::Display) -> ApiError {
        let mut error = self.refuse.clone();
        error.message += &why.to_string();
        error
    }

    /// Names of what the write uses that must be covered.
    fn limited_names(&self, usage: &Amounts) -> BTreeSet<String> {
        let about =
            |limit: &&Limited| limit.api_group == self.evaluator.group() && limit.resource == self.evaluator.resource();
        let parts: Vec<&String> = self.limited.iter().filter(about).flat_map(|limit| &limit.match_contains).collect();
        let used = usage.iter().filter(|(_, amount)| !amount.is_zero() && !amount.is_negative()).map(|(name, _)| name);
        used.filter(|name| parts.iter().any(|part| name.contains(*part))).cloned().collect()
    }

    /// Scopes that the object is in and that must be covered.
    fn limited_scopes(&self) -> Vec<&ScopedResourceSelectorRequirement> {
        let all = self.limited.iter().flat_map(|limit| &limit.match_scopes);
        all.filter(|scope| self.evaluator.in_scope(scope, &*self.object)).collect()
    }

    /// Refuses what no quota covers.
    fn check_covered(
        &self,
        usage: &Amounts,
        restricted: &BTreeSet<String>,
        scopes: &BTreeSet<String>,
    ) -> Result<(), ApiError> {
        let bare: Vec<String> = self.limited_names(usage).difference(restricted).cloned().collect();
        if !bare.is_empty() {
            return Err(self.refused(format_args!("insufficient quota to consume: {}", bare.join(","))));
        }
        let open = self.limited_scopes().into_iter().filter(|scope| !scopes.contains(&scope.scope_name));
        let open: Vec<String> = open.map(shown).collect();
        if !open.is_empty() {
            // No refusal, but an error of nobody's: so it is upstream.
            let why = format!("insufficient quota to match these scopes: [{}]", open.join(" "));
            return Err(ApiError::new(500, "", why));
        }
        Ok(())
    }

    /// What the write adds to the use of a quota; all of it, where the quota did not count what was there before.
    fn cost(&self, quota: &ResourceQuota, usage: &Amounts) -> Amounts {
        self.change(usage, |old| self.evaluator.matches(quota, old))
    }

    /// True where the write uses anything that was not used before.
    fn adds(&self, usage: &Amounts) -> bool {
        !self.change(usage, |_| true).is_empty()
    }

    fn change(&self, usage: &Amounts, counted: impl Fn(&dyn AnyObject) -> bool) -> Amounts {
        let before = self.old.as_ref().filter(|old| {
            let is_stored = old.meta().resource_version.as_ref().is_some_and(|version| !version.is_empty());
            is_stored && counted(&***old)
        });
        let mut cost = match before {
            Some(old) => quota::excess(usage, &self.evaluator.usage(&**old, NOW)),
            None => usage.clone(),
        };
        cost.retain(|_, amount| !amount.is_zero());
        cost
    }
}

/// A scope as Go prints one.
fn shown(scope: &ScopedResourceSelectorRequirement) -> String {
    format!("{{{} {} [{}]}}", scope.scope_name, scope.operator, scope.values.as_deref().unwrap_or_default().join(" "))
}

/// The quotas as they are after the write; none where it changes nothing.
pub fn charge(quotas: &[ResourceQuota], demand: &Demand) -> Result<Option<Vec<ResourceQuota>>, ApiError> {
    let (mut concerned, mut named, mut scopes) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (index, quota) in quotas.iter().enumerate() {
        let held = quota::scopes(quota).into_iter().filter(|scope| demand.evaluator.in_scope(scope, &*demand.object));
        scopes.extend(held.map(|scope| scope.scope_name));
        if !demand.evaluator.matches(quota, &*demand.object) {
            continue;
        }
        let (hard, used) = status(quota);
        let name = quota.metadata.name.as_deref().unwrap_or_default();
        let restricted = demand.evaluator.matching(hard.keys());
        demand
            .evaluator
            .constraints(&restricted, &*demand.object)
            .map_err(|why| demand.refused(format_args!("failed quota: {name}: {why}")))?;
        if restricted.iter().any(|resource| !used.contains_key(resource)) {
            let resources = restricted.join(",");
            return Err(demand.refused(format_args!("status unknown for quota: {name}, resources: {resources}")));
        }
        concerned.push(index);
        named.extend(restricted);
    }
    let usage = demand.evaluator.usage(&*demand.object, NOW);
    let negative: Vec<&str> =
        usage.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(demand.refused(format_args!("quota usage is negative for resource(s): {}", negative.join(","))));
    }
    let adds = match concerned.as_slice() {
        [] => demand.adds(&usage),
        some => some.iter().any(|index: &usize| !demand.cost(&quotas[*index], &usage).is_empty()),
    };
    if adds {
        demand.check_covered(&usage, &named, &scopes)?;
    }
    let mut charged: BTreeMap<usize, ResourceQuota> = BTreeMap::new();
    for index in concerned {
        let quota = &quotas[index];
        let (hard, mut used) = status(quota);
        let asked = quota::mask(&demand.cost(quota, &usage), hard.keys());
        if asked.is_empty() {
            continue;
        }
        quota::add(&mut used, &asked);
        let over: Vec<String> = asked.keys().filter(|name| used[*name] > hard[*name]).cloned().collect();
        if !over.is_empty() && !demand.is_status {
            let of = |amounts: &Amounts| quota::show(&quota::mask(amounts, &over));
            let (_, before) = status(quota);
            return Err(demand.refused(format_args!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                quota.metadata.name.as_deref().unwrap_or_default(),
                of(&asked),
                of(&before),
                of(&hard)
            )));
        }
        let mut quota = quota.clone();
        quota.status.get_or_insert_default().used = Some(quota::write(&used));
        charged.insert(index, quota);
    }
    if charged.is_empty() {
        return Ok(None);
    }
    let after = quotas.iter().enumerate().map(|(index, quota)| charged.remove(&index).unwrap_or_else(|| quota.clone()));
    Ok(Some(after.collect()))
}

/// What the quota allows and what is used of it.
fn status(quota: &ResourceQuota) -> (Amounts, Amounts) {
    let status = quota.status.as_ref();
    (read(status.and_then(|it| it.hard.as_ref())), read(status.and_then(|it| it.used.as_ref())))
}

//! What a write does to the quotas of its namespace. Pure. Source: `CheckRequest`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use wharf_machinery::quota::{self, Amounts, Evaluator, read};
use wharf_types::k8s::api::core::v1::ResourceQuota;
use wharf_types::{ApiError, BoxObject};

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
}

impl Demand {
    fn refused(&self, why: impl std::fmt::Display) -> ApiError {
        let mut error = self.refuse.clone();
        error.message += &why.to_string();
        error
    }

    /// What the write adds to the use of a quota.
    fn cost(&self, quota: &ResourceQuota, usage: &Amounts) -> Amounts {
        let before = self.old.as_ref().filter(|old| {
            let is_stored = old.meta().resource_version.as_ref().is_some_and(|version| !version.is_empty());
            is_stored && self.evaluator.matches(quota, &***old)
        });
        let mut cost = match before {
            Some(old) => quota::excess(usage, &self.evaluator.usage(&**old, NOW)),
            None => usage.clone(),
        };
        cost.retain(|_, amount| !amount.is_zero());
        cost
    }
}

/// The quotas as they are after the write; none where it changes nothing.
pub fn charge(quotas: &[ResourceQuota], demand: &Demand) -> Result<Option<Vec<ResourceQuota>>, ApiError> {
    let mut concerned = Vec::new();
    for (index, quota) in quotas.iter().enumerate() {
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
    }
    let usage = demand.evaluator.usage(&*demand.object, NOW);
    let negative: Vec<&str> =
        usage.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(demand.refused(format_args!("quota usage is negative for resource(s): {}", negative.join(","))));
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

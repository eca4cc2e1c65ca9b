//! How many replicas each ReplicaSet of a Deployment gets.
//!
//! A [`Rollout`] is a working copy: sets are changed in it first, and what changed becomes steps.
//! Source: `rolling.go`, `recreate.go`, `sync.go` and `util/deployment_util.go`.

use std::cmp::Reverse;
use std::sync::Arc;

use wharf_types::k8s::api::apps::v1::{Deployment, ReplicaSet};

use super::plan::Step;
use super::revision;
use crate::share;

/// A ReplicaSet as it will be.
pub struct Set {
    pub rs: ReplicaSet,
    /// Not on the server yet.
    pub fresh: bool,
    /// `spec.replicas` as the server has it.
    pub was: i32,
    pub changed: bool,
}

impl Set {
    pub fn replicas(&self) -> i32 {
        replicas(&self.rs)
    }

    fn available(&self) -> i32 {
        self.rs.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }
}

pub struct Rollout<'a> {
    pub deployment: &'a Deployment,
    /// Sorted by age, oldest first; a fresh one is last.
    pub sets: Vec<Set>,
    /// The set that has the present template.
    pub new: Option<usize>,
    pub desired: i32,
    pub surge: i32,
    pub max_unavailable: i32,
    /// Sets in the order in which they were changed.
    touched: Vec<usize>,
}

pub fn replicas(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// `maxSurge` and `maxUnavailable` as numbers. Source: `ResolveFenceposts`, `MaxSurge`, `MaxUnavailable`.
pub fn fenceposts(deployment: &Deployment, desired: i32) -> (i32, i32) {
    if is_recreate(deployment) {
        return (0, 0);
    }
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = share::scaled(rolling.and_then(|rolling| rolling.max_surge.as_ref()), desired, true);
    let mut unavailable = share::scaled(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), desired, false);
    if surge == 0 && unavailable == 0 {
        // Validation refuses both as zero, but percentages may round to it, and then nothing would ever move.
        unavailable = 1;
    }
    (surge, unavailable.min(desired))
}

impl<'a> Rollout<'a> {
    pub fn new(deployment: &'a Deployment, sets: &[Arc<ReplicaSet>]) -> Self {
        let desired = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let (surge, max_unavailable) = fenceposts(deployment, desired);
        let mut sets: Vec<Set> = sets
            .iter()
            .map(|rs| Set { rs: ReplicaSet::clone(rs), fresh: false, was: replicas(rs), changed: false })
            .collect();
        sets.sort_by(|one, two| age(&one.rs).cmp(&age(&two.rs)));
        let template = deployment.spec.as_ref().map(|spec| &spec.template);
        // The oldest of several that match, as upstream chooses: the choice must not move.
        let new = sets.iter().position(|set| {
            let of_set = set.rs.spec.as_ref().and_then(|spec| spec.template.as_ref());
            of_set.zip(template).is_some_and(|(one, other)| revision::same_template(one, other))
        });
        Self { deployment, sets, new, desired, surge, max_unavailable, touched: Vec::new() }
    }

    /// Makes sure that there is a set for the present template, and that it carries the revision and annotations it should.
    /// Returns its revision.
    pub fn ensure_new(&mut self) -> i64 {
        let old_revisions = (0..self.sets.len()).filter(|&at| Some(at) != self.new);
        let revision = old_revisions.map(|at| revision::revision_of(&self.sets[at].rs.metadata)).max().unwrap_or(0) + 1;
        if let Some(at) = self.new {
            let min_ready_s = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
            let mut changed = revision::annotate(self.deployment, &mut self.sets[at].rs, revision);
            if let Some(spec) = &mut self.sets[at].rs.spec
                && spec.min_ready_seconds.unwrap_or(0) != min_ready_s.unwrap_or(0)
            {
                spec.min_ready_seconds = min_ready_s;
                changed = true;
            }
            if changed {
                self.touch(at);
            }
            return revision::revision_of(&self.sets[at].rs.metadata);
        }
        let count = self.new_count(0);
        if let Some(rs) = revision::new_set(self.deployment, revision, count, self.desired + self.surge) {
            self.new = Some(self.sets.len());
            self.sets.push(Set { rs, fresh: true, was: 0, changed: false });
            self.touch(self.sets.len() - 1);
        }
        revision
    }

    fn touch(&mut self, at: usize) {
        if !self.sets[at].changed {
            self.sets[at].changed = true;
            self.touched.push(at);
        }
    }

    pub fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.sets.len()).filter(move |at| Some(*at) != new)
    }

    fn active(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|&at| self.sets[at].replicas() > 0).collect()
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(Set::replicas).sum()
    }

    fn scale(&mut self, at: usize, replicas: i32) -> bool {
        let (desired, max) = (self.desired, self.desired + self.surge);
        let set = &mut self.sets[at];
        let scaled = set.replicas() != replicas;
        if let Some(spec) = &mut set.rs.spec {
            spec.replicas = Some(replicas);
        }
        if revision::set_replica_annotations(&mut set.rs, desired, max) || scaled {
            self.touch(at);
        }
        scaled
    }

    /// As above, but leaves a set alone whose size is right.
    fn scale_if_needed(&mut self, at: usize, replicas: i32) -> bool {
        self.sets[at].replicas() != replicas && self.scale(at, replicas)
    }

    /// Source: `NewRSNewReplicas`; `current` is the new set's present size.
    fn new_count(&self, current: i32) -> i32 {
        if is_recreate(self.deployment) {
            return self.desired;
        }
        let room = self.desired + self.surge - self.total();
        if room <= 0 { current } else { current + room.min(self.desired - current) }
    }

    /// The Deployment was scaled since its sets were last sized.
    pub fn is_scaling_event(&self) -> bool {
        let desired_at = |at: usize| revision::number(&self.sets[at].rs, revision::DESIRED_REPLICAS);
        self.active().into_iter().filter_map(desired_at).any(|desired| desired != self.desired)
    }

    /// One step of a rolling update: first the new set grows, then old ones shrink. Source: `rolloutRolling`.
    pub fn roll(&mut self) {
        let Some(new) = self.new else { return };
        if !self.grow_new(new) {
            self.shrink_old(new);
        }
    }

    fn grow_new(&mut self, new: usize) -> bool {
        let current = self.sets[new].replicas();
        if self.sets[new].fresh || current == self.desired {
            return false;
        }
        let count = if current > self.desired { self.desired } else { self.new_count(current) };
        self.scale_if_needed(new, count)
    }

    fn shrink_old(&mut self, new: usize) {
        let min_available = self.desired - self.max_unavailable;
        let new_unavailable = self.sets[new].replicas() - self.sets[new].available();
        let most = self.total() - min_available - new_unavailable;
        if most > 0 {
            self.drop_unhealthy(most);
            self.drop_available(min_available);
        }
    }

    /// Old pods that do not serve anyway go first.
    fn drop_unhealthy(&mut self, most: i32) {
        let mut dropped = 0;
        for at in self.old() {
            let (size, available) = (self.sets[at].replicas(), self.sets[at].available());
            if dropped >= most {
                return;
            }
            let count = (most - dropped).min(size - available);
            if size > 0 && count > 0 {
                self.scale_if_needed(at, size - count);
                dropped += count;
            }
        }
    }

    fn drop_available(&mut self, min_available: i32) {
        let available: i32 = self.sets.iter().map(Set::available).sum();
        let mut left = available - min_available;
        for at in self.old() {
            let count = self.sets[at].replicas().min(left);
            if count > 0 {
                self.scale_if_needed(at, self.sets[at].replicas() - count);
                left -= count;
            }
        }
    }

    /// Scales all old sets to nothing. True if that changed any.
    pub fn stop_old(&mut self) -> bool {
        self.old().filter(|&at| self.scale_if_needed(at, 0)).count() > 0
    }

    pub fn start_new(&mut self) {
        if let Some(new) = self.new.filter(|&new| !self.sets[new].fresh) {
            self.scale_if_needed(new, self.desired);
        }
    }

    /// Brings the sets to the Deployment's size outside of a rollout, or in the middle of one. Source: `scale`.
    pub fn resize(&mut self) {
        if let Some(only) = self.active_or_latest() {
            self.scale_if_needed(only, self.desired);
        } else if self.is_saturated() {
            self.stop_old();
        } else if !is_recreate(self.deployment) {
            self.resize_in_proportion();
        }
    }

    /// The one set that has replicas, or the latest if none has.
    fn active_or_latest(&self) -> Option<usize> {
        match self.active()[..] {
            [] => self.new.or_else(|| self.old().last()),
            [only] => Some(only),
            _ => None,
        }
    }

    fn is_saturated(&self) -> bool {
        self.new.map(|new| &self.sets[new]).is_some_and(|new| {
            revision::number(&new.rs, revision::DESIRED_REPLICAS) == Some(self.desired)
                && new.replicas() == self.desired
                && new.available() == self.desired
        })
    }

    /// Spreads what is to be added or removed over the sets by their size; what rounding leaves goes to the largest.
    fn resize_in_proportion(&mut self) {
        let mut active = self.active();
        let total: i32 = active.iter().map(|&at| self.sets[at].replicas()).sum();
        let allowed = if self.desired > 0 { self.desired + self.surge } else { 0 };
        let to_add = allowed - total;
        // Largest first; of equals the newer when growing, the older when shrinking.
        if to_add > 0 {
            active.sort_by_key(|&at| Reverse((self.sets[at].replicas(), at)));
        } else {
            active.sort_by_key(|&at| (Reverse(self.sets[at].replicas()), at));
        }
        let mut added = 0;
        let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
        for &at in &active {
            let share = self.share(at, to_add, added);
            sizes.push(self.sets[at].replicas() + share);
            added += share;
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (at, size) in active.into_iter().zip(sizes) {
            self.scale(at, size);
        }
    }

    /// Source: `GetReplicaSetProportion`.
    fn share(&self, at: usize, to_add: i32, added: i32) -> i32 {
        let set = &self.sets[at];
        if set.replicas() == 0 || to_add == 0 || to_add == added {
            return 0;
        }
        let fraction = self.fraction(set);
        if to_add > 0 { fraction.min(to_add - added) } else { fraction.max(to_add - added) }
    }

    /// By how much the set would change if it changed as the Deployment did. Source: `getReplicaSetFraction`.
    fn fraction(&self, set: &Set) -> i32 {
        if self.desired == 0 {
            return -set.replicas();
        }
        let noted = revision::number(&set.rs, revision::MAX_REPLICAS).filter(|max| *max != 0);
        let before = noted.or_else(|| self.deployment.status.as_ref()?.replicas).unwrap_or(0);
        if before == 0 {
            return 0;
        }
        let after = f64::from(set.replicas()) * f64::from(self.desired + self.surge) / f64::from(before);
        after.round() as i32 - set.replicas()
    }

    /// Old sets beyond the history limit that are empty and settled. Source: `cleanupDeployment`.
    pub fn obsolete(&self) -> Vec<usize> {
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return Vec::new() };
        let mut old: Vec<usize> =
            self.old().filter(|&at| self.sets[at].rs.metadata.deletion_timestamp.is_none()).collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        old.sort_by_key(|&at| (revision::revision_of(&self.sets[at].rs.metadata), at));
        old.truncate(surplus);
        old.retain(|&at| {
            let rs = &self.sets[at].rs;
            let status = rs.status.as_ref();
            status.map_or(0, |status| status.replicas) == 0
                && self.sets[at].replicas() == 0
                && rs.metadata.generation <= status.and_then(|status| status.observed_generation).or(Some(0))
        });
        old
    }

    /// What changed, in order: creations first.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = self
            .touched
            .iter()
            .map(|&at| {
                let set = &self.sets[at];
                let rs = Box::new(set.rs.clone());
                let scaled = Some((set.was, set.replicas())).filter(|(from, to)| from != to);
                if set.fresh { Step::Create(rs) } else { Step::Update { rs, scaled } }
            })
            .collect();
        steps.sort_by_key(|step| !matches!(step, Step::Create(_)));
        steps
    }
}

fn age(rs: &ReplicaSet) -> (Option<jiff::Timestamp>, Option<&str>) {
    (rs.metadata.creation_timestamp.as_ref().map(|time| time.0), rs.metadata.name.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_types::k8s::api::apps::v1::{DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
    use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;

    fn check(surge: &str, unavailable: &str, desired: i32, expected: (i32, i32)) {
        let parse = |text: &str| text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int);
        let rolling_update =
            RollingUpdateDeployment { max_surge: Some(parse(surge)), max_unavailable: Some(parse(unavailable)) };
        let strategy = DeploymentStrategy { type_: None, rolling_update: Some(rolling_update) };
        let spec = DeploymentSpec { strategy: Some(strategy), ..DeploymentSpec::default() };
        let deployment = Deployment { spec: Some(spec), ..Deployment::default() };
        assert_eq!(fenceposts(&deployment, desired), expected, "{surge} {unavailable} of {desired}");
    }

    #[test]
    fn surge_rounds_up_and_unavailability_down_but_never_both_to_zero() {
        check("25%", "25%", 10, (3, 2));
        check("25%", "25%", 1, (1, 0));
        check("0", "25%", 1, (0, 1));
        check("0", "0%", 10, (0, 1));
        check("2", "5", 3, (2, 3));
        check("100%", "100%", 3, (3, 3));
        check("25%", "25%", 0, (0, 0));
    }
}

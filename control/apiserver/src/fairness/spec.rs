//! What a priority level is allowed. Source: `PriorityLevelConfigurationSpec` and its defaults.

use wharf_types::k8s::api::flowcontrol::v1::PriorityLevelConfiguration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Never waits and is never refused.
    Exempt {
        shares: u32,
        lendable_percent: u32,
    },
    Limited(Limited),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limited {
    pub shares: u32,
    pub lendable_percent: u32,
    /// None is no limit.
    pub borrowing_percent: Option<u32>,
    /// None refuses what finds no seat.
    pub queuing: Option<Queuing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    pub queues: usize,
    pub hand_size: usize,
    /// Requests that wait in one queue.
    pub length_max: usize,
}

/// Most queues and cards that a level may have. Source: the validation of `QueuingConfiguration`.
const QUEUES_MAX: usize = 10_000_000;

impl Spec {
    pub fn read(object: &PriorityLevelConfiguration) -> Option<Self> {
        let spec = object.spec.as_ref()?;
        let natural = |number: Option<i32>, otherwise: u32| number.map_or(otherwise, |it| it.max(0).unsigned_abs());
        if spec.type_ == "Exempt" {
            let exempt = spec.exempt.as_ref();
            let shares = natural(exempt.and_then(|it| it.nominal_concurrency_shares), 0);
            let lendable_percent = natural(exempt.and_then(|it| it.lendable_percent), 0);
            return Some(Spec::Exempt { shares, lendable_percent });
        }
        let limited = spec.limited.as_ref();
        let response = limited.and_then(|it| it.limit_response.as_ref());
        let queuing = response.filter(|it| it.type_ == "Queue").map(|response| {
            let held = response.queuing.as_ref();
            let queues = (natural(held.and_then(|it| it.queues), 64) as usize).clamp(1, QUEUES_MAX);
            let hand_size = (natural(held.and_then(|it| it.hand_size), 8) as usize).clamp(1, queues);
            Queuing {
                queues,
                hand_size,
                length_max: natural(held.and_then(|it| it.queue_length_limit), 50).max(1) as usize,
            }
        });
        Some(Spec::Limited(Limited {
            shares: natural(limited.and_then(|it| it.nominal_concurrency_shares), 30),
            lendable_percent: natural(limited.and_then(|it| it.lendable_percent), 0).min(100),
            borrowing_percent: limited.and_then(|it| it.borrowing_limit_percent).map(|it| it.max(0).unsigned_abs()),
            queuing,
        }))
    }

    pub fn shares(&self) -> u32 {
        match self {
            Spec::Exempt { shares, .. } => *shares,
            Spec::Limited(limited) => limited.shares,
        }
    }

    pub fn lendable_percent(&self) -> u32 {
        match self {
            Spec::Exempt { lendable_percent, .. } => *lendable_percent,
            Spec::Limited(limited) => limited.lendable_percent,
        }
    }
}

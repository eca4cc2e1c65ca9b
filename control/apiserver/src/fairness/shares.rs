//! How the server's seats are divided among priority levels. Pure.
//!
//! Source: `k8s.io/apiserver/pkg/util/flowcontrol` (`apf_controller.go`, `conc_alloc.go`). Each level has a nominal share; what it
//! lends others may borrow, as their demand of the last period asks for.

use super::spec::Spec;

/// What a level may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub nominal: u32,
    pub lowest: u32,
    pub highest: u32,
}

pub fn bounds(specs: &[Spec], total: u32) -> Vec<Bounds> {
    let all: u64 = specs.iter().map(|spec| u64::from(spec.shares())).sum::<u64>().max(1);
    let of = |spec: &Spec| {
        let nominal = (u64::from(total) * u64::from(spec.shares())).div_ceil(all) as u32;
        let percent = |percent: u32| (f64::from(nominal) * f64::from(percent) / 100.0).round() as u32;
        let highest = match spec {
            Spec::Limited(limited) => limited.borrowing_percent.map_or(total, |limit| nominal + percent(limit)),
            Spec::Exempt { .. } => total,
        };
        Bounds {
            nominal,
            lowest: nominal.saturating_sub(percent(spec.lendable_percent())),
            highest: highest.max(nominal),
        }
    };
    specs.iter().map(of).collect()
}

/// How much a level wanted in the last period.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Most seats wanted at once.
    pub peak: u32,
    /// Seats wanted, smoothed over many periods.
    pub smooth: f64,
}

/// What an idle level is taken to want, so that it can be given what nobody else does.
const TARGET_MIN: f64 = 0.01;

/// Divides `total` among levels: each gets at least what it wanted of its own and at most its bound, and between them the same
/// fraction of its demand as every other.
pub fn divide(levels: &[(Bounds, Demand)], total: u32) -> Vec<u32> {
    struct Item {
        low: f64,
        high: f64,
        target: f64,
    }
    let item = |(bounds, demand): &(Bounds, Demand)| {
        let low = f64::from(bounds.lowest.max(bounds.nominal.min(demand.peak)));
        Item { low, high: f64::from(bounds.highest).max(low), target: demand.smooth.max(low).max(TARGET_MIN) }
    };
    let items: Vec<Item> = levels.iter().map(item).collect();
    let at = |fraction: f64| items.iter().map(move |it| (it.target * fraction).clamp(it.low, it.high));
    let total = f64::from(total);
    let lowest: f64 = items.iter().map(|it| it.low).sum();
    if lowest >= total {
        return items.iter().map(|it| (it.low * total / lowest).round().max(1.0) as u32).collect();
    }
    let (mut low, mut high) = (0.0, 1.0);
    while at(high).sum::<f64>() < total && items.iter().any(|it| it.target * high < it.high) {
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if at(middle).sum::<f64>() < total { low = middle } else { high = middle }
    }
    at(high).map(|seats| seats.round() as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::super::spec::{Limited, Queuing};
    use super::*;

    fn limited(shares: u32, lendable_percent: u32, borrowing_percent: Option<u32>) -> Spec {
        let queuing = Some(Queuing { queues: 1, hand_size: 1, length_max: 1 });
        Spec::Limited(Limited { shares, lendable_percent, borrowing_percent, queuing })
    }

    fn check(specs: &[Spec], demands: &[u32], expected: &[u32]) {
        let bounds = bounds(specs, 100);
        let demand = |seats: &u32| Demand { peak: *seats, smooth: f64::from(*seats) };
        let levels: Vec<_> = bounds.into_iter().zip(demands.iter().map(demand)).collect();
        assert_eq!(divide(&levels, 100), expected, "{demands:?}");
    }

    #[test]
    fn idle_levels_lend_to_busy_ones() {
        let specs = [limited(50, 50, None), limited(50, 50, None)];
        check(&specs, &[50, 50], &[50, 50]);
        check(&specs, &[200, 0], &[75, 25]);
        check(&specs, &[200, 200], &[50, 50]);
        check(&[limited(50, 100, None), limited(50, 0, Some(20))], &[0, 500], &[40, 60]);
    }

    #[test]
    fn shares_are_bounds() {
        let exempt = Spec::Exempt { shares: 0, lendable_percent: 0 };
        let found = bounds(&[exempt, limited(30, 33, None), limited(10, 0, Some(10))], 600);
        let shown: Vec<_> = found.iter().map(|it| (it.nominal, it.lowest, it.highest)).collect();
        assert_eq!(shown, [(0, 0, 600), (450, 301, 600), (150, 150, 165)]);
    }
}

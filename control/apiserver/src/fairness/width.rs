//! How many seats a request takes. Source: `k8s.io/apiserver/pkg/util/flowcontrol/request`.

use std::time::Duration;

use crate::query::Query;
use crate::request::{Info, Target, Verb};

/// Most seats that a request takes. Source: `maximumSeatsLimit`.
const SEATS_MAX: u32 = 10;
/// Objects that a list looks at for each seat. Source: `objectsPerSeat`.
const OBJECTS_PER_SEAT: usize = 100;
/// Watchers that a write wakes for each seat, and how long that takes. Source: `watchesPerSeat`, `eventAdditionalDuration`.
const WATCHERS_PER_SEAT: usize = 10;
const EVENT_TIME: Duration = Duration::from_millis(5);

/// What a request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    pub seats: u32,
    /// Seats that stay taken when the request is done, while watchers are told, and for how long.
    pub after: Option<(u32, Duration)>,
}

impl Width {
    pub const ONE: Self = Self { seats: 1, after: None };

    /// `held` tells how many objects and watchers the request's collection has.
    pub fn of(info: &Info, query: &Query, held: impl FnOnce() -> (usize, usize)) -> Self {
        let Target::Resource(resource) = &info.target else { return Self::ONE };
        match info.verb {
            Verb::List if resource.name.is_none() => {
                let (objects, _) = held();
                Self { seats: for_list(query, objects), after: None }
            }
            Verb::Watch if resource.name.is_none() && query.optional_flag("sendInitialEvents") == Some(true) => {
                let (objects, _) = held();
                Self { seats: seats(objects), after: None }
            }
            Verb::Create | Verb::Update | Verb::Patch | Verb::Delete
                if resource.subresource.as_deref() != Some("token") =>
            {
                let (_, watchers) = held();
                Self { seats: 1, after: for_watchers(watchers) }
            }
            _ => Self::ONE,
        }
    }
}

/// A list that is limited and reads the newest state costs by its limit; any other by the collection.
fn for_list(query: &Query, objects: usize) -> u32 {
    let limit = query.get("limit").and_then(|text| text.parse::<usize>().ok()).filter(|limit| *limit > 0);
    let is_cached = query.get("resourceVersion") == Some("0");
    let has_selector =
        ["labelSelector", "fieldSelector"].iter().any(|name| query.get(name).is_some_and(|it| !it.is_empty()));
    let looked_at = match limit {
        Some(limit) if !is_cached && has_selector => objects.saturating_add(limit),
        Some(limit) if !is_cached => objects.min(limit.saturating_mul(2)),
        _ => objects,
    };
    seats(looked_at)
}

fn seats(objects: usize) -> u32 {
    u32::try_from(objects.div_ceil(OBJECTS_PER_SEAT)).unwrap_or(SEATS_MAX).clamp(1, SEATS_MAX)
}

fn for_watchers(watchers: usize) -> Option<(u32, Duration)> {
    if watchers < WATCHERS_PER_SEAT {
        return None;
    }
    let wanted = u32::try_from(watchers.div_ceil(WATCHERS_PER_SEAT)).unwrap_or(u32::MAX);
    let seats = wanted.min(SEATS_MAX);
    // The same work on fewer seats takes longer.
    Some((seats, EVENT_TIME.mul_f64(f64::from(wanted) / f64::from(seats))))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn check(method: Method, uri: &str, objects: usize, watchers: usize, seats: u32, after: Option<(u32, u64)>) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let query = Query::parse(query);
        let width = Width::of(&Info::parse(&method, path, &query), &query, || (objects, watchers));
        let after = after.map(|(seats, ms)| (seats, Duration::from_millis(ms)));
        assert_eq!(width, Width { seats, after }, "{method} {uri}");
    }

    #[test]
    fn lists_cost_by_what_they_look_at_and_writes_by_whom_they_wake() {
        check(Method::GET, "/api/v1/pods", 450, 0, 5, None);
        check(Method::GET, "/api/v1/pods", 100_000, 0, 10, None);
        check(Method::GET, "/api/v1/pods?limit=50", 100_000, 0, 1, None);
        check(Method::GET, "/api/v1/pods?limit=50&labelSelector=a", 450, 0, 5, None);
        check(Method::GET, "/api/v1/pods?limit=50&resourceVersion=0", 450, 0, 5, None);
        check(Method::GET, "/api/v1/namespaces/a/pods/b", 100_000, 0, 1, None);
        check(Method::POST, "/api/v1/namespaces/a/pods", 0, 9, 1, None);
        check(Method::POST, "/api/v1/namespaces/a/pods", 0, 25, 1, Some((3, 5)));
        check(Method::POST, "/api/v1/namespaces/a/pods", 0, 200, 1, Some((10, 10)));
    }
}

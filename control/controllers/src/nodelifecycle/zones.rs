//! How fast nodes that are not ready may lose their pods, zone by zone.
//!
//! Where many nodes fall silent at once, the fault is more likely between them and us. So nodes of a zone lose their pods one
//! after another; more slowly, or not at all, when most of the zone is not ready; and when no node is ready at all, nobody does.
//! Source of the behaviour: `handleDisruption` and `ComputeZoneState` of `k8s.io/kubernetes/pkg/controller/nodelifecycle`,
//! with the defaults of upstream's flags. Pure: time comes in as an argument.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use wharf_client::ObjectKey;
use wharf_types::k8s::api::core::v1::Node;

use super::taints::condition;

/// Between one node of a zone and the next. Source: `--node-eviction-rate`, 0.1 a second.
const PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// In a large zone that is mostly not ready. Source: `--secondary-node-eviction-rate`, 0.01 a second.
const LONG_PAUSE: SignedDuration = SignedDuration::from_secs(100);
/// Zones of more nodes are large. Source: `--large-cluster-size-threshold`.
const LARGE: usize = 50;
/// From so many parts of a hundred on, a zone is mostly not ready. Source: `--unhealthy-zone-threshold`.
const MOSTLY_PERCENT: usize = 55;
/// In smaller numbers there is no share to speak of.
const FEW: usize = 2;

/// A node with this label counts for nothing here.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
const ZONE: [&str; 2] = ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"];
const REGION: [&str; 2] = ["failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"];

/// Region and zone.
pub type Place = (String, String);

/// What counts of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    pub uid: String,
    place: Place,
    ready: bool,
    counts: bool,
}

impl Fact {
    pub fn of(node: &Node) -> Self {
        Self {
            uid: node.metadata.uid.clone().unwrap_or_default(),
            place: place(node),
            ready: condition(node, "Ready").is_some_and(|ready| ready.status == "True"),
            counts: !node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED)),
        }
    }
}

/// Source: `GetZoneKey`; an old label comes before the one that took its place.
pub fn place(node: &Node) -> Place {
    let label = |names: [&str; 2]| {
        let labels = node.metadata.labels.as_ref();
        labels.and_then(|labels| names.iter().find_map(|name| labels.get(*name))).cloned().unwrap_or_default()
    };
    (label(REGION), label(ZONE))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Normal,
    /// Most nodes are not ready.
    Partial,
    /// No node is.
    Full,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    ready: usize,
    unready: usize,
}

impl Count {
    fn state(self) -> State {
        let Count { ready, unready } = self;
        if ready == 0 && unready > 0 {
            State::Full
        } else if unready > FEW && unready * 100 >= (unready + ready) * MOSTLY_PERCENT {
            State::Partial
        } else {
            State::Normal
        }
    }

    /// The pause while others are ready elsewhere; none is for ever.
    fn pause(self) -> Option<SignedDuration> {
        match self.state() {
            State::Partial if self.unready + self.ready > LARGE => Some(LONG_PAUSE),
            State::Partial => None,
            State::Unknown | State::Normal | State::Full => Some(PAUSE),
        }
    }
}

#[derive(Debug)]
struct Zone {
    state: State,
    /// None: no node may begin.
    pause: Option<SignedDuration>,
    /// When the next node may.
    next: Timestamp,
}

impl Zone {
    fn set_pause(&mut self, pause: Option<SignedDuration>, now: Timestamp) -> bool {
        if self.pause == pause {
            return false;
        }
        // Who was waiting goes on waiting.
        let waits = self.pause.is_none() || now < self.next;
        self.pause = pause;
        self.next = pause.filter(|_| waits).map_or(now, |pause| now + pause);
        true
    }
}

/// What a look at all nodes has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    Nothing,
    /// Some zone's pace.
    Pace,
    /// No node is ready any more: evictions are over.
    Stopped,
    /// Some node is ready again, and nodes are to be heard anew.
    Resumed,
}

/// Whether a node may begin to lose its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    Now,
    In(Duration),
    /// Not before a [`Shift`].
    Never,
}

#[derive(Debug, Default)]
pub struct Zones {
    nodes: BTreeMap<ObjectKey, Fact>,
    zones: HashMap<Place, Zone>,
    stopped: bool,
}

impl Zones {
    pub fn fact(&self, node: &ObjectKey) -> Option<&Fact> {
        self.nodes.get(node)
    }

    /// No node is ready.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Takes note of all nodes that there are; returns those that were there before, too.
    pub fn update(&mut self, nodes: BTreeMap<ObjectKey, Fact>, now: Timestamp) -> (Shift, BTreeMap<ObjectKey, Fact>) {
        let mut counts: HashMap<&Place, Count> = HashMap::new();
        for fact in nodes.values() {
            let fresh = || Zone { state: State::Unknown, pause: Some(PAUSE), next: now };
            self.zones.entry(fact.place.clone()).or_insert_with(fresh);
            if fact.counts {
                let count = counts.entry(&fact.place).or_default();
                *(if fact.ready { &mut count.ready } else { &mut count.unready }) += 1;
            }
        }
        let shift = shift(&mut self.zones, &counts, now);
        self.stopped = is_stopped(&counts);
        (shift, std::mem::replace(&mut self.nodes, nodes))
    }

    /// Asks for a node of this place, and takes what is given.
    pub fn leave(&mut self, place: &Place, now: Timestamp) -> Leave {
        let Some(zone) = self.zones.get_mut(place) else { return Leave::Never };
        let Some(pause) = zone.pause else { return Leave::Never };
        if now < zone.next {
            return Leave::In(zone.next.duration_since(now).unsigned_abs());
        }
        zone.next = now + pause;
        Leave::Now
    }
}

fn is_stopped(counts: &HashMap<&Place, Count>) -> bool {
    !counts.is_empty() && counts.values().all(|count| count.state() == State::Full)
}

fn shift(zones: &mut HashMap<Place, Zone>, counts: &HashMap<&Place, Count>, now: Timestamp) -> Shift {
    for (_, zone) in zones.iter_mut().filter(|(place, _)| !counts.contains_key(place)) {
        zone.state = State::Unknown;
    }
    let is_stopped = is_stopped(counts);
    let was_stopped = counts.keys().all(|place| zones[*place].state == State::Full);
    if counts.is_empty() || is_stopped && was_stopped {
        return Shift::Nothing;
    }
    let mut paced = false;
    for (place, count) in counts {
        let Some(zone) = zones.get_mut(*place) else { continue };
        if is_stopped {
            zone.set_pause(None, now);
        } else if was_stopped || zone.state != count.state() {
            paced |= zone.set_pause(count.pause(), now);
        }
        zone.state = count.state();
    }
    match () {
        () if is_stopped => Shift::Stopped,
        () if was_stopped => Shift::Resumed,
        () if paced => Shift::Pace,
        () => Shift::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixtures::now;

    /// `zone` with so many nodes that are ready and so many that are not.
    fn nodes(zones: &[(&str, usize, usize)]) -> BTreeMap<ObjectKey, Fact> {
        let mut nodes = BTreeMap::new();
        for (zone, ready, unready) in zones {
            for number in 0..ready + unready {
                let place = (String::new(), (*zone).to_owned());
                let fact = Fact { uid: String::new(), place, ready: number < *ready, counts: true };
                nodes.insert(ObjectKey::cluster(&format!("{zone}-{number}")), fact);
            }
        }
        nodes
    }

    fn at(seconds: i64) -> Timestamp {
        now() + SignedDuration::from_secs(seconds)
    }

    fn leave(zones: &mut Zones, zone: &str, seconds: i64) -> Leave {
        zones.leave(&(String::new(), zone.to_owned()), at(seconds))
    }

    const fn after(seconds: u64) -> Leave {
        Leave::In(Duration::from_secs(seconds))
    }

    #[test]
    fn nodes_of_a_zone_go_one_after_another_and_zones_apart() {
        let mut zones = Zones::default();
        assert_eq!(zones.update(nodes(&[("a", 8, 2), ("b", 1, 1)]), at(0)).0, Shift::Nothing);
        assert_eq!([leave(&mut zones, "a", 0), leave(&mut zones, "a", 4)], [Leave::Now, after(6)]);
        assert_eq!(leave(&mut zones, "b", 4), Leave::Now);
        assert_eq!([leave(&mut zones, "a", 10), leave(&mut zones, "a", 11)], [Leave::Now, after(9)]);
        assert_eq!(leave(&mut zones, "elsewhere", 0), Leave::Never);
    }

    #[test]
    fn a_zone_that_is_mostly_not_ready_slows_down_or_waits() {
        let mut zones = Zones::default();
        zones.update(nodes(&[("small", 10, 0), ("large", 60, 0)]), at(0));
        assert_eq!(zones.update(nodes(&[("small", 5, 5), ("large", 60, 0)]), at(0)).0, Shift::Nothing);
        assert_eq!(zones.update(nodes(&[("small", 4, 6), ("large", 20, 40)]), at(0)).0, Shift::Pace);
        assert_eq!(leave(&mut zones, "small", 1000), Leave::Never);
        assert_eq!([leave(&mut zones, "large", 0), leave(&mut zones, "large", 1)], [Leave::Now, after(99)]);
        // Who waits goes on waiting, at the new pace.
        assert_eq!(zones.update(nodes(&[("small", 9, 1), ("large", 50, 10)]), at(2)).0, Shift::Pace);
        assert_eq!([leave(&mut zones, "small", 2), leave(&mut zones, "large", 2)], [after(10), after(10)]);
        // Two nodes are no share.
        assert_eq!(zones.update(nodes(&[("small", 1, 2), ("large", 60, 0)]), at(20)).0, Shift::Nothing);
    }

    #[test]
    fn a_zone_without_a_ready_node_goes_on_as_usual_while_another_has_one() {
        let mut zones = Zones::default();
        assert_eq!(zones.update(nodes(&[("a", 0, 3), ("b", 1, 0)]), at(0)).0, Shift::Nothing);
        assert_eq!([leave(&mut zones, "a", 0), leave(&mut zones, "a", 5)], [Leave::Now, after(5)]);
    }

    #[test]
    fn nobody_goes_while_no_node_is_ready() {
        let mut zones = Zones::default();
        zones.update(nodes(&[("a", 1, 1), ("b", 1, 0)]), at(0));
        assert_eq!(zones.update(nodes(&[("a", 0, 2), ("b", 0, 1)]), at(1)).0, Shift::Stopped);
        assert!(zones.stopped());
        assert_eq!(leave(&mut zones, "a", 1000), Leave::Never);
        assert_eq!(zones.update(nodes(&[("a", 0, 3), ("b", 0, 1)]), at(2)).0, Shift::Nothing);
        assert_eq!(zones.update(nodes(&[("a", 1, 2), ("b", 0, 1)]), at(3)).0, Shift::Resumed);
        assert!(!zones.stopped());
        assert_eq!([leave(&mut zones, "a", 3), leave(&mut zones, "b", 13)], [after(10), Leave::Now]);
    }

    #[test]
    fn a_single_node_loses_nothing_when_it_is_not_ready_from_the_start() {
        let mut zones = Zones::default();
        assert_eq!(zones.update(nodes(&[("a", 0, 1)]), at(0)).0, Shift::Stopped);
        assert_eq!(zones.update(BTreeMap::new(), at(1)).0, Shift::Nothing);
        assert_eq!(zones.update(nodes(&[("a", 1, 0)]), at(2)).0, Shift::Pace);
        assert!(!zones.stopped());
    }

    #[test]
    fn excluded_nodes_do_not_count_and_labels_tell_the_place() {
        let node = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let metadata = wharf_types::meta::ObjectMeta { labels: Some(labels), ..Default::default() };
            Node { metadata, ..Node::default() }
        };
        assert!(!Fact::of(&node(&[(EXCLUDED, "")])).counts);
        let old_and_new = node(&[(ZONE[0], "old"), (ZONE[1], "new"), (REGION[1], "r")]);
        assert_eq!(place(&old_and_new), ("r".to_owned(), "old".to_owned()));
        let mut zones = Zones::default();
        let excluded = nodes(&[("a", 0, 2)]).into_iter().map(|(key, fact)| (key, Fact { counts: false, ..fact }));
        assert_eq!(zones.update(excluded.collect(), at(0)).0, Shift::Nothing);
        assert_eq!(leave(&mut zones, "a", 0), Leave::Now);
    }
}

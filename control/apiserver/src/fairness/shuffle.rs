//! Shuffle sharding: which few of many queues a flow may use. Source: `k8s.io/apiserver/pkg/util/shufflesharding`.
//!
//! Two flows rarely share all of their queues, so one that floods its own leaves the other a free one.

/// Most cards that a hand holds.
pub const HAND_MAX: usize = 16;

/// Deals `hand_size` different cards of a deck by the flow's number, and returns the one that `cost` says is the least.
pub fn least(flow: u64, queues: usize, hand_size: usize, mut cost: impl FnMut(usize) -> u64) -> usize {
    let hand_size = hand_size.min(queues).min(HAND_MAX);
    let mut hand = [0usize; HAND_MAX];
    let mut rest = flow;
    for dealt in 0..hand_size {
        let left = (queues - dealt) as u64;
        let mut card = (rest % left) as usize;
        rest /= left;
        // The cards that are gone are skipped; `hand` is kept in order.
        let mut place = 0;
        while place < dealt && hand[place] <= card {
            card += 1;
            place += 1;
        }
        hand.copy_within(place..dealt, place + 1);
        hand[place] = card;
    }
    // Ties are broken by the flow, so that small flows spread over the queues.
    let start = (flow % hand_size.max(1) as u64) as usize;
    let order = (0..hand_size).map(|index| hand[(start + index) % hand_size]);
    order.min_by_key(|card| cost(*card)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hand(flow: u64, queues: usize, hand_size: usize) -> Vec<usize> {
        let mut seen = Vec::new();
        least(flow, queues, hand_size, |card| {
            seen.push(card);
            0
        });
        seen.sort_unstable();
        seen
    }

    #[test]
    fn hands_hold_different_cards_and_rarely_the_same() {
        let mut same = 0;
        for flow in 0..500u64 {
            let flow = flow.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let cards = hand(flow, 64, 6);
            let mut distinct = cards.clone();
            distinct.dedup();
            assert_eq!((distinct.len(), cards.iter().all(|card| *card < 64)), (6, true), "{flow}");
            same += usize::from(cards == hand(12_345_678_901_234_567, 64, 6));
        }
        assert!(same < 3, "{same}");
        assert_eq!(hand(7, 3, 8), [0, 1, 2]);
    }

    #[test]
    fn the_least_costly_queue_is_taken() {
        assert_eq!(least(5, 4, 4, |card| if card == 2 { 0 } else { 9 }), 2);
    }
}

//! A pool of numbers that are taken and given back: pure, so that its rules can be tested alone.

use std::collections::HashSet;

use rand::{Rng, RngCore};

/// Numbers `0..size`. Those below `static_below` are handed out at random only when all others are taken, so that people who
/// choose a number themselves find low ones free (upstream's KEP-3070).
#[derive(Clone, Debug)]
pub struct Pool {
    size: u32,
    static_below: u32,
    taken: HashSet<u32>,
}

impl Pool {
    pub fn new(size: u32, static_below: u32) -> Self {
        Self { size, static_below: static_below.min(size), taken: HashSet::new() }
    }

    /// False when the number is taken already, or outside.
    pub fn take(&mut self, number: u32) -> bool {
        number < self.size && self.taken.insert(number)
    }

    /// A free number, or none when all are taken.
    pub fn take_any(&mut self, rng: &mut dyn RngCore) -> Option<u32> {
        let number =
            self.free_from(self.static_below, self.size, rng).or_else(|| self.free_from(0, self.static_below, rng))?;
        self.taken.insert(number);
        Some(number)
    }

    pub fn give_back(&mut self, number: u32) {
        self.taken.remove(&number);
    }

    pub fn taken(&self) -> usize {
        self.taken.len()
    }

    /// The first free number after a random one, around the end once.
    fn free_from(&self, low: u32, high: u32, rng: &mut dyn RngCore) -> Option<u32> {
        if low == high || self.taken.len() >= self.size as usize {
            return None;
        }
        let start = rng.random_range(low..high);
        (start..high).chain(low..start).find(|number| !self.taken.contains(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn each_number_is_handed_out_once_and_low_ones_last() {
        let seed = rand::random();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut pool = Pool::new(100, 16);
        assert!(pool.take(40) && !pool.take(40) && !pool.take(100));
        let mut got: Vec<u32> = std::iter::from_fn(|| pool.take_any(&mut rng)).collect();
        assert!(got[..83].iter().all(|number| *number >= 16), "seed {seed}: {got:?}");
        got.sort_unstable();
        assert!(got.into_iter().eq((0..100).filter(|number| *number != 40)), "seed {seed}");
        pool.give_back(7);
        assert_eq!(pool.take_any(&mut rng), Some(7), "seed {seed}");
    }
}

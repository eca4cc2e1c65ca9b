//! A type's fields by their names in JSON: one multiplication and mostly one comparison for each key of an object.

/// A key that the JSON of a type's objects may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub json: &'static str,
    /// Which of the type's fields it is for.
    pub at: u8,
    /// It is a field of the message that this inline field holds.
    pub inner: bool,
}

/// A hash table with open addressing. The names are the table's and not a client's, so nobody can make them collide.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: Box<[Known]>,
    /// One more than an index into `known`; 0 where there is none. At most half of them are taken.
    slots: Box<[u8]>,
}

impl Names {
    pub fn new(known: Vec<Known>) -> Self {
        let mut slots = vec![0; (known.len() * 2).next_power_of_two()].into_boxed_slice();
        for (known, number) in known.iter().zip(1..) {
            let mut slot = hash(known.json.as_bytes()) & (slots.len() - 1);
            while slots[slot] != 0 {
                slot = (slot + 1) & (slots.len() - 1);
            }
            slots[slot] = number;
        }
        Self { known: known.into(), slots }
    }

    pub fn find(&self, name: &[u8]) -> Option<Known> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut slot = hash(name) & mask;
        loop {
            let known = self.known.get(usize::from(self.slots[slot]).checked_sub(1)?)?;
            if known.json.as_bytes() == name {
                return Some(*known);
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// Of how a name begins and ends, and how long it is: enough to tell the fields of one type apart.
fn hash(name: &[u8]) -> usize {
    let ends = match (name.first_chunk::<8>(), name.last_chunk::<8>()) {
        (Some(head), Some(tail)) => u64::from_le_bytes(*head) ^ u64::from_le_bytes(*tail).rotate_left(29),
        _ => name.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)),
    };
    let mixed = (ends ^ name.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize
}

#[cfg(test)]
mod tests {
    use crate::protobuf::table;

    #[test]
    fn every_name_of_every_type_is_found_and_no_other() {
        for ty in table::table().types() {
            for known in &ty.names.known {
                let found = ty.names.find(known.json.as_bytes()).expect("a name of its own");
                assert_eq!((found.json, found.at), (known.json, known.at), "{}", ty.name);
            }
            for other in ["", "x", "metadatas", "a name that no type has a field of"] {
                assert!(ty.names.find(other.as_bytes()).is_none(), "{} has no {other}", ty.name);
            }
        }
    }
}

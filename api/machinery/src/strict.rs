//! Where in a body the fields stand that strict decoding complains of.
//!
//! Decoding itself keeps no places; a body that is complained of is read once more to find them, so that complaints come in the
//! order of the document and name lines as upstream's do.
//! Source: `sigs.k8s.io/json` (order of strict errors), `sigs.k8s.io/yaml/goyaml.v2` (`setMapIndex`).

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::body::{DUPLICATES_MAX, Path};

/// Bytes that are read to find the lines of all fields that come twice in one YAML body; those that are not found by then go unnamed.
const READ_MAX_BYTES: usize = 8 << 20;

/// Puts complaints about a JSON body in the order in which its reader meets what they are about: an unknown field where it comes
/// first, a duplicate where it comes again.
pub fn sort(complaints: &mut [String], bytes: &[u8]) {
    const UNKNOWN: &str = "unknown field \"";
    const DUPLICATE: &str = "duplicate field \"";
    if complaints.len() < 2 {
        return;
    }
    let about = |complaint: &str| {
        let path = complaint.strip_prefix(UNKNOWN).map(|path| (path, 0));
        let (path, occurrence) = path.or_else(|| complaint.strip_prefix(DUPLICATE).map(|path| (path, 1)))?;
        Some((path.strip_suffix('"')?.to_owned(), occurrence))
    };
    let wanted: BTreeSet<String> = complaints.iter().filter_map(|complaint| Some(about(complaint)?.0)).collect();
    let found = RefCell::new(Found { wanted, places: BTreeMap::new(), fields: 0 });
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    // What was decoded once can be read again.
    let _ = Places { path: Path::Root, found: &found }.deserialize(&mut reader);
    let places = found.into_inner().places;
    complaints.sort_by_key(|complaint| {
        let place = about(complaint).and_then(|(path, occurrence)| {
            let places = places.get(&path)?;
            places.get(occurrence).or(places.last()).copied()
        });
        place.unwrap_or(usize::MAX)
    });
}

struct Found {
    wanted: BTreeSet<String>,
    /// By path, the numbers of the fields that have it.
    places: BTreeMap<String, Vec<usize>>,
    fields: usize,
}

struct Places<'a> {
    path: Path<'a>,
    found: &'a RefCell<Found>,
}

impl<'de> DeserializeSeed<'de> for Places<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Scalars that hold nothing to be looked into.
macro_rules! passes_over_scalars {
    () => {
        fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
            self.scalar()
        }

        fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
            self.scalar()
        }

        fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
            self.scalar()
        }

        fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
            self.scalar()
        }

        fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
            self.scalar()
        }

        fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
            self.scalar()
        }
    };
}

impl Places<'_> {
    fn scalar<E>(self) -> Result<(), E> {
        Ok(())
    }
}

impl<'de> Visitor<'de> for Places<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    passes_over_scalars!();

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0;
        while items.next_element_seed(Places { path: Path::Item(&self.path, index), found: self.found })?.is_some() {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<Cow<'de, str>>()? {
            let path = Path::Field(&self.path, &key);
            self.found.borrow_mut().note(&path);
            entries.next_value_seed(Places { path, found: self.found })?;
        }
        Ok(())
    }
}

impl Found {
    fn note(&mut self, path: &Path<'_>) {
        self.fields += 1;
        let path = path.to_string();
        if self.wanted.contains(&path) {
            self.places.entry(path).or_default().push(self.fields);
        }
    }
}

/// What is wrong with a YAML body in which keys come twice, in upstream's words; none where none does.
pub fn yaml_duplicates(bytes: &[u8]) -> Option<String> {
    let passes = (READ_MAX_BYTES / bytes.len().max(1)).clamp(1, DUPLICATES_MAX);
    let lines: Vec<String> = (0..passes).map_while(|nth| yaml_duplicate(bytes, nth)).collect();
    (!lines.is_empty()).then(|| format!("error converting YAML to JSON: yaml: unmarshal errors:{}", lines.concat()))
}

/// The nth key that its map has already. The reader tells places only of errors, so the value of the key is made one.
fn yaml_duplicate(bytes: &[u8], nth: usize) -> Option<String> {
    let search = RefCell::new(Search { left: nth, key: None });
    let document = serde_yaml::Deserializer::from_slice(bytes).next()?;
    let error = Doubles { search: &search, is_it: false }.deserialize(document).err()?;
    let key = search.into_inner().key?;
    let line = error.location()?.line();
    Some(format!("\n  line {line}: key {key:?} already set in map"))
}

struct Search {
    /// How many are passed over.
    left: usize,
    key: Option<String>,
}

struct Doubles<'a> {
    search: &'a RefCell<Search>,
    /// True of the value that is looked for.
    is_it: bool,
}

impl Doubles<'_> {
    fn scalar<E: serde::de::Error>(self) -> Result<(), E> {
        if self.is_it { Err(E::custom("here")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Doubles<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Doubles<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    passes_over_scalars!();

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.scalar()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        if self.is_it {
            return Err(A::Error::custom("here"));
        }
        while items.next_element_seed(Doubles { search: self.search, is_it: false })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        if self.is_it {
            return Err(A::Error::custom("here"));
        }
        let mut seen = HashSet::new();
        while let Some(Key(key)) = entries.next_key()? {
            let is_it = match key {
                Some(key) if !seen.insert(key.clone()) => self.search.borrow_mut().is_over(&key),
                _ => false,
            };
            entries.next_value_seed(Doubles { search: self.search, is_it })?;
        }
        Ok(())
    }
}

impl Search {
    /// True where the search ends with this key.
    fn is_over(&mut self, key: &str) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        self.key = Some(key.to_owned());
        true
    }
}

/// A key, if it is a text.
struct Key(Option<String>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Any {
            Text(String),
            Other(IgnoredAny),
        }
        Ok(Self(match Any::deserialize(deserializer)? {
            Any::Text(text) => Some(text),
            Any::Other(_) => None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_come_in_the_order_of_the_document() {
        let body = r#"{"b":{"y":1,"x":1,"x":2},"a":[{"u":1}],"a":[]}"#;
        let mut complaints = [
            r#"duplicate field "b.x""#,
            r#"duplicate field "a""#,
            r#"unknown field "a[0].u""#,
            r#"unknown field "b.y""#,
        ]
        .map(str::to_owned);
        sort(&mut complaints, body.as_bytes());
        assert_eq!(
            complaints,
            [
                r#"unknown field "b.y""#,
                r#"duplicate field "b.x""#,
                r#"unknown field "a[0].u""#,
                r#"duplicate field "a""#,
            ]
        );
    }

    #[test]
    fn keys_that_come_twice_are_told_with_the_lines_of_their_values() {
        assert_eq!(yaml_duplicates(b"a: 1\nb: 2\n"), None);
        let body = "\na: 1\nspec:\n  foo: x\n  foo: y\na:\n  b: 1\n";
        assert_eq!(
            yaml_duplicates(body.as_bytes()).as_deref(),
            Some(
                "error converting YAML to JSON: yaml: unmarshal errors:\n  line 5: key \"foo\" already set in map\n  line 7: key \"a\" already set in map"
            )
        );
    }

    #[test]
    fn a_flood_of_them_costs_a_bounded_time() {
        let fields: String = (0..20_000).map(|n| format!("k{n}: 1\nk{n}: 2\n")).collect();
        let told = yaml_duplicates(fields.as_bytes()).expect("complaints");
        assert!(told.lines().count() <= DUPLICATES_MAX + 1);
    }
}

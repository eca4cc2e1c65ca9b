//! What a component is, decided by what it exports.

/// How the host runs a component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `wasi:cli/run` 0.2
    Command2,
    /// `wasi:cli/run` 0.3
    Command3,
    /// `wasi:http/incoming-handler` 0.2
    Http2,
    /// `wasi:http/handler` 0.3
    Http3,
}

/// Interfaces in the order of preference: a component that handles HTTP is a server, whatever else it exports.
const ENTRIES: [(&str, Kind); 4] = [
    ("wasi:http/handler@0.3.", Kind::Http3),
    ("wasi:http/incoming-handler@0.2.", Kind::Http2),
    ("wasi:cli/run@0.3.", Kind::Command3),
    ("wasi:cli/run@0.2.", Kind::Command2),
];

/// None when nothing that the host can call is exported.
pub fn decide<'a>(exports: impl Iterator<Item = &'a str>) -> Option<Kind> {
    let exports: Vec<&str> = exports.collect();
    ENTRIES.iter().find(|(prefix, _)| exports.iter().any(|name| name.starts_with(prefix))).map(|(_, kind)| *kind)
}

impl Kind {
    pub fn is_http(self) -> bool {
        matches!(self, Kind::Http2 | Kind::Http3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(exports: &[&str], expected: Option<Kind>) {
        assert_eq!(decide(exports.iter().copied()), expected, "{exports:?}");
    }

    #[test]
    fn exports_name_the_kind() {
        check(&["wasi:cli/run@0.2.6"], Some(Kind::Command2));
        check(&["wasi:cli/run@0.3.0"], Some(Kind::Command3));
        check(&["wasi:http/incoming-handler@0.2.0", "wasi:cli/run@0.2.0"], Some(Kind::Http2));
        check(&["x", "wasi:http/handler@0.3.0"], Some(Kind::Http3));
        check(&["wasi:http/incoming-handler@0.20.0", "run"], None);
        check(&[], None);
    }
}

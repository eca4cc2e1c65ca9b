//! Query parameters, read as `k8s.io/apimachinery/pkg/runtime/conversion.go` reads them.

use std::collections::BTreeMap;

use wharf_types::ApiError;

/// The parameters of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    pub fn parse(text: &str) -> Self {
        form_urlencoded::parse(text.as_bytes()).into_owned().collect()
    }

    /// The first value, if it is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// False only where the parameter is absent, `0` or `false`.
    pub fn flag(&self, name: &str) -> bool {
        self.optional_flag(name).unwrap_or(false)
    }

    pub fn optional_flag(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.first().map(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    pub fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let why = |error: std::num::ParseIntError| match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        text.parse()
            .map(Some)
            .map_err(|error| ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: {}", why(error))))
    }
}

impl FromIterator<(String, String)> for Query {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(parameters: I) -> Self {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in parameters {
            values.entry(name).or_default().push(value);
        }
        Self(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_true_unless_they_say_no() {
        for (text, expected) in [
            ("watch=1", true),
            ("watch=true", true),
            ("watch=", true),
            ("watch=0", false),
            ("watch=False", false),
            ("", false),
        ] {
            assert_eq!(Query::parse(text).flag("watch"), expected, "{text}");
        }
    }

    #[test]
    fn numbers_are_refused_in_gos_words() {
        let error = Query::parse("limit=x").integer("limit").unwrap_err();
        assert_eq!(error.message, r#"strconv.ParseInt: parsing "x": invalid syntax"#);
        assert_eq!(Query::parse("limit=5").integer("limit"), Ok(Some(5)));
        assert_eq!(Query::parse("limit=").integer("limit"), Ok(None));
    }
}

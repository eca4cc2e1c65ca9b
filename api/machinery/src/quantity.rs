//! Amounts of resources: `100m`, `1.5Gi`, `2e3`, kept exactly.
//!
//! A value is a whole number of billionths (what is finer is rounded away from zero, as upstream) together with the form it
//! was written in, which decides how it is printed. Equality and order are those of the value: `1` equals `1000m`.
//! Source: `k8s.io/apimachinery/pkg/api/resource`. One difference: upstream keeps decimal numbers such as `1e90` at any
//! size; here what exceeds 10²⁹ becomes 2⁶³-1, the cap that upstream applies to all numbers of more than 18 digits.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

const NANOS: i128 = 1_000_000_000;
const MILLI_IN_NANOS: i128 = 1_000_000;
/// What a number that is too large becomes.
const CAP: i128 = i64::MAX as i128 * NANOS;
/// Numbers with more digits than this are capped; shorter ones may exceed the cap.
const UNCAPPED_DIGITS: usize = 18;
/// Significant digits that are read before the rest is rounded up; more could overflow the arithmetic.
const DECIMAL_DIGITS_MAX: usize = 36;
const BINARY_DIGITS_MAX: usize = 19;

/// How a quantity was written, and so how it is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `Ki`, `Mi`, `Gi` …
    BinarySi,
    /// `m`, none, `k`, `M` …
    DecimalSi,
    /// `e3`
    DecimalExponent,
}

const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount of some resource.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    pub fn new(value: i64, format: Format) -> Self {
        Self { nanos: i128::from(value) * NANOS, format }
    }

    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * MILLI_IN_NANOS, format: Format::DecimalSi }
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// In units, rounded away from zero; saturates.
    pub fn value(&self) -> i64 {
        saturate(divide_away_from_zero(self.nanos, NANOS))
    }

    /// In thousandths, rounded away from zero; saturates.
    pub fn milli_value(&self) -> i64 {
        saturate(divide_away_from_zero(self.nanos, MILLI_IN_NANOS))
    }

    /// As a float, for scores; not exact.
    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANOS as f64
    }

    /// Rounds away from zero to thousandths, as the API does with resources of containers.
    #[must_use]
    pub fn round_up_to_milli(self) -> Self {
        Self { nanos: divide_away_from_zero(self.nanos, MILLI_IN_NANOS) * MILLI_IN_NANOS, ..self }
    }
}

/// The sum keeps the left side's form, or takes the right side's where the left is zero; it saturates.
impl std::ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }
}

impl std::ops::AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl std::ops::Neg for Quantity {
    type Output = Self;

    fn neg(self) -> Self {
        Self { nanos: self.nanos.saturating_neg(), ..self }
    }
}

impl std::ops::Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl std::ops::SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(quantities: I) -> Self {
        quantities.fold(Self::ZERO, |sum, quantity| sum + quantity)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self::ZERO
    }
}

impl TryFrom<&Wire> for Quantity {
    type Error = ParseError;

    fn try_from(wire: &Wire) -> Result<Self, ParseError> {
        wire.0.parse()
    }
}

impl From<Quantity> for Wire {
    fn from(quantity: Quantity) -> Self {
        Wire(quantity.to_string())
    }
}

fn divide_away_from_zero(value: i128, by: i128) -> i128 {
    value / by + if value % by == 0 { 0 } else { value.signum() }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

/// What a suffix multiplies by.
#[derive(Clone, Copy)]
enum Factor {
    Two(u32),
    Ten(i32),
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let digits_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, rest) = rest.split_at(digits_end);
        let (fraction, suffix) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
            None => ("", rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(ParseError::Format);
        }
        let (factor, format) = parse_suffix(suffix)?;
        let magnitude = nanos(whole, fraction, factor);
        Ok(Self { nanos: if negative { -magnitude } else { magnitude }, format })
    }
}

fn parse_suffix(suffix: &str) -> Result<(Factor, Format), ParseError> {
    if let Some((_, power)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Ok((Factor::Two(*power), Format::BinarySi));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((Factor::Ten(*power), Format::DecimalSi));
    }
    if let Some(exponent) = suffix.strip_prefix(['e', 'E']) {
        let power = exponent.parse::<i32>().map_err(|_| ParseError::Suffix)?;
        return Ok((Factor::Ten(power), Format::DecimalExponent));
    }
    let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let digits = letters.strip_prefix(['+', '-']).unwrap_or(letters);
    let well_formed = digits.bytes().all(|byte| byte.is_ascii_digit());
    Err(if well_formed { ParseError::Suffix } else { ParseError::Format })
}

/// `whole.fraction` times `factor`, in billionths.
fn nanos(whole: &str, fraction: &str, factor: Factor) -> i128 {
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).skip_while(|digit| *digit == b'0').collect();
    if digits.is_empty() {
        return 0;
    }
    let most = if matches!(factor, Factor::Two(_)) { BINARY_DIGITS_MAX } else { DECIMAL_DIGITS_MAX };
    let kept = digits.len().min(most);
    let mantissa = digits[..kept].iter().fold(0u128, |value, digit| value * 10 + u128::from(digit - b'0'));
    let rest = digits[kept..].iter().any(|digit| *digit != b'0');
    let (mantissa, power) = match factor {
        Factor::Two(power) => (mantissa << power, 0),
        Factor::Ten(power) => (mantissa, i64::from(power)),
    };
    let power = power + 9 + (digits.len() - kept) as i64 - fraction.len() as i64;
    let capped = matches!(factor, Factor::Two(_)) || whole.len() + fraction.len() > UNCAPPED_DIGITS;
    match scale(mantissa, power, rest).and_then(|value| i128::try_from(value).ok()) {
        Some(value) if !capped || value <= CAP => value,
        _ => CAP,
    }
}

/// `mantissa × 10^power`, rounded up (`rest` says that the mantissa is already a little too small); none if it overflows.
fn scale(mantissa: u128, power: i64, rest: bool) -> Option<u128> {
    let ten_to = |power: i64| u32::try_from(power).ok().and_then(|power| 10u128.checked_pow(power));
    if power >= 0 {
        return mantissa.checked_mul(ten_to(power)?)?.checked_add(u128::from(rest));
    }
    match ten_to(-power) {
        Some(divisor) => Some(mantissa / divisor + u128::from(rest || !mantissa.is_multiple_of(divisor))),
        None => Some(1),
    }
}

/// The canonical form: no fraction, no precision lost, the largest suffix that fits.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = (self.nanos % NANOS == 0).then_some(self.nanos / NANOS);
        match (self.format, whole) {
            (Format::BinarySi, Some(units)) if units.abs() >= 1024 => write_binary(f, units),
            (Format::DecimalExponent, _) => write_decimal(f, self.nanos, true),
            _ => write_decimal(f, self.nanos, false),
        }
    }
}

fn write_binary(f: &mut fmt::Formatter<'_>, mut units: i128) -> fmt::Result {
    let mut suffix = "";
    for (name, _) in BINARY {
        if units % 1024 != 0 {
            break;
        }
        (units, suffix) = (units / 1024, name);
    }
    write!(f, "{units}{suffix}")
}

fn write_decimal(f: &mut fmt::Formatter<'_>, nanos: i128, exponent: bool) -> fmt::Result {
    let (mut mantissa, mut step) = (nanos, 0);
    while mantissa % 1000 == 0 && step + 1 < DECIMAL.len() {
        mantissa /= 1000;
        step += 1;
    }
    let (suffix, power) = DECIMAL[step];
    match (exponent, power) {
        (true, 0) | (false, _) => write!(f, "{mantissa}{suffix}"),
        (true, power) => write!(f, "{mantissa}e{power}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Quantity {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn check(text: &str, canonical: &str) {
        assert_eq!(parse(text).to_string(), canonical, "{text}");
    }

    #[test]
    fn quantities_print_in_canonical_form() {
        for (text, canonical) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("512", "512"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("100Ki", "100Ki"),
            ("1000k", "1M"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e-3", "12e-3"),
            ("1E", "1E"),
            ("+3.", "3"),
            (".001Ki", "1024m"),
            ("-1.5", "-1500m"),
            ("0.0000000001", "1n"),
            ("-0.1n", "-1n"),
            ("010", "10"),
            ("1.1Gi", "1181116006400m"),
        ] {
            check(text, canonical);
        }
    }

    #[test]
    fn long_numbers_are_capped() {
        for text in ["9223372036854775808", "16Ei", "99999999999999999999999999999999999999999999", "1e400"] {
            assert_eq!(parse(text).value(), i64::MAX, "{text}");
        }
        check("10E", "10E");
        check("1e-400", "1e-9");
        assert_eq!(parse(&format!("-{}", "9".repeat(400))).value(), -i64::MAX);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "", " ", " 1", "1 ", ".", "-", "1.1.M", "1+1.0M", "0.1mi", "0.1am", "aoeu", ".5i", "1i", "-3.01i",
            "-3.01e-", "1e", "１",
        ] {
            // `1E` is an exa, and upstream has no bare `e`.
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn values_round_away_from_zero() {
        assert_eq!(parse("100m").value(), 1);
        assert_eq!(parse("-100m").value(), -1);
        assert_eq!(parse("1u").milli_value(), 1);
        assert_eq!(parse("1001u").round_up_to_milli().to_string(), "2m");
    }

    #[test]
    fn sums_keep_the_form_of_the_first_that_is_not_zero() {
        assert_eq!((parse("1Gi") + parse("512M")).to_string(), "1548576Ki");
        assert_eq!((Quantity::ZERO + parse("1Gi")).to_string(), "1Gi");
        assert_eq!((parse("1Gi") - parse("1Mi")).to_string(), "1023Mi");
        assert_eq!([parse("250m"), parse("750m")].into_iter().sum::<Quantity>().to_string(), "1");
        assert!(parse("1Mi") > parse("1M") && parse("1") == parse("1000m"));
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_to_the_same_value(nanos in -(1i128 << 96)..(1i128 << 96), form in 0..3) {
            let format = [Format::BinarySi, Format::DecimalSi, Format::DecimalExponent][form as usize];
            // More than 18 digits would meet the cap.
            let quantity = Quantity { nanos: nanos % 1_000_000_000_000_000_000, format };
            let printed = quantity.to_string();
            let parsed = parse(&printed);
            prop_assert_eq!(parsed, quantity, "{}", &printed);
            prop_assert_eq!(parsed.to_string(), printed);
        }

        #[test]
        fn no_text_panics(text in "[+-]?[0-9.]{0,60}[eEinumkKMGTP]{0,2}[+-]?[0-9]{0,12}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                let again = parse(&quantity.to_string());
                prop_assert!(again == quantity || quantity.nanos.abs() >= CAP, "{text} {quantity}");
            }
        }
    }
}

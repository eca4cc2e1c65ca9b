//! Counts that may be shares of a total.

use wharf_types::k8s::apimachinery::pkg::util::intstr::IntOrString;

/// A count, or a percentage of `total`; 0 where there is none. Validation has refused what is neither.
/// Source: `intstr.GetScaledValueFromIntOrPercent`.
pub fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).unwrap_or(0);
            let hundredfold = percent * i64::from(total);
            let whole = if round_up { (hundredfold + 99).div_euclid(100) } else { hundredfold.div_euclid(100) };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

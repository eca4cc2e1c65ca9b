//! Short ways to what validation asks of an amount.

use std::cmp::Ordering;

use wharf_machinery::quantity::Format;
pub use wharf_machinery::quantity::Quantity as Amount;
use wharf_types::k8s::apimachinery::pkg::api::resource::Quantity;

/// What a bad amount is told, as upstream's decoder words it.
pub const SYNTAX: &str = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// None where the text is no amount. Bodies with such texts are refused as they are read.
pub fn amount(quantity: &Quantity) -> Option<Amount> {
    Amount::try_from(quantity).ok()
}

/// Compares two amounts; none where one of them is none.
pub fn compare(a: &Quantity, b: &Quantity) -> Option<Ordering> {
    Some(amount(a)?.cmp(&amount(b)?))
}

/// True for what can be counted: no halves, no thousandths.
pub fn is_whole(amount: Amount) -> bool {
    Amount::new(amount.value(), Format::DecimalSi) == amount
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_not_whole() {
        let whole = |text: &str| is_whole(text.parse().unwrap());
        assert!(whole("1") && whole("1000m") && whole("1Ki") && whole("0") && !whole("500m") && !whole("-0.5"));
    }
}

//! Quantities. One that was written reads as the same number, but for those of so many digits that reading caps them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wharf_machinery::quantity::Quantity;

/// Upstream caps what has more digits, and only that.
const UNCAPPED_DIGITS: usize = 18;

fuzz_target!(|text: &str| {
    let Ok(quantity) = text.parse::<Quantity>() else { return };
    let (_, _, _) = (quantity.value(), quantity.milli_value(), quantity.as_f64());
    let written = quantity.to_string();
    let again: Quantity = written.parse().expect("what was written is read");
    if written.bytes().filter(u8::is_ascii_digit).count() > UNCAPPED_DIGITS {
        return;
    }
    assert_eq!(again.to_string(), written);
    assert_eq!(again.milli_value(), quantity.milli_value());
});

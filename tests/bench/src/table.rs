//! What was measured, beside what was budgeted.

use std::fmt;

#[derive(Default)]
pub struct Table {
    rows: Vec<[String; 3]>,
}

impl Table {
    /// Also tells on standard error, so that a long run shows where it is.
    pub fn add(&mut self, what: impl Into<String>, measured: impl Into<String>, budget: &str) {
        let row = [what.into(), measured.into(), budget.to_owned()];
        eprintln!("{}: {}", row[0], row[1]);
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::ASCII_MARKDOWN).set_header(["what", "measured", "budget"]);
        table.add_rows(self.rows.iter());
        table.fmt(f)
    }
}

//! The suite is the test target `sim`.

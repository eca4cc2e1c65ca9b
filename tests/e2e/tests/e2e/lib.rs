//! The suite is the test target `e2e`.

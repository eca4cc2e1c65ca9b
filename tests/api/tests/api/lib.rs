//! The suite is the test target `api`.

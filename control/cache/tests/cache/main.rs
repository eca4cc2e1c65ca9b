//! The cache as the API server uses it, over the stores as they are.

mod load;
mod reads;
mod support;
mod watches;

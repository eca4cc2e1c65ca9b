//! What API objects are worked with: names, selectors, quantities, schedules, bodies, certificate requests, protobuf, patches,
//! server-side apply, schemas, OpenAPI, CEL.
//!
//! Pure functions only. Source of the behaviour: `k8s.io/apimachinery`.

pub mod apply;
pub mod body;
pub mod bootstrap_token;
pub mod cel;
pub mod cron;
pub mod csr;
pub mod cursor;
pub mod disruption;
pub mod jsonpath;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod placement;
pub mod pod_resources;
pub mod pod_secrets;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod selector;
pub mod strict;
pub mod structural;
pub mod tree;
pub mod zone;

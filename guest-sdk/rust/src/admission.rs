//! Admission plugins: functions that the API server asks before it stores what somebody writes.
//!
//! ```ignore
//! use wharf_guest::admission::{Allowed, Denied, Request};
//!
//! fn validate(request: &Request) -> Result<Allowed, Denied> {
//!     if request.object()["metadata"]["labels"]["team"].is_string() {
//!         Ok(Allowed::new())
//!     } else {
//!         Err(Denied::new("whose is it? set the label `team`"))
//!     }
//! }
//!
//! wharf_guest::admission_plugin!(validate = validate);
//! ```
//!
//! A plugin that changes objects says `mutate = …`: a function that is handed the object to change. One may say both. Each call
//! has an instance of its own, so nothing is kept from one to the next, and nothing outside the request can be reached.

use serde::de::DeserializeOwned;
use serde_json::Value;

#[doc(hidden)]
pub mod mutating {
    wit_bindgen::generate!({
        path: "../wit",
        world: "mutating",
        pub_export_macro: true,
        default_bindings_module: "wharf_guest::admission::mutating",
        export_macro_name: "export_mutation",
    });
}

#[doc(hidden)]
pub mod validating {
    wit_bindgen::generate!({
        path: "../wit",
        world: "validating",
        pub_export_macro: true,
        default_bindings_module: "wharf_guest::admission::validating",
        export_macro_name: "export_validation",
        with: { "wharf:admission/types@0.1.0": crate::admission::types },
    });
}

/// The words of the WIT package.
pub use mutating::wharf::admission::types;
pub use types::{Kind, Operation, Target, UserInfo};

/// One write that asks to be admitted. Fields are as `admission.wit` has them; documents are read already.
#[derive(Clone, Debug)]
pub struct Request {
    pub operation: Operation,
    pub kind: Kind,
    pub target: Target,
    pub name: String,
    pub namespace: Option<String>,
    pub namespace_labels: Vec<(String, String)>,
    pub user: UserInfo,
    pub dry_run: bool,
    pub options: Value,
    object: Value,
    old_object: Value,
    parameters: Value,
}

impl Request {
    /// What is to be; null for a delete.
    pub fn object(&self) -> &Value {
        &self.object
    }

    /// What is there; null for a create.
    pub fn old_object(&self) -> &Value {
        &self.old_object
    }

    /// `spec.parameters` of the AdmissionPlugin; the type's default where there are none.
    ///
    /// Parameters that do not fit the type are a fault of the cluster's, not of who writes: the plugin fails.
    pub fn parameters<T: DeserializeOwned + Default>(&self) -> T {
        match &self.parameters {
            Value::Null => T::default(),
            given => T::deserialize(given).unwrap_or_else(|error| panic!("spec.parameters: {error}")),
        }
    }

    pub fn namespace_label(&self, key: &str) -> Option<&str> {
        self.namespace_labels.iter().find(|(held, _)| held == key).map(|(_, value)| value.as_str())
    }
}

fn read(json: Option<Vec<u8>>) -> Value {
    json.map_or(Value::Null, |json| serde_json::from_slice(&json).expect("the API server sends JSON"))
}

impl From<types::Request> for Request {
    fn from(sent: types::Request) -> Self {
        Self {
            operation: sent.operation,
            kind: sent.kind,
            target: sent.target,
            name: sent.name,
            namespace: sent.namespace,
            namespace_labels: sent.namespace_labels,
            user: sent.user,
            dry_run: sent.dry_run,
            options: read(sent.options),
            object: read(sent.object),
            old_object: read(sent.old_object),
            parameters: read(sent.parameters),
        }
    }
}

/// A yes, with what is to be said beside it.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    warnings: Vec<String>,
    audit_annotations: Vec<(String, String)>,
}

impl Allowed {
    pub fn new() -> Self {
        Self::default()
    }

    /// Tells the client something.
    #[must_use]
    pub fn warn(mut self, warning: impl Into<String>) -> Self {
        self.warnings.push(warning.into());
        self
    }

    /// Leaves a note in the audit log.
    #[must_use]
    pub fn audit(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.audit_annotations.push((key.into(), value.into()));
        self
    }
}

/// A no, with its reason.
#[derive(Clone, Debug)]
pub struct Denied {
    denial: types::Denial,
    said: Allowed,
}

impl Denied {
    /// 403 `Forbidden`.
    pub fn new(message: impl Into<String>) -> Self {
        let denial = types::Denial { message: message.into(), code: None, reason: None };
        Self { denial, said: Allowed::new() }
    }

    /// 422 `Invalid`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(message).with(422, "Invalid")
    }

    /// Another HTTP status, and a reason that Kubernetes has.
    #[must_use]
    pub fn with(mut self, code: u16, reason: &str) -> Self {
        self.denial.code = Some(code);
        self.denial.reason = Some(reason.to_owned());
        self
    }

    /// Leaves a note in the audit log.
    #[must_use]
    pub fn audit(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.said = self.said.audit(key, value);
        self
    }
}

fn split(result: Result<Allowed, Denied>) -> (types::Verdict, types::Notes) {
    let (verdict, said) = match result {
        Ok(said) => (types::Verdict::Allowed, said),
        Err(Denied { denial, said }) => (types::Verdict::Denied(denial), said),
    };
    (verdict, types::Notes { warnings: said.warnings, audit_annotations: said.audit_annotations })
}

#[doc(hidden)]
pub mod glue {
    use serde_json::Value;

    pub use super::mutating::exports::wharf::admission::mutation;
    pub use super::validating::exports::wharf::admission::validation;
    use super::{Allowed, Denied, Request, split, types};

    pub fn validate(
        request: types::Request,
        plugin: impl FnOnce(&Request) -> Result<Allowed, Denied>,
    ) -> validation::Answer {
        let (verdict, notes) = split(plugin(&request.into()));
        validation::Answer { verdict, notes }
    }

    pub fn mutate(
        request: types::Request,
        plugin: impl FnOnce(&Request, &mut Value) -> Result<Allowed, Denied>,
    ) -> mutation::Answer {
        let request = Request::from(request);
        let mut object = request.object.clone();
        let (verdict, notes) = split(plugin(&request, &mut object));
        let change = if object == request.object {
            types::Change::None
        } else {
            types::Change::Object(object.to_string().into_bytes())
        };
        mutation::Answer { verdict, change, notes }
    }
}

/// Makes functions the component's admission hooks.
///
/// `validate` is a `fn(&Request) -> Result<Allowed, Denied>`; `mutate` is a
/// `fn(&Request, &mut serde_json::Value) -> Result<Allowed, Denied>`, which changes the object that it is handed.
#[macro_export]
macro_rules! admission_plugin {
    (validate = $validate:path) => {
        struct WharfValidation;

        impl $crate::admission::glue::validation::Guest for WharfValidation {
            fn validate(request: $crate::admission::types::Request) -> $crate::admission::glue::validation::Answer {
                $crate::admission::glue::validate(request, $validate)
            }
        }

        $crate::admission::validating::export_validation!(WharfValidation with_types_in $crate::admission::validating);
    };
    (mutate = $mutate:path) => {
        struct WharfMutation;

        impl $crate::admission::glue::mutation::Guest for WharfMutation {
            fn mutate(request: $crate::admission::types::Request) -> $crate::admission::glue::mutation::Answer {
                $crate::admission::glue::mutate(request, $mutate)
            }
        }

        $crate::admission::mutating::export_mutation!(WharfMutation with_types_in $crate::admission::mutating);
    };
    (mutate = $mutate:path, validate = $validate:path) => {
        $crate::admission_plugin!(mutate = $mutate);
        $crate::admission_plugin!(validate = $validate);
    };
}

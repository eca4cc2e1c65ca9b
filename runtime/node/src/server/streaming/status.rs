//! How a stream ended, as the error channel says it.
//!
//! Source: `k8s.io/kubelet/pkg/cri/streaming/remotecommand/{exec,attach,httpstream}.go`.

use serde_json::{Value, json};
use wharf_cri::Error;
use wharf_types::order::{ENVELOPES, Ordered};

use crate::names;

/// A `metav1.Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status(Value);

impl Status {
    fn success() -> Self {
        Self(json!({"metadata": {}, "status": "Success"}))
    }

    fn internal(message: &str) -> Self {
        Self(json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: {message}"), "details": {"causes": [{"message": message}]}}))
    }

    pub fn json(&self) -> String {
        Ordered::new(&self.0, ENVELOPES).to_json()
    }

    /// What clients get that know no Status: nothing, or what went wrong.
    pub fn plain(&self) -> String {
        self.0["message"].as_str().unwrap_or_default().to_owned()
    }
}

pub fn of_exec(command: &[String], result: wharf_cri::Result<i32>) -> Status {
    match result {
        Ok(0) => Status::success(),
        Ok(code) => {
            let command = command.join(" ");
            let message = format!("command terminated with non-zero exit code: command {command:?} exited with {code}");
            Status(json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode", "message": message,
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}))
        }
        Err(error) => Status::internal(&format!("error executing command in container: {}", words(&error))),
    }
}

pub fn of_attach(result: wharf_cri::Result<()>) -> Status {
    match result {
        Ok(()) => Status::success(),
        Err(error) => Status::internal(&format!("error attaching to container: {}", words(&error))),
    }
}

pub fn words(error: &Error) -> String {
    names::chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_as_upstream_tells_it() {
        let command = ["app".to_owned(), "x".to_owned()];
        assert_eq!(of_exec(&command, Ok(0)).json(), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(of_exec(&command, Ok(0)).plain(), "");
        let failed = of_exec(&command, Ok(3));
        assert_eq!(
            failed.json(),
            r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: command \"app x\" exited with 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#
        );
        let failed = failed.0;
        assert_eq!(
            (&failed["reason"], &failed["details"]["causes"][0]["message"]),
            (&json!("NonZeroExitCode"), &json!("3"))
        );
        let broken = of_exec(&command, Err(Error::Invalid("no such file".into())));
        assert_eq!(broken.plain(), "Internal error occurred: error executing command in container: no such file");
    }
}

//! Query parameters of the verbs, as data.

use serde_json::{Value, json};

use super::Dialect;

/// A query parameter: name, type and meaning.
pub(super) struct Parameter(&'static str, &'static str, &'static str);

const DRY_RUN: Parameter = Parameter(
    "dryRun",
    "string",
    "When present, indicates that modifications should not be persisted. The only valid value is `All`: all stages of the request are carried out but the last.",
);
const FIELD_MANAGER: Parameter =
    Parameter("fieldManager", "string", "Names the actor that makes the changes, in at most 128 printable characters.");
const FIELD_VALIDATION: Parameter = Parameter(
    "fieldValidation",
    "string",
    "What to do with unknown and duplicate fields: `Ignore` drops them, `Warn` (the default) drops them with a warning, `Strict` refuses the request.",
);
const FORCE: Parameter = Parameter(
    "force",
    "boolean",
    "Takes over fields that other managers own, in an apply patch. Not allowed with other patches.",
);
const LABEL_SELECTOR: Parameter =
    Parameter("labelSelector", "string", "Restricts the objects to those with matching labels.");
const FIELD_SELECTOR: Parameter =
    Parameter("fieldSelector", "string", "Restricts the objects to those with matching fields.");
const LIMIT: Parameter =
    Parameter("limit", "integer", "The most objects to return in one reply; `continue` gets the rest.");
const CONTINUE: Parameter = Parameter("continue", "string", "The token that the reply to the preceding page held.");
const RESOURCE_VERSION: Parameter =
    Parameter("resourceVersion", "string", "Constrains the versions of the data that the reply may show.");
const RESOURCE_VERSION_MATCH: Parameter =
    Parameter("resourceVersionMatch", "string", "How `resourceVersion` is applied: `Exact` or `NotOlderThan`.");
const TIMEOUT_SECONDS: Parameter = Parameter("timeoutSeconds", "integer", "Ends the request after this time.");
const SEND_INITIAL_EVENTS: Parameter = Parameter(
    "sendInitialEvents",
    "boolean",
    "Begins a watch with an event for every object there is, and a bookmark after the last of them.",
);
const ALLOW_WATCH_BOOKMARKS: Parameter =
    Parameter("allowWatchBookmarks", "boolean", "Asks for events of type BOOKMARK in a watch.");
const WATCH: Parameter = Parameter("watch", "boolean", "Streams changes instead of returning a list.");
const GRACE_PERIOD_SECONDS: Parameter =
    Parameter("gracePeriodSeconds", "integer", "How long the object may take to end; zero deletes at once.");
const ORPHAN_DEPENDENTS: Parameter = Parameter(
    "orphanDependents",
    "boolean",
    "Deprecated: use `propagationPolicy`. Whether dependents lose their owner.",
);
const PROPAGATION_POLICY: Parameter =
    Parameter("propagationPolicy", "string", "What becomes of dependents: `Orphan`, `Background` or `Foreground`.");

pub(super) const WRITE: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
pub(super) const PATCH: &[Parameter] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
pub(super) const DELETE: &[Parameter] = &[DRY_RUN, GRACE_PERIOD_SECONDS, ORPHAN_DEPENDENTS, PROPAGATION_POLICY];
pub(super) const LIST: &[Parameter] = &[
    ALLOW_WATCH_BOOKMARKS,
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL_EVENTS,
    TIMEOUT_SECONDS,
    WATCH,
];
pub(super) const DELETE_COLLECTION: &[Parameter] = &[
    CONTINUE,
    DRY_RUN,
    FIELD_SELECTOR,
    GRACE_PERIOD_SECONDS,
    LABEL_SELECTOR,
    LIMIT,
    ORPHAN_DEPENDENTS,
    PROPAGATION_POLICY,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    TIMEOUT_SECONDS,
];

const CONTAINER: Parameter = Parameter("container", "string", "The container; needed where the pod has several.");
const STREAMS: &[Parameter] = &[
    CONTAINER,
    Parameter("stdin", "boolean", "Redirects standard input."),
    Parameter("stdout", "boolean", "Redirects standard output."),
    Parameter("stderr", "boolean", "Redirects standard error."),
    Parameter("tty", "boolean", "Allocates a terminal."),
];
const EXEC: &[Parameter] = &[
    Parameter("command", "string", "The command and its arguments, one value each."),
    CONTAINER,
    Parameter("stdin", "boolean", "Redirects standard input."),
    Parameter("stdout", "boolean", "Redirects standard output."),
    Parameter("stderr", "boolean", "Redirects standard error."),
    Parameter("tty", "boolean", "Allocates a terminal."),
];
const LOG: &[Parameter] = &[
    CONTAINER,
    Parameter("follow", "boolean", "Keeps streaming as the container writes."),
    Parameter("insecureSkipTLSVerifyBackend", "boolean", "Accepts any serving certificate of the node."),
    Parameter("limitBytes", "integer", "The most bytes to return."),
    Parameter("previous", "boolean", "The log of the container's previous run."),
    Parameter("sinceSeconds", "integer", "Only lines written in this many last seconds."),
    Parameter("stream", "string", "Which stream: `All`, `Stdout` or `Stderr`."),
    Parameter("tailLines", "integer", "Only this many last lines."),
    Parameter("timestamps", "boolean", "Puts the time in front of each line."),
];

/// Parameters of a subresource's own, beside those of the verb.
pub(super) fn of_subresource(name: &str) -> &'static [Parameter] {
    match name {
        "exec" => EXEC,
        "attach" => STREAMS,
        "log" => LOG,
        "portforward" => &[Parameter("ports", "integer", "The ports to forward.")],
        "proxy" => &[Parameter("path", "string", "The path to request of the target.")],
        _ => &[],
    }
}

impl Parameter {
    pub(super) fn render(&self, dialect: Dialect) -> Value {
        let Parameter(name, kind, description) = self;
        match dialect {
            Dialect::V2 => {
                json!({ "name": name, "in": "query", "type": kind, "description": description, "uniqueItems": true })
            }
            Dialect::V3 => {
                json!({ "name": name, "in": "query", "description": description, "schema": { "type": kind, "uniqueItems": true } })
            }
        }
    }
}

/// A parameter that is part of the path.
pub(super) fn in_path(name: &str, description: &str, dialect: Dialect) -> Value {
    let mut parameter = json!({ "name": name, "in": "path", "required": true, "description": description });
    let shape = json!({ "type": "string", "uniqueItems": true });
    match dialect {
        Dialect::V2 => {
            parameter["type"] = "string".into();
            parameter["uniqueItems"] = true.into();
        }
        Dialect::V3 => parameter["schema"] = shape,
    }
    parameter
}

/// `pretty`, which every path takes.
pub(super) fn pretty(dialect: Dialect) -> Value {
    Parameter(
        "pretty",
        "string",
        "If 'true', the reply is indented. Defaults to 'false', but for browsers and curl to 'true'.",
    )
    .render(dialect)
}

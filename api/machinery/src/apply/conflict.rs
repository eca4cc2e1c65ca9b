//! Two who want one field: what the one who applies is told.
//!
//! Source: `managedfields/internal/conflict.go` and `merge/conflict.go`.

use wharf_types::ApiError;
use wharf_types::meta::StatusCause;

use super::managers::{Id, Operation};
use super::path::Path;
use super::set::Set;

/// One field that somebody else owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub manager: Id,
    pub path: Path,
}

/// The fields of all conflicts.
pub fn paths(conflicts: &[Conflict]) -> Set {
    let mut set = Set::default();
    conflicts.iter().for_each(|conflict| set.insert(&conflict.path.0));
    set
}

fn shown(id: &Id) -> String {
    let mut text = format!("{:?}", id.manager);
    if !id.subresource.is_empty() {
        text += &format!(" with subresource {:?}", id.subresource);
    }
    if id.operation == Operation::Update {
        text += &format!(" using {}", id.api_version);
    }
    text
}

/// 409, with a cause for each field. `conflicts` come by manager.
pub fn refusal(conflicts: &[Conflict]) -> ApiError {
    let message = match conflicts {
        [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", shown(&one.manager), one.path),
        many => {
            let mut lines = Vec::new();
            let mut last: Option<&Id> = None;
            for conflict in many {
                if last != Some(&conflict.manager) {
                    lines.push(format!("conflicts with {}:", shown(&conflict.manager)));
                    last = Some(&conflict.manager);
                }
                lines.push(format!("- {}", conflict.path));
            }
            format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n"))
        }
    };
    let cause = |conflict: &Conflict| StatusCause {
        field: Some(conflict.path.to_string()),
        message: Some(format!("conflict with {}", shown(&conflict.manager))),
        reason: Some("FieldManagerConflict".to_owned()),
    };
    let mut error = ApiError::new(409, "Conflict", message);
    error.details.get_or_insert_default().causes = Some(conflicts.iter().map(cause).collect());
    error
}

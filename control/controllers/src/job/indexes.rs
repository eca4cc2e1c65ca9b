//! Sets of completion indexes, as `status.completedIndexes` writes them: `0-3,5,7-8`.

use std::collections::BTreeSet;

use wharf_types::k8s::api::core::v1::Pod;

/// Label and annotation of a pod that works on an index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The index that a pod works on.
pub fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

/// Reads a set; indexes from `limit` on are left out, and what cannot be read is skipped.
pub fn parse(text: &str, limit: i32) -> BTreeSet<i32> {
    let mut set = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            set.extend(first.max(0)..=last.min(limit - 1));
        }
    }
    set
}

/// Writes a set; runs of three and more are joined by a dash, as upstream does.
pub fn format(set: &BTreeSet<i32>) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut indexes = set.iter().copied().peekable();
    while let Some(first) = indexes.next() {
        let mut last = first;
        while let Some(next) = indexes.next_if_eq(&(last + 1)) {
            last = next;
        }
        match last - first {
            0 => parts.push(first.to_string()),
            1 => parts.extend([first.to_string(), last.to_string()]),
            _ => parts.push(format!("{first}-{last}")),
        }
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(format(&parse(text, 100)), expected);
    }

    #[test]
    fn sets_read_as_they_write() {
        for text in ["", "0", "0,1", "0-2", "0-3,5,7,8", "10-99"] {
            check(text, text);
        }
    }

    #[test]
    fn what_does_not_belong_is_left_out() {
        check("98-200", "98,99");
        check("x,1,-", "1");
        check("3-1", "");
    }
}

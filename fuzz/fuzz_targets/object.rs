//! Objects of every built-in kind: read, given their defaults, validated, and shown in a table's row. What had its defaults
//! once needs them no more.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use wharf_machinery::body::{EncodingKind, decode};
use wharf_registry::{Row, builtin};

static ROWS: LazyLock<Vec<Row>> = LazyLock::new(builtin::rows);

fuzz_target!(|input: &[u8]| {
    let Ok(body) = decode(input, EncodingKind::Json) else { return };
    let (version, kind) = (body.value["apiVersion"].as_str(), body.value["kind"].as_str());
    let named = |row: &&Row| {
        Some(row.gvk.kind.as_ref()) == kind && Some(row.gvk.group_version().to_string().as_str()) == version
    };
    let Some(row) = ROWS.iter().find(named) else { return };
    let Ok(mut object) = row.kind.decode(&body.value, &mut |_| {}) else { return };
    row.kind.default(&mut *object);
    let old = object.clone_box();
    row.kind.default(&mut *object);
    assert!(object.same(&*old), "defaults of defaults:\n{object:?}\n{old:?}");
    row.kind.prepare_for_create(&mut *object);
    let _ = (row.kind.validate(&*object), row.kind.validate_new(&*object), row.kind.warnings(&*object, None));
    let _ = (row.kind.validate_change(&*object, &*old), row.kind.validate_status_update(&*object, &*old));
    let _ = (row.kind.fields(&*object), row.kind.cells(&object.to_vec(), jiff::Timestamp::UNIX_EPOCH));
    let _ = row.kind.scale(&*object);
});

//! The names of objects that an expression makes: `Object{spec: Object.spec{…}}` names each after the fields that lead to it.
//!
//! Source: `CheckTypeNamesMatchFieldPathNames` in `k8s.io/apiserver/pkg/cel/mutation/dynamic`. Upstream looks at the value; here it
//! is the text, so objects that come out of variables and functions are not looked at.

use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr, operators as op};

use super::compile::Program;

impl Program {
    /// What is wrong with the names of the objects that the expression makes; the outermost is to be `root`.
    pub fn misnamed(&self, root: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(&self.expression, root, &mut found);
        found
    }
}

fn check(expression: &IdedExpr, path: &str, found: &mut Vec<String>) {
    match &expression.expr {
        Expr::Struct(object) => {
            if object.type_name.trim_start_matches('.') != path {
                found.push(format!(
                    "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                    object.type_name
                ));
            }
            for entry in &object.entries {
                if let EntryExpr::StructField(field) = &entry.expr {
                    check(&field.value, &format!("{path}.{}", field.field), found);
                }
            }
        }
        // Lists and maps have no names of their own.
        Expr::List(list) => list.elements.iter().for_each(|element| check(element, path, found)),
        Expr::Map(map) => map.entries.iter().for_each(|entry| {
            if let EntryExpr::MapEntry(entry) = &entry.expr {
                check(&entry.value, path, found);
            }
        }),
        Expr::Call(call) if call.func_name == op::CONDITIONAL => {
            call.args.iter().skip(1).for_each(|branch| check(branch, path, found));
        }
        Expr::Call(call) if call.func_name == op::ADD => {
            call.args.iter().for_each(|part| check(part, path, found));
        }
        Expr::Comprehension(loop_) => {
            check(&loop_.loop_step, path, found);
            check(&loop_.result, path, found);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, expected: &[&str]) {
        let program = Program::compile(expression).expect("an expression");
        let why = |text: &&str| {
            let (held, wanted) = text.split_once(" for ").expect("two names");
            format!(
                "unexpected type name {held:?}, expected {wanted:?}, which matches field name path from root Object type"
            )
        };
        assert_eq!(program.misnamed("Object"), expected.iter().map(why).collect::<Vec<_>>(), "{expression}");
    }

    #[test]
    fn objects_are_named_after_the_way_to_them() {
        check("Object{}", &[]);
        check("Object{spec: Object.spec{containers: [Object.spec.containers{name: 'a'}]}}", &[]);
        check("Object{spec: object.spec.x ? Object.spec{} : Object.spec{replicas: 1}}", &[]);
        check(
            "Object{spec: Object.spec{containers: object.spec.containers.map(c, Object.spec.containers{name: c.name})}}",
            &[],
        );
        check("Object{metadata: Object.metadata{labels: {'a': 'b'}}}", &[]);
        check("Object{spec: Object.status{}}", &["Object.status for Object.spec"]);
        check(
            "Object{spec: Object.spec{containers: [Object.spec.pods{}]}}",
            &["Object.spec.pods for Object.spec.containers"],
        );
        check("Object{spec: Object.a{b: Object.a.b{}}}", &["Object.a for Object.spec", "Object.a.b for Object.spec.b"]);
    }
}

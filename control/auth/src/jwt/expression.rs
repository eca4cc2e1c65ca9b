//! One CEL expression over the claims of a token, or over the user that they make.
//!
//! Source: `k8s.io/apiserver/pkg/authentication/cel`. What an expression may cost is upstream's limit for one call.

use std::sync::LazyLock;

use serde_json::Value as Json;
use wharf_machinery::cel::{Budget, CALL_MAX, Env, Program, Type, Value, Variables};

/// The variable that an expression knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Claims,
    User,
}

/// What an expression must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Bool,
    Anything,
}

#[derive(Debug)]
pub struct Expression {
    pub text: String,
    scope: Scope,
    program: Program,
}

static CLAIMS: LazyLock<Type> = LazyLock::new(|| Type::map(Type::Dyn));
static USER: LazyLock<Type> = LazyLock::new(|| {
    let strings = Type::list(Type::STRING);
    Type::object(
        "kubernetes.UserInfo",
        [("username", Type::STRING), ("uid", Type::STRING), ("groups", strings.clone()), ("extra", Type::map(strings))],
    )
});

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Scope::Claims => "claims",
            Scope::User => "user",
        }
    }

    fn ty(self) -> &'static Type {
        match self {
            Scope::Claims => &CLAIMS,
            Scope::User => &USER,
        }
    }
}

impl Expression {
    pub fn compile(text: &str, scope: Scope, wants: Wants) -> Result<Self, String> {
        let env = Env::default().variable(scope.name(), scope.ty().clone());
        let program = env.compile(text).map_err(|error| format!("compilation failed: {error}"))?;
        if wants == Wants::Bool && *program.output() != Type::Bool {
            return Err("must evaluate to bool".to_owned());
        }
        Ok(Self { text: text.to_owned(), scope, program })
    }

    /// True where it asks for this claim.
    pub fn selects(&self, claim: &str) -> bool {
        self.program.selects(self.scope.name(), claim)
    }

    /// `subject` is what the variable stands for.
    pub fn evaluate<'a>(&'a self, subject: &'a Json) -> Result<Value<'a>, String> {
        let variables = Variables::default().typed(self.scope.name(), subject, self.scope.ty());
        let value = self.program.evaluate(&variables, &mut Budget::new(CALL_MAX, CALL_MAX));
        value.map_err(|error| format!("expression '{}' resulted in error: {error}", self.text))
    }
}

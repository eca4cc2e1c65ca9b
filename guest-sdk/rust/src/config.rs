//! Configuration: environment variables, and ConfigMap or Secret volumes.

use std::path::Path;
use std::str::FromStr;

/// What was asked for is missing or does not parse.
#[derive(Debug)]
pub enum Error {
    Missing(String),
    Invalid { name: String, value: String },
    Read { path: String, source: std::io::Error },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Missing(name) => write!(f, "{name} is not set"),
            Error::Invalid { name, value } => write!(f, "{name} has a value that does not parse: {value:?}"),
            Error::Read { path, source } => write!(f, "read {path}: {source}"),
        }
    }
}

impl std::error::Error for Error {}

/// An environment variable that must be there.
pub fn var(name: &str) -> Result<String, Error> {
    std::env::var(name).map_err(|_| Error::Missing(name.to_owned()))
}

/// An environment variable, parsed; `default` where it is not set.
pub fn var_or<T: FromStr>(name: &str, default: T) -> Result<T, Error> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(value) => value.parse().map_err(|_| Error::Invalid { name: name.to_owned(), value }),
    }
}

/// One key of a mounted ConfigMap or Secret. Read it each time: a volume follows its object.
pub fn file(path: impl AsRef<Path>) -> Result<String, Error> {
    let path = path.as_ref();
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.display().to_string(), source })
}

//! Logging, one line an event, to standard error. `LOG_LEVEL` (error, warn, info, debug; default info) sets the least that is written.

/// From the gravest to the most talkative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Error => "ERROR",
            Level::Warn => "WARN",
            Level::Info => "INFO",
            Level::Debug => "DEBUG",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Level::Error, Level::Warn, Level::Info, Level::Debug].into_iter().find(|level| level.name().eq_ignore_ascii_case(text))
    }
}

/// The level asked for by the environment.
pub fn threshold() -> Level {
    std::env::var("LOG_LEVEL").ok().and_then(|text| Level::parse(&text)).unwrap_or(Level::Info)
}

pub fn write(level: Level, message: &str) {
    if level <= threshold() {
        eprintln!("{} {message}", level.name());
    }
}

pub fn error(message: &str) {
    write(Level::Error, message);
}

pub fn warn(message: &str) {
    write(Level::Warn, message);
}

pub fn info(message: &str) {
    write(Level::Info, message);
}

pub fn debug(message: &str) {
    write(Level::Debug, message);
}

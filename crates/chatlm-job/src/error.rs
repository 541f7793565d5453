//! One error type for the whole core: a stable code, a sentence, what to do about it, and where.

use std::fmt;
use std::io;
use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

/// Shorthand for a result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which exit status an error belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Exit status 1: the command was called wrongly.
    Usage,
    /// Exit status 2: data, configuration, model or checkpoint is missing or broken.
    Input,
    /// Exit status 3: disk, permission, port, device.
    Environment,
    /// Exit status 4: a bug in this program.
    Bug,
    /// Exit status 130: interrupted, with what was done saved.
    Cancelled,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $kind:ident;)*) => {
        /// The stable error codes; their text is what users and tests see.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The text of the code, such as `INPUT_NOT_FOUND`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
            /// The exit status the code belongs to.
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }
        }
    };
}

codes! {
    /// An option or a combination of options that makes no sense.
    Usage = "USAGE", Usage;
    /// The output is there already and `--force` was not given.
    TargetExists = "TARGET_EXISTS", Usage;
    /// A file, folder or glob that matches nothing.
    InputNotFound = "INPUT_NOT_FOUND", Input;
    /// A file that cannot be read as what it should be.
    InputFormat = "INPUT_FORMAT", Input;
    /// A row that lacks a field or holds the wrong kind of value.
    InputRow = "INPUT_ROW", Input;
    /// A configuration that does not fit its schema or itself.
    ConfigInvalid = "CONFIG_INVALID", Input;
    /// A model folder that is not a T5, or is broken.
    ModelInvalid = "MODEL_INVALID", Input;
    /// A tokenizer folder that is missing something.
    TokenizerInvalid = "TOKENIZER_INVALID", Input;
    /// A checkpoint that is broken or belongs to another run.
    CheckpointInvalid = "CHECKPOINT_INVALID", Input;
    /// `verify-resume` found a difference.
    ResumeMismatch = "RESUME_MISMATCH", Input;
    /// Weights, loss or gradients that are not finite.
    NotFinite = "NOT_FINITE", Input;
    /// No room left on the device, or a file-size limit.
    DiskFull = "DISK_FULL", Environment;
    /// Not allowed to read or write there.
    PermissionDenied = "PERMISSION_DENIED", Environment;
    /// Another program listens on the port.
    PortInUse = "PORT_IN_USE", Environment;
    /// More requests wait than the server takes on.
    QueueFull = "QUEUE_FULL", Environment;
    /// Any other failure of the operating system.
    Io = "IO", Environment;
    /// A device that this build or machine does not have.
    DeviceUnavailable = "DEVICE_UNAVAILABLE", Environment;
    /// A precision that this build or device does not have.
    PrecisionUnavailable = "PRECISION_UNAVAILABLE", Environment;
    /// One of several workers ended while the others needed it.
    WorkerLost = "WORKER_LOST", Environment;
    /// A bug in this program.
    Internal = "INTERNAL", Bug;
    /// Interrupted by the user.
    Cancelled = "CANCELLED", Cancelled;
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[derive(Debug, Clone, Serialize)]
struct Body {
    code: Code,
    message: String,
    help: String,
    context: Map<String, Value>,
}

/// What went wrong, where, and what to do. Serializes as `{code, message, help, context}`.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Error(Box<Body>);

impl Error {
    /// An error with a sentence and what to do about it.
    pub fn new(code: Code, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self(Box::new(Body {
            code,
            message: message.into(),
            help: help.into(),
            context: Map::new(),
        }))
    }

    /// A bug: something this program holds impossible.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(
            Code::Internal,
            message.to_string(),
            "this is a bug in chatlm: please report it with the command and its --debug output",
        )
    }

    /// The user interrupted the job.
    pub fn cancelled() -> Self {
        Self::new(
            Code::Cancelled,
            "interrupted",
            "what was done is saved: run the same command again to go on",
        )
    }

    /// An operating system error while `doing` something (`"read"`, `"write"`, …) with `path`.
    pub fn io(error: &io::Error, doing: &str, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().display().to_string();
        let (code, help) = match error.kind() {
            io::ErrorKind::NotFound => (
                Code::InputNotFound,
                "check the path; relative paths start at the current folder",
            ),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
                Code::PermissionDenied,
                "choose a folder this user may write to, or change its permissions",
            ),
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => (
                Code::DiskFull,
                "free some room or choose another disk, then run the same command again",
            ),
            _ => (Code::Io, "see the message of the operating system"),
        };
        Self::new(code, format!("cannot {doing} {path}: {error}"), help).with("file", path)
    }

    /// Adds where it happened: `file`, `row`, `field`, `step`, ….
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.context.insert(key.to_owned(), value.into());
        self
    }

    pub fn code(&self) -> Code {
        self.0.code
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn help(&self) -> &str {
        &self.0.help
    }

    pub fn context(&self) -> &Map<String, Value> {
        &self.0.context
    }

    /// The envelope that crosses the border.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| {
            r#"{"code":"INTERNAL","message":"unprintable error","help":"","context":{}}"#.to_owned()
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "error[{}]: {}",
            self.0.code.as_str(),
            self.0.message
        )
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_screaming() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()));
            assert!(
                code.as_str()
                    .chars()
                    .all(|c| c.is_ascii_uppercase() || c == '_')
            );
        }
    }

    #[test]
    fn full_disk_and_missing_file_have_their_own_codes() {
        let full = Error::io(&io::Error::from(io::ErrorKind::StorageFull), "write", "/x");
        assert_eq!(
            (full.code(), full.code().kind()),
            (Code::DiskFull, Kind::Environment)
        );
        let gone = Error::io(&io::Error::from(io::ErrorKind::NotFound), "read", "/x");
        assert_eq!(gone.code().kind(), Kind::Input);
        let json: Value = serde_json::from_str(&gone.with("row", 3).to_json()).unwrap();
        assert_eq!(json["context"]["row"], 3);
        assert_eq!(json["code"], "INPUT_NOT_FOUND");
    }
}

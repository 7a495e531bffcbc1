//! What can be wrong with a configuration, and how it is told: always one line, always with what would be right.

use alloc::string::String;
use core::fmt;

use crate::{MAX_CMDLINE_BYTES, MAX_PATH_BYTES, VERSION};

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as the caller of [`crate::parse`] named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Path of the key, such as `vm.memory`; empty where the trouble is with no single key.
    pub key: String,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong. Displayed, each says what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The text is not TOML.
    Syntax(String),
    /// TOML, but not the schema's: an unknown, missing or twice given key, a value of another type. With the reader's
    /// words, and the known key that the unknown one resembles.
    Schema(String, Option<&'static str>),
    /// There is no `version`.
    NoVersion,
    /// `version` is another.
    Version(i64),
    /// There is no `[[vm]]`.
    NoVm,
    /// `[vm]` was written for `[[vm]]`.
    VmNotList,
    /// More than one `[[vm]]`: how many.
    SeveralVms(usize),
    /// Two VMs have this name.
    DuplicateName(String),
    /// Not a name.
    Name(String),
    /// Not a number of bytes.
    Size(String),
    /// Not a multiple of 2 MiB, or zero.
    Memory(String),
    /// Not a path below the configuration's folder.
    Path(String, PathFault),
    /// The command line has this many bytes.
    CmdlineLength(usize),
    /// The command line holds this control character.
    CmdlineCharacter(char),
}

/// What is wrong with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathFault {
    /// It is empty.
    Empty,
    /// It starts at the root.
    Absolute,
    /// It has a part `..`.
    Parent,
    /// It has an empty part or a part `.`.
    Part,
    /// It has a backslash.
    Backslash,
    /// It has a character that FAT does not allow.
    Character(char),
    /// It is longer than [`MAX_PATH_BYTES`].
    Length(usize),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if matches!(self.problem, Problem::Syntax(_)) {
            write!(f, "column {}: ", self.column)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.problem)
    }
}

impl core::error::Error for ConfigError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(words) => write!(f, "not TOML: {words}"),
            Self::Schema(words, None) => write!(f, "{words}"),
            Self::Schema(words, Some(near)) => write!(f, "{words}; did you mean `{near}`?"),
            Self::NoVersion => write!(f, "there is no version; write `version = {VERSION}` first"),
            Self::Version(other) => {
                write!(f, "version {other} is not known to this build; write `version = {VERSION}`")
            }
            Self::NoVm => {
                write!(f, "there is no VM; add a section [[vm]] with name, memory, kernel")
            }
            Self::VmNotList => write!(f, "VMs are a list; write [[vm]] with two brackets"),
            Self::SeveralVms(count) => {
                write!(
                    f,
                    "{count} VMs, but this version runs one; remove the other [[vm]] sections"
                )
            }
            Self::DuplicateName(name) => {
                write!(f, "{name:?} is also another VM's name; give each VM a name of its own")
            }
            Self::Name(name) => {
                write!(
                    f,
                    "{name:?} is not a name; write letters, digits, `-` and `_`, at least one"
                )
            }
            Self::Size(text) => write!(f, "{text:?} is not a size; write for example \"256M\""),
            Self::Memory(text) => {
                write!(f, "{text:?} is not a multiple of 2M above zero; write for example \"256M\"")
            }
            Self::Path(path, fault) => write!(
                f,
                "{path:?} {fault}; write a path below this file's folder, for example \"guest/vmlinuz\""
            ),
            Self::CmdlineLength(bytes) => {
                write!(f, "{bytes} bytes are too long; write at most {MAX_CMDLINE_BYTES}")
            }
            Self::CmdlineCharacter(character) => {
                write!(f, "holds the control character {character:?}; write one line of text")
            }
        }
    }
}

impl fmt::Display for PathFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "is empty"),
            Self::Absolute => write!(f, "starts at the root"),
            Self::Parent => write!(f, "leaves the folder by `..`"),
            Self::Part => write!(f, "has an empty part or a part `.`"),
            Self::Backslash => write!(f, "has a backslash where `/` belongs"),
            Self::Character(character) => {
                write!(f, "has {character:?}, which no file name may hold")
            }
            Self::Length(bytes) => {
                write!(f, "has {bytes} bytes where at most {MAX_PATH_BYTES} are allowed")
            }
        }
    }
}

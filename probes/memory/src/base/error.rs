//! Everything that can go wrong when a guest is read, one sentence each.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use klab_facts::MachineError;
use serde::Serialize;

use super::{GuestPhys, GuestVirt, Missing};

/// A result of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Classes of errors, for programs: what a caller can do about one depends on this, not on its sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such thing: a task, a symbol, a type, a file name.
    Absent,
    /// The memory changed while it was read, each time it was tried.
    Torn,
    /// The memory holds what a kernel never makes: damage.
    Broken,
    /// An address without memory behind it.
    Unmapped,
    /// A page that is in swap, or that the writer of a dump left out: it exists, and is not here.
    LeftOut,
    /// This kernel does not have what the reader needs.
    Unsupported,
    /// The question itself makes no sense.
    Invalid,
    /// The machine: QEMU, its sockets, its agent, drgn's process.
    Machine,
    /// A file or device of the host: it cannot be read, or was cut off.
    Io,
}

impl ErrorKind {
    /// The kind in plain words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Torn => "torn",
            Self::Broken => "broken",
            Self::Unmapped => "unmapped",
            Self::LeftOut => "left_out",
            Self::Unsupported => "unsupported",
            Self::Invalid => "invalid",
            Self::Machine => "machine",
            Self::Io => "io",
        }
    }

    /// Tells whether the fault lies with the source of the memory, so that nothing follows from it about the kernel.
    #[must_use]
    pub const fn is_of_the_source(self) -> bool {
        matches!(self, Self::LeftOut | Self::Machine | Self::Io)
    }

    /// Tells whether the fault lies with what the memory holds now; at another moment the same question may have an answer.
    #[must_use]
    pub const fn is_of_the_moment(self) -> bool {
        matches!(
            self,
            Self::Torn | Self::Broken | Self::Unmapped | Self::LeftOut
        )
    }
}

/// A failure, with the address, the length and the source that was read.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A physical range that no RAM of the guest holds.
    #[error("{len} bytes at physical {at} are not in the guest's RAM")]
    NotRam {
        /// First byte asked for.
        at: GuestPhys,
        /// Bytes asked for.
        len: usize,
    },
    /// A virtual address without a translation.
    #[error("{at} is not mapped: the {level} entry is {entry:#x}")]
    NotMapped {
        /// The address asked for.
        at: GuestVirt,
        /// The page-table level at which the walk ended, as the kernel names it (`pgd`, `p4d`, `pud`, `pmd`, `pte`).
        level: &'static str,
        /// The entry found there.
        entry: u64,
    },
    /// An address whose upper bits are not copies of its highest translated bit.
    #[error("{at} is not an address: its upper bits must repeat bit {}", .bits - 1)]
    NotCanonical {
        /// The address asked for.
        at: GuestVirt,
        /// Bits that the page tables translate: 48 or 57.
        bits: u32,
    },
    /// The memory is no kernel that this library can read.
    #[error("no kernel found: {0}")]
    NoKernel(String),
    /// Something of the guest's own tables is malformed.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// The table: `BTF`, `kallsyms`, `VMCOREINFO`, ..
        what: &'static str,
        /// The fault, and its place.
        why: String,
    },
    /// A symbol that the kernel does not have.
    #[error("{release} has no symbol `{name}`{hint}")]
    NoSymbol {
        /// The name asked for.
        name: String,
        /// The kernel's release.
        release: String,
        /// Empty, or `; did you mean ...?`.
        hint: String,
    },
    /// A name that several things have.
    #[error(
        "`{name}` is the name of several: {}: write which one, or its address",
        .candidates.join(", ")
    )]
    Ambiguous {
        /// The name asked for.
        name: String,
        /// The spelling that means each of them alone, and what it is.
        candidates: Vec<String>,
    },
    /// A type that the kernel does not have.
    #[error("{release} has no type `{name}`{hint}")]
    NoType {
        /// The name asked for, in C.
        name: String,
        /// The kernel's release.
        release: String,
        /// Empty, or `; did you mean ...?`.
        hint: String,
    },
    /// A member that a structure does not have in this kernel.
    #[error("{ty} has no member `{member}` in {release}{hint}")]
    NoMember {
        /// The structure, in C.
        ty: String,
        /// The member asked for.
        member: String,
        /// The kernel's release.
        release: String,
        /// Empty, or `; did you mean ...?`.
        hint: String,
    },
    /// A walk that met its bound.
    #[error(
        "{what} at {at} has more than {bound} entries: a loop, or memory that changes under the walk"
    )]
    TooLong {
        /// The walk: `list`, `maple tree`, ..
        what: &'static str,
        /// Address at which it began.
        at: GuestVirt,
        /// The bound.
        bound: usize,
    },
    /// A structure whose invariant does not hold.
    #[error("{what} is broken at {at}: {why}")]
    Broken {
        /// The structure: `list`, `rbtree`, ..
        what: &'static str,
        /// The node that is wrong.
        at: GuestVirt,
        /// The fault.
        why: String,
    },
    /// The memory changed while it was read, each time it was tried.
    #[error(
        "{what} changed while it was read ({tries} tries): for a still guest, `klab pause`, or guest.paused(|guest| ..) in a cell"
    )]
    Torn {
        /// The thing that was read.
        what: String,
        /// Number of tries.
        tries: u32,
    },
    /// A C expression that does not parse or does not fit its types.
    #[error("{message}\n  {source_text}\n  {caret:>width$}", caret = '^', width = .column + 1)]
    Expression {
        /// The fault.
        message: String,
        /// The class of what is wrong: of a name that there is not, absent.
        kind: ErrorKind,
        /// The expression.
        source_text: String,
        /// Column, in characters from 0.
        column: usize,
    },
    /// A page that exists and is not in this source: in swap, or left out by the writer of a dump.
    #[error("{at} cannot be read: {why}")]
    LeftOut {
        /// The page or address, and what it is an address of.
        at: String,
        /// Its place elsewhere, or the program that left it out.
        why: String,
    },
    /// No such thing, said in one sentence with its cure.
    #[error("{0}")]
    Absent(String),
    /// Something that this kernel does not have.
    #[error("{0}")]
    Unsupported(String),
    /// A question that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The machine: QEMU, its sockets, its agent, drgn's process.
    #[error(transparent)]
    Machine(Cause),
    /// A file or device of the host.
    #[error(transparent)]
    Io(Cause),
    /// An error, and what was being read.
    #[error("{what}: {error}")]
    In {
        /// The thing and the member: `task 132 (cat), its signal_struct`.
        what: String,
        /// The error.
        error: Box<Self>,
    },
}

impl Error {
    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotRam { .. } | Self::NotMapped { .. } | Self::NotCanonical { .. } => {
                ErrorKind::Unmapped
            }
            Self::NoKernel(_)
            | Self::NoSymbol { .. }
            | Self::NoType { .. }
            | Self::NoMember { .. }
            | Self::Absent(_) => ErrorKind::Absent,
            Self::Malformed { .. } | Self::TooLong { .. } | Self::Broken { .. } => {
                ErrorKind::Broken
            }
            Self::Torn { .. } => ErrorKind::Torn,
            Self::LeftOut { .. } => ErrorKind::LeftOut,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Expression { kind, .. } => *kind,
            Self::Ambiguous { .. } | Self::Invalid(_) => ErrorKind::Invalid,
            Self::Machine(_) => ErrorKind::Machine,
            Self::Io(_) => ErrorKind::Io,
            Self::In { error, .. } => error.kind(),
        }
    }

    /// The error itself, without what was being read.
    #[must_use]
    pub fn innermost(&self) -> &Self {
        let mut error = self;
        while let Self::In { error: inner, .. } = error {
            error = inner;
        }
        error
    }

    /// The address that the error is about, where it is a virtual one of the guest.
    #[must_use]
    pub fn at(&self) -> Option<GuestVirt> {
        match self.innermost() {
            Self::NotMapped { at, .. }
            | Self::NotCanonical { at, .. }
            | Self::TooLong { at, .. }
            | Self::Broken { at, .. } => Some(*at),
            _ => None,
        }
    }

    /// Memory that holds what a kernel never makes.
    pub fn broken(what: &'static str, at: GuestVirt, why: impl Into<String>) -> Self {
        let why = why.into();
        Self::Broken { what, at, why }
    }

    /// An error of the machine: a sentence, or an error of another library.
    pub fn machine(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Machine(Cause::new(cause))
    }

    /// An error of a file or device of the host: a sentence, or an error of another library.
    pub fn io(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Io(Cause::new(cause))
    }
}

/// The same, with what was being read: what a bare address does not say.
pub trait Of<T> {
    /// Names the thing, and the member if one was followed.
    ///
    /// # Errors
    /// The error that came, as [`Error::In`].
    fn of<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;

    /// Notes the error as a part that is missing of a value whose other parts go on to be read.
    fn or_miss<S: Into<String>>(
        self,
        missing: &mut Vec<Missing>,
        what: impl FnOnce() -> S,
    ) -> Option<T>;
}

impl<T> Of<T> for Result<T> {
    fn of<S: Into<String>>(self, what: impl FnOnce() -> S) -> Self {
        self.map_err(|error| Error::In {
            what: what().into(),
            error: Box::new(error),
        })
    }

    fn or_miss<S: Into<String>>(
        self,
        missing: &mut Vec<Missing>,
        what: impl FnOnce() -> S,
    ) -> Option<T> {
        self.map_err(|error| missing.push(Missing::new(what(), &error)))
            .ok()
    }
}

/// An error of another library, or a sentence. Two are equal if they say the same.
#[derive(Debug, Clone)]
pub struct Cause(Arc<dyn StdError + Send + Sync>);

impl Cause {
    fn new(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(Arc::from(cause.into()))
    }

    /// The error as its own type, where it has that.
    #[must_use]
    pub fn downcast_ref<E: StdError + 'static>(&self) -> Option<&E> {
        self.0.downcast_ref()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Cause {}

impl<E: MachineError> From<E> for Error {
    fn from(error: E) -> Self {
        Self::machine(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_being_read_is_said_and_the_kind_stays() {
        let bare: Result<()> = Err(Error::NotMapped {
            at: GuestVirt(0x123c),
            level: "pgd",
            entry: 0,
        });
        let told = bare.of(|| "task 132 (cat), its signal_struct").unwrap_err();
        assert_eq!(told.kind(), ErrorKind::Unmapped);
        assert!(
            told.to_string()
                .starts_with("task 132 (cat), its signal_struct: 0x"),
            "{told}"
        );
        assert!(matches!(told.innermost(), Error::NotMapped { .. }));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("busy")]
    struct Busy;

    impl MachineError for Busy {}

    #[test]
    fn an_error_of_the_machine_keeps_its_own_type() {
        let error = Error::from(Busy);
        assert_eq!(error.kind(), ErrorKind::Machine);
        assert!(error.kind().is_of_the_source());
        let Error::Machine(cause) = &error else {
            panic!("{error}")
        };
        assert!(cause.downcast_ref::<Busy>().is_some());
        assert_eq!(error, Error::from(Busy));
        assert_ne!(error, Error::machine("no"));
    }

    #[test]
    fn names_of_kinds_are_those_of_json() {
        for kind in [
            ErrorKind::Absent,
            ErrorKind::LeftOut,
            ErrorKind::Unsupported,
        ] {
            let json = serde_json::to_value(kind).unwrap();
            assert_eq!(json, kind.name());
        }
    }
}

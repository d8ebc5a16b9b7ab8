//! drgn on the guest's memory, in a Python process beside this one.
//!
//! The process is started when it is first needed, and serves every client that knows its socket: the `%%drgn` cells
//! and the Rust cells of one notebook share one, so a name that one of them sets is there for the other. It ends when
//! nobody is connected any more. Nothing of Python or drgn is in this process, so none of their faults is.

mod process;
mod wire;

use serde_json::{Value, json};

use crate::guest::Guest;
use crate::memory::GuestVirt;
use crate::object::Object;
use crate::{Error, Result};
pub use process::{python, socket};
pub use wire::{Connection, Failure, Raised, Said, Stop, complete};

/// Source of a drgn program's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The guest that `klab up NAME` made.
    Guest(String),
    /// An ELF dump of a guest's memory, by its absolute path.
    Core(std::path::PathBuf),
}

impl Target {
    /// A request on this target.
    #[must_use]
    pub fn request(&self, what: &str) -> Value {
        match self {
            Self::Guest(name) => json!({"do": what, "guest": name}),
            Self::Core(path) => json!({"do": what, "core": path}),
        }
    }
}

/// drgn on one guest: `guest.drgn()?.eval("len(list(for_each_task()))")?`.
///
/// Code is Python in the namespace of the `%%drgn` cells: `prog` is the guest, drgn's helpers are there.
#[derive(Debug)]
pub struct Drgn {
    guest: Guest,
    target: Target,
    connection: Connection,
}

impl Guest {
    /// drgn on this guest. The first call starts Python, which takes some tenths of a second.
    ///
    /// # Errors
    /// When the Python package `klab` is not installed (`cargo xtask lab` does it), or the guest has no name, being memory
    /// alone.
    pub fn drgn(&self) -> Result<Drgn> {
        let target = Target::Guest(self.machine()?.name().to_owned());
        Ok(Drgn {
            guest: self.clone(),
            target,
            connection: Connection::open()?,
        })
    }
}

impl Drgn {
    /// The value of a Python expression: numbers and text as themselves, a pointer as `{"type", "value"}`, a structure as
    /// `{"type", "address"}`, whatever can be iterated over as a list of at most 100,000.
    ///
    /// # Errors
    /// The exception that Python raised, or the reason why there is no answer.
    pub fn eval(&mut self, expression: &str) -> Result<Value> {
        self.ask("eval", &[("code", expression.into())])
    }

    /// The object that a Python expression gives, or that the pointer which it gives points to.
    ///
    /// # Errors
    /// As [`eval`](Self::eval), and when it is no object in memory, or this kernel's BTF has no such type.
    pub fn object(&mut self, expression: &str) -> Result<Object> {
        let place = self.ask("object", &[("code", expression.into())])?;
        let (ty, at) = place["type"]
            .as_str()
            .zip(place["address"].as_u64())
            .ok_or_else(|| Error::machine(format!("drgn gave no place but {place}")))?;
        self.guest.at(ty, GuestVirt(at))
    }

    /// Makes the Python variable `name` this object, by its address and type.
    ///
    /// # Errors
    /// When the object is a value that lies nowhere in memory, and as [`eval`](Self::eval).
    pub fn set(&mut self, name: &str, object: &Object) -> Result<()> {
        let at = object.address().ok_or_else(|| {
            Error::Invalid(format!(
                "this {} is a value: only what lies in memory can go to drgn",
                object.type_name()
            ))
        })?;
        let fields = [
            ("name", name.into()),
            ("type", object.type_name().into()),
            ("address", at.0.into()),
        ];
        self.ask("set", &fields).map(drop)
    }

    fn ask(&mut self, what: &str, fields: &[(&str, Value)]) -> Result<Value> {
        let mut request = self.target.request(what);
        for (key, value) in fields {
            request[*key] = value.clone();
        }
        // Text that the code prints is printed.
        let mut print = |said: Said| match said {
            Said::Stderr(text) => eprint!("{text}"),
            Said::Stdout(text) => print!("{text}"),
            Said::Display(data) => println!("{}", data["text/plain"].as_str().unwrap_or_default()),
        };
        match self.connection.ask(&request, &mut print) {
            Ok(value) => Ok(value),
            Err(Failure::Raised(raised)) => Err(Error::machine(format!("drgn: {raised}"))),
            Err(Failure::Lost(error)) => Err(error),
        }
    }
}

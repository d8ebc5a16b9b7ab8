//! Writing into the guest's memory: typed, checked, and told.
//!
//! ```no_run
//! # use probes::prelude::*;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! let change = guest.writable()?;
//! change.set("init_task.comm", "hello")?;
//! change.store(&guest.eval("*(int *)&vm_swappiness")?, 7)?;
//! # Ok(())
//! # }
//! ```
//!
//! Nothing in klab writes guest memory but this, or what a function does that is [called](Writable::call), and only after [`Guest::writable`]. A write is one of a C object, checked by its type:
//! a number that does not fit, or a text without room for its NUL, is refused. The guest stands still meanwhile. Each write is noted
//! before it is made; `klab status` tells of it until the guest is reset, which undoes them all.
//!
//! What is refused: code, since QEMU goes on to run what it has translated before, and a processor what it has cached; a dump; a
//! guest whose run is recorded; a machine that klab did not start, unless asked for by [`Guest::writable_attached`].

mod call;
mod view;

pub use call::Returned;

use serde::Serialize;
use vm::Part;

use crate::guest::Guest;
use crate::memory::{GuestVirt, PAGE_SIZE};
use crate::object::{NewValue, Object, Value};
use crate::{Error, ErrorKind, Result};

/// A guest whose memory may be written to.
#[derive(Debug, Clone)]
pub struct Writable {
    guest: Guest,
}

/// A write that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The expression, or the type where there is none.
    pub what: String,
    /// Address of the object.
    pub at: GuestVirt,
    /// Its type in C.
    pub ty: String,
    /// Value before the write.
    pub old: Value,
    /// Value now, read back.
    pub new: Value,
    /// The guest's name.
    pub guest: String,
}

impl Guest {
    /// Allows writes to the memory of a guest that klab started.
    ///
    /// # Errors
    /// Unsupported, for a dump and for a machine that was attached.
    pub fn writable(&self) -> Result<Writable> {
        let machine = self.machine()?;
        if machine.is_attached() {
            return Err(Error::Unsupported(format!(
                "the machine `{}` was not started by klab, and no reset of klab's undoes a write to it: `--write`, or `guest.writable_attached()?`, says that you want that",
                machine.name()
            )));
        }
        self.writable_attached()
    }

    /// Allows writes to the memory of any machine: nothing undoes them on one that klab did not start.
    ///
    /// # Errors
    /// Unsupported, for a dump, and for a guest whose run is recorded.
    pub fn writable_attached(&self) -> Result<Writable> {
        let machine = self.machine()?;
        if machine.recording().is_ok() {
            return Err(Error::Unsupported(format!(
                "the run of the guest `{}` is recorded, and a write of klab's is not in the record: what is replayed would be another run",
                machine.name()
            )));
        }
        Ok(Writable {
            guest: self.clone(),
        })
    }
}

impl Writable {
    /// Writes to what a C expression names: a variable, a member, an element.
    ///
    /// # Errors
    /// Those of [`Guest::eval`] and of [`store`](Self::store).
    pub fn set(&self, expression: &str, value: impl Into<NewValue>) -> Result<Change> {
        let value = value.into();
        self.guest.paused(|guest| {
            let object = guest.eval(expression)?;
            self.write(expression.to_owned(), &object, &value)
        })
    }

    /// Writes the value of a C expression: a number, `&init_task`, `"text"`. For a `char` array what is no string literal is the text itself,
    /// and for an enumeration a word may be an enumerator's name.
    ///
    /// # Errors
    /// Those of [`Guest::eval`] and of [`store`](Self::store).
    pub fn set_c(&self, expression: &str, value: &str) -> Result<Change> {
        if self.guest.eval(expression)?.is_char_array()? && !value.starts_with('"') {
            return self.set(expression, value);
        }
        self.set(expression, self.value(value)?)
    }

    /// The value of a C expression; a word that is no name of the kernel's is left to the type that takes it, as an enumerator.
    fn value(&self, text: &str) -> Result<NewValue> {
        let is_word = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        match self.guest.eval(text) {
            Ok(object) => NewValue::of(&object),
            Err(error) if is_word && error.kind() == ErrorKind::Absent => Ok(text.into()),
            Err(error) => Err(error),
        }
    }

    /// Writes to an object in memory.
    ///
    /// # Errors
    /// Invalid, for a value that its type does not take, and for code; absent, where no RAM is.
    pub fn store(&self, object: &Object, value: impl Into<NewValue>) -> Result<Change> {
        let value = value.into();
        let what = format!("{object:?}");
        self.guest.paused(|_| self.write(what, object, &value))
    }

    /// The guest stands.
    fn write(&self, what: String, object: &Object, value: &NewValue) -> Result<Change> {
        let (at, bytes) = object.encode(value)?;
        let old = object.to_value()?;
        let parts = self.parts(object, at, &bytes)?;
        // QEMU of a machine that klab did not start was asked anew where its RAM is, when it was paused.
        let machine = self.guest.machine()?;
        let said = match value {
            NewValue::Number(number) => format!("{what} = {number}"),
            NewValue::Text(text) => format!("{what} = {text:?}"),
        };
        machine.write(&said, &parts)?;
        let mut back = vec![0; bytes.len()];
        object.kernel().read(at, &mut back)?;
        if back != bytes {
            return Err(Error::machine(format!(
                "what was written to {at} is not there: its memory takes no writes"
            )));
        }
        Ok(Change {
            what,
            at,
            ty: object.type_name(),
            old,
            new: object.to_value()?,
            guest: machine.name().to_owned(),
        })
    }

    /// The bytes, page by page, with their guest-physical addresses.
    fn parts(&self, object: &Object, at: GuestVirt, bytes: &[u8]) -> Result<Vec<Part>> {
        let kernel = object.kernel();
        let mut parts = Vec::new();
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            if kernel.space().is_executable(at)? {
                return Err(Error::Invalid(format!(
                    "{at} is code: QEMU goes on to run what it has translated before; gdb writes it (`klab status --json` has its socket)"
                )));
            }
            let room = PAGE_SIZE - at.0 % PAGE_SIZE;
            let len = usize::try_from(room).unwrap_or(rest.len()).min(rest.len());
            let (now, later) = rest.split_at(len);
            parts.push(Part {
                gpa: kernel.space().translate(at)?.0,
                bytes: now.to_vec(),
            });
            at = at.offset(len as u64);
            rest = later;
        }
        Ok(parts)
    }
}

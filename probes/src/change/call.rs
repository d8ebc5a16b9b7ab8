//! Calls of a kernel function, by klab's module: in a kernel thread of its own, with arguments typed by the function's prototype.
//!
//! ```no_run
//! # use probes::prelude::*;
//! # fn demo(guest: &Guest) -> probes::Result<()> {
//! guest.call("kallsyms_lookup_name", ["init_task"])?;
//! guest.call("ksize", [guest.find_task(1)?.pointer()?])?;
//! # Ok(())
//! # }
//! ```
//!
//! The thread has no user memory, and holds no lock. A function that faults ends it (an oops: what it held, it holds for ever),
//! one that does not return keeps it; the module then stays until the guest is reset.

use std::mem::size_of;
use std::time::Duration;

use serde::Serialize;

use super::Writable;
use crate::core::printk;
use crate::debug::arguments::{Argument, Passed, is_composite, passed};
use crate::debug::function::{Prototype, prototype, resolve};
use crate::guest::Guest;
use crate::kernel::btf::TypeId;
use crate::kernel::{Kernel, place};
use crate::kmod::call::{Invoke, Invoked, KLAB_INVOKE, TEXTS};
use crate::kmod::ring::{POSITIONS, VERSION};
use crate::memory::GuestVirt;
use crate::object::{NewValue, Object, Value};
use crate::{Error, Result};

/// Time limit of a call.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest one: the agent, which waits in the guest, does nothing else for this client meanwhile.
const LONGEST: Duration = Duration::from_secs(25);
/// Lines of the kernel's log that are said of a fault.
const LINES: usize = 6;

/// A call that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Returned {
    /// The function.
    pub function: String,
    /// Its arguments.
    pub arguments: Vec<Argument>,
    /// Type of what it returned, in C: `void` for nothing.
    #[serde(rename = "type")]
    pub ty: String,
    /// The value that it returned; `None` for nothing.
    pub value: Option<Value>,
    /// The guest's name.
    pub guest: String,
}

impl Guest {
    /// Calls a function of a kernel that klab started: [`Writable::call`].
    ///
    /// # Errors
    /// Those of [`Guest::writable`] and of [`Writable::call`].
    pub fn call<A: Into<NewValue>>(
        &self,
        function: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Returned> {
        self.writable()?.call(function, arguments)
    }
}

impl Writable {
    /// Calls a function in a kernel thread, waits for its end, at most five seconds, and gives what it returned. A text is copied
    /// into the guest for the time of the call. Where BTF does not know the function, words are passed as they are.
    ///
    /// # Errors
    /// Absent, for a function that there is not; invalid, for arguments that its prototype does not take; machine, when it faults
    /// or does not return, and when klab's module cannot be loaded.
    pub fn call<A: Into<NewValue>>(
        &self,
        function: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Returned> {
        self.call_within(LIMIT, function, arguments)
    }

    /// As [`call`](Self::call), with another time limit, of at most 25 seconds.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub fn call_within<A: Into<NewValue>>(
        &self,
        limit: Duration,
        function: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Returned> {
        let values: Vec<NewValue> = arguments.into_iter().map(Into::into).collect();
        let kernel = self.guest.kernel()?;
        let found = resolve(&kernel, function)?;
        let module = found.module.as_deref();
        let name = place(&found.symbol.name, 0, module);
        if !kernel.space().is_executable(found.symbol.at)? {
            return Err(Error::Invalid(format!(
                "`{name}` is no code, or was given back after the boot: its page may not be executed"
            )));
        }
        let prototype = prototype(&kernel, &found.symbol.name, module)?;
        let words = Words::of(&kernel, &name, prototype.as_ref(), &values)?;
        self.guest.load_kmod()?;
        let machine = self.guest.machine()?;
        let said = values.iter().map(said).collect::<Vec<_>>().join(", ");
        machine.write(&format!("{name}({said})"), &[])?;
        let before = printk::newest(&kernel);
        let (value, state, thread) = self.invoke(found.symbol.at, &words, values.len(), limit)?;
        match state {
            Invoked::Returned => {}
            Invoked::Died => {
                return Err(Error::machine(format!(
                    "{name} faulted: the kernel ended the thread that called it. {}`klab reset {}` has the guest as it was",
                    log_since(&kernel, before),
                    machine.name()
                )));
            }
            Invoked::Runs => {
                return Err(Error::machine(format!(
                    "{name} has not returned in {:?}: it goes on in the thread {thread} (`klab stack {thread}`, `klab why {thread}`); `klab reset {}` ends it",
                    limit.min(LONGEST),
                    machine.name()
                )));
            }
        }
        let result = match &prototype {
            Some(prototype) => result(&kernel, prototype, value)?,
            None => Some(Object::of_register_word(&kernel, value)?),
        };
        Ok(Returned {
            function: name,
            arguments: words.arguments,
            ty: result
                .as_ref()
                .map_or_else(|| "void".to_owned(), Object::type_name),
            value: result.map(|object| object.to_value()).transpose()?,
            guest: machine.name().to_owned(),
        })
    }

    /// As [`call`](Self::call), of arguments that are C expressions: `7`, `&init_task`, `"text"`.
    ///
    /// # Errors
    /// Those of [`Guest::eval`] and of [`call`](Self::call).
    pub fn call_c(&self, function: &str, arguments: &[&str]) -> Result<Returned> {
        let values = arguments.iter().map(|text| self.value(text));
        self.call(function, values.collect::<Result<Vec<_>>>()?)
    }

    fn invoke(
        &self,
        at: GuestVirt,
        words: &Words,
        count: usize,
        limit: Duration,
    ) -> Result<(u64, Invoked, u32)> {
        let call = Invoke {
            version: VERSION,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            function: at.0,
            args: words.args,
            value: 0,
            texts: words.texts,
            limit: u32::try_from(limit.min(LONGEST).as_millis()).unwrap_or(u32::MAX),
            state: 0,
            thread: 0,
            text: words.text,
        };
        let mut client = self.guest.agent()?;
        client.device_open()?;
        let answer = client.device_ioctl(KLAB_INVOKE, &call.to_bytes())?;
        client.device_close()?;
        let answer: Option<&[u8; size_of::<Invoke>()]> = answer.as_slice().try_into().ok();
        match answer.map(Invoke::answer) {
            Some((value, Some(state), thread)) => Ok((value, state, thread)),
            _ => Err(Error::machine(
                "klab's module does not say what became of the call: unload it (`klab kmod unload`), so that this klab's is loaded"
                    .to_owned(),
            )),
        }
    }
}

/// A value as it is noted.
fn said(value: &NewValue) -> String {
    match value {
        NewValue::Number(number) => number.to_string(),
        NewValue::Text(text) => format!("{text:?}"),
    }
}

/// Words for the registers of the arguments.
struct Words {
    args: [u64; POSITIONS as usize],
    texts: u32,
    text: [u8; TEXTS],
    len: usize,
    arguments: Vec<Argument>,
}

impl Words {
    fn of(
        kernel: &Kernel,
        name: &str,
        prototype: Option<&Prototype>,
        values: &[NewValue],
    ) -> Result<Self> {
        let mut words = Self {
            args: [0; POSITIONS as usize],
            texts: 0,
            text: [0; TEXTS],
            len: 0,
            arguments: Vec::new(),
        };
        if values.len() > words.args.len() {
            return Err(Error::Unsupported(format!(
                "at most {POSITIONS} arguments are passed in registers, and {name} is given {}",
                values.len()
            )));
        }
        let Some(prototype) = prototype else {
            for (index, value) in values.iter().enumerate() {
                let word = match value {
                    NewValue::Text(text) => words.put(index, text)?,
                    // As C converts it.
                    NewValue::Number(number) => *number as u64,
                };
                words.args[index] = word;
                words.arguments.push(Argument {
                    name: format!("arg{index}"),
                    ty: "unsigned long".to_owned(),
                    value: shown(value, Value::Uint(word)),
                });
            }
            return Ok(words);
        };
        let (btf, parameters) = (&prototype.btf, &prototype.parameters);
        if parameters.len() != values.len() {
            let named: Vec<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::Invalid(format!(
                "{name} takes {}, and is given {}",
                match named.len() {
                    0 => "no arguments".to_owned(),
                    count => format!("{count} ({})", named.join(", ")),
                },
                values.len()
            )));
        }
        let mut sizes = Vec::new();
        for (_, ty) in parameters {
            sizes.push((
                btf.size_of(*ty)?.unwrap_or(8),
                is_composite(prototype, *ty)?,
            ));
        }
        for (((index, (parameter, ty)), value), place) in
            parameters.iter().enumerate().zip(values).zip(passed(sizes))
        {
            if place != Passed::Registers(index, 1) {
                return Err(Error::Unsupported(format!(
                    "`{parameter}` of {name} is not passed in one register"
                )));
            }
            let empty = Object::of_register(kernel, btf, *ty, 0)?;
            let pointer = matches!(empty.to_value(), Ok(Value::Pointer { .. }));
            let (word, known) = match value {
                NewValue::Text(text) if pointer => (words.put(index, text)?, None),
                value => {
                    let word = empty.register(value)?;
                    let object = Object::of_register(kernel, btf, *ty, word)?;
                    (word, Some(object.to_value()?))
                }
            };
            words.args[index] = word;
            words.arguments.push(Argument {
                name: parameter.clone(),
                ty: empty.type_name(),
                value: known.unwrap_or_else(|| shown(value, Value::Uint(word))),
            });
        }
        Ok(words)
    }

    /// Adds a text for an argument; gives its offset.
    fn put(&mut self, index: usize, text: &str) -> Result<u64> {
        let at = self.len;
        let end = at + text.len();
        if end >= TEXTS || text.contains('\0') {
            return Err(Error::Invalid(format!(
                "a call takes texts of {TEXTS} bytes in all, each with its NUL and none within"
            )));
        }
        self.text[at..end].copy_from_slice(text.as_bytes());
        self.len = end + 1;
        self.texts |= 1 << index;
        Ok(at as u64)
    }
}

fn shown(value: &NewValue, word: Value) -> Value {
    match value {
        NewValue::Text(text) => Value::Text(text.clone()),
        NewValue::Number(_) => word,
    }
}

/// The object that a function returned in `rax`; `None` for `void`.
fn result(kernel: &Kernel, prototype: &Prototype, word: u64) -> Result<Option<Object>> {
    let (btf, ty) = (&prototype.btf, prototype.returns);
    if btf.resolve(ty)?.id == TypeId::VOID {
        return Ok(None);
    }
    Object::of_register(kernel, btf, ty, word).map(Some)
}

/// Lines that the kernel has logged of a fault since a record, as a sentence.
fn log_since(kernel: &Kernel, before: Result<Option<u64>>) -> String {
    // Without the end of the log before the call, an older fault would be told as this one's.
    let (before, log) = match before.and_then(|before| Ok((before, printk::log(kernel)?))) {
        Ok(both) => both,
        Err(error) => return format!("Its log cannot be read: {error}. "),
    };
    let told = |text: &str| {
        ["BUG:", "Oops", "RIP:", "general protection", "kernel BUG"]
            .iter()
            .any(|sign| text.contains(sign))
    };
    let mut lines: Vec<&str> = log
        .records
        .iter()
        .filter(|record| before.is_none_or(|before| record.seq > before) && told(&record.text))
        .take(LINES)
        .map(|record| record.text.as_str())
        .collect();
    // Each trace ends with the place again.
    lines.dedup();
    match lines.is_empty() {
        true => "`klab log` may have why. ".to_owned(),
        false => format!("Its log says: {}. ", lines.join("; ")),
    }
}

//! Damages of a dump, one pointer at a time: every reader on memory in which one of the words that it reads is wrong.
//!
//! The words are found by looking at what a reader reads. A listing never fails as a whole for one bad thing, and what it
//! lost it names.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use probes::kernel::Kernel;
use probes::memory::{GuestPhys, PhysMemory, PhysRange};
use probes::readers::Reader;
use probes::{Error, Guest, Missing, Result};
use serde_json::Value;

/// An address that no kernel has: LIST_POISON1 of x86-64.
const POISON: u64 = 0xdead_0000_0000_0100;
/// The kernel's half of the addresses.
const KERNEL: u64 = 0xffff_8000_0000_0000;
/// Words that are noted of one reading.
const NOTED: usize = 1 << 20;

/// A dump's memory with one wrong word in it, and the words of it that were read.
#[derive(Debug)]
pub(crate) struct Damaged {
    memory: Arc<dyn PhysMemory>,
    word: Mutex<Option<GuestPhys>>,
    seen: Mutex<Option<BTreeSet<u64>>>,
}

impl Damaged {
    /// The guest of a dump, as one whose memory can be damaged.
    pub(crate) fn guest(dump: &Guest) -> Result<(Guest, Arc<Self>)> {
        let kernel = dump.kernel()?;
        let damaged = Arc::new(Self {
            memory: Arc::clone(kernel.space().memory()),
            word: Mutex::new(None),
            seen: Mutex::new(None),
        });
        let noted = kernel.vmcoreinfo()?.text().as_bytes();
        let kernel = Kernel::discover_noted(Arc::clone(&damaged) as _, Some(noted))?;
        Ok((Guest::from_kernel(kernel), damaged))
    }

    /// Addresses of the pointers that `read` reads, ascending.
    pub(crate) fn pointers(&self, read: impl FnOnce()) -> Vec<GuestPhys> {
        *lock(&self.seen) = Some(BTreeSet::new());
        read();
        let seen = lock(&self.seen).take().unwrap_or_default();
        let is_pointer = |at: &GuestPhys| {
            let word = self.memory.read_u64(*at);
            // Two numbers of 32 bits, the second of them -1 or a mask of all bits, are none.
            let is_pair = |word: u64| word >> 32 == 0xffff_ffff && word << 32 >> 63 == 0;
            word.is_ok_and(|word| word >= KERNEL && word.cast_signed() < -4096 && !is_pair(word))
        };
        seen.into_iter().map(GuestPhys).filter(is_pointer).collect()
    }

    /// What `read` gives while the word at `at` is wrong.
    pub(crate) fn at<T>(&self, at: GuestPhys, read: impl FnOnce() -> T) -> T {
        *lock(&self.word) = Some(at);
        let value = read();
        *lock(&self.word) = None;
        value
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PhysMemory for Damaged {
    fn read(&self, at: GuestPhys, buf: &mut [u8]) -> Result<()> {
        self.memory.read(at, buf)?;
        if let Some(seen) = &mut *lock(&self.seen) {
            let first = at.0.next_multiple_of(8);
            let words = (first..at.0 + buf.len() as u64).step_by(8);
            // What is read in large pieces, as symbols are, has no pointers that are followed one by one.
            if buf.len() <= 1024 && seen.len() < NOTED {
                seen.extend(words);
            }
        }
        if let Some(word) = *lock(&self.word) {
            for (i, byte) in POISON.to_le_bytes().into_iter().enumerate() {
                let place = (word.0 + i as u64).checked_sub(at.0);
                if let Some(place) = place.and_then(|place| buf.get_mut(place as usize)) {
                    *place = byte;
                }
            }
        }
        Ok(())
    }

    fn next_data(&self, at: GuestPhys) -> GuestPhys {
        self.memory.next_data(at)
    }

    fn ranges(&self) -> &[PhysRange] {
        self.memory.ranges()
    }

    fn stored(&self, range: PhysRange) -> Vec<PhysRange> {
        self.memory.stored(range)
    }
}

/// What a reading shows: its values by their places, and what is missing.
type Reading = Result<(BTreeSet<String>, Vec<Missing>)>;

fn reading(reader: &Reader, guest: &Guest, sample: &[&str]) -> Reading {
    let value = reader.read(guest, &reader.words(sample)?)?;
    let json = serde_json::from_str(&value.json()?);
    let json: Value = json.map_err(|fault| Error::Invalid(fault.to_string()))?;
    // The other faces are made as well: none may fail.
    let _ = (value.text(), value.html(), value.svg());
    let mut values = BTreeSet::new();
    values_of(&json, "", &mut values);
    Ok((values, value.missing()))
}

fn values_of(value: &Value, at: &str, values: &mut BTreeSet<String>) {
    match value {
        Value::Array(elements) => {
            for (i, element) in elements.iter().enumerate() {
                values_of(element, &format!("{at}[{i}]"), values);
            }
        }
        Value::Object(members) if members.contains_key("missing") && members.len() > 2 => {}
        Value::Object(members) => {
            for (name, member) in members {
                values_of(member, &format!("{at}.{name}"), values);
            }
        }
        Value::Null => {}
        _ => {
            values.insert(at.to_owned());
        }
    }
}

/// Damages one after another `count` of the pointers that a reader reads, and gives what it hides.
pub(crate) fn sweep(
    guest: &Guest,
    memory: &Damaged,
    (reader, sample): (&Reader, &[&str]),
    count: usize,
) -> Vec<String> {
    let read = || reading(reader, guest, sample);
    // Of what this kernel does not have there is nothing to damage.
    let Ok((whole, missing)) = read() else {
        return Vec::new();
    };
    let places = memory.pointers(|| drop(read()));
    let count = count.min(places.len());
    let mut faults = Vec::new();
    for i in 0..count {
        let at = places[i * places.len() / count];
        let hides = match memory.at(at, read) {
            Err(error) if may_hide_all(reader, &error) => continue,
            Err(error) => format!("everything: {error}"),
            Ok((left, lacks)) => {
                let lost = whole.difference(&left).filter(|at| !is_of_an_address(at));
                let lost: Vec<&String> = lost.collect();
                // Why a stack is not followed further stands in the trace.
                if lost.is_empty() || lacks != missing || left.iter().any(|at| at.contains(".end."))
                {
                    continue;
                }
                let (lost, few) = (lost.len(), &lost[..lost.len().min(4)]);
                format!(
                    "{lost} of {} values without a word, as {few:?}",
                    whole.len()
                )
            }
        };
        faults.push(format!("a wrong word at physical {at} hides {hides}"));
    }
    faults
}

/// Tells whether a value says only what lies at an address that is itself shown: a wrong address leads to no symbol.
fn is_of_an_address(at: &str) -> bool {
    ["name", "offset", "module", "links[0].function"]
        .iter()
        .any(|of| at.ends_with(of))
        || at.contains(".serves.")
}

/// Tells whether the word is the only way to what the reader shows, and that is said: of the one ring of the log, of the namespace, of a
/// step to the file.
fn may_hide_all(reader: &Reader, error: &Error) -> bool {
    let one = ["log", "mounts", "path-lookup", "page-cache", "slab"];
    // What an expression leads through is shown with it.
    let is_said = matches!(error, Error::In { .. }) || error.to_string().contains("\n  ^");
    // The list of all caches is no look-up of one.
    let lists = reader.command == "slab" && reader.parameters.is_empty();
    is_said && !lists && (one.contains(&reader.command) || reader.command == "inode")
}

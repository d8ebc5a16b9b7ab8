//! Reading what changes under the reader.

use std::thread::sleep;
use std::time::Duration;

use crate::base::check_interrupt;
use crate::{Error, Listing, Missing, Result};

/// Number of tries before a reading is said to be torn.
const TRIES: u32 = 16;
/// After as many tries there is a pause before each: a virtual CPU may stand still in the middle of an update.
const AT_ONCE: u32 = 4;
const PAUSE: Duration = Duration::from_millis(1);
/// Number of equal looks after which the same parts of a list are taken for damaged.
const SAME: u32 = 4;

/// Reads again while the memory changes. Memory that looks broken in the same way each time is broken; memory
/// that looks different each time is [`Error::Torn`].
///
/// # Errors
/// [`Error::Torn`] when it looks different each time; else the error of `read` that came each time.
pub fn settle<T>(what: &str, mut read: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let mut first = None;
    let mut same = true;
    for attempt in 0..TRIES {
        check_interrupt();
        if attempt >= AT_ONCE {
            sleep(PAUSE);
        }
        let seen = match read() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) if !may_pass(&error) => return Err(error),
            Err(error) => Some(error),
        };
        if attempt == 0 {
            first = seen;
        } else {
            same &= first == seen;
        }
    }
    match first {
        Some(error) if same => Err(error),
        _ => Err(Error::Torn {
            what: what.to_owned(),
            tries: TRIES,
        }),
    }
}

/// A value that names the parts of it that could not be read.
pub trait Lacks {
    /// The parts that could not be read.
    fn lacks(&mut self) -> &mut Vec<Missing>;
}

impl<T> Lacks for Listing<T> {
    fn lacks(&mut self) -> &mut Vec<Missing> {
        &mut self.missing
    }
}

impl<T> Lacks for (T, Vec<Missing>) {
    fn lacks(&mut self) -> &mut Vec<Missing> {
        &mut self.1
    }
}

/// `lacks!(Irqs, Rcu)`: they have a member `missing`.
#[macro_export]
macro_rules! lacks {
    ($($ty:ty),*) => {
        $(impl $crate::structures::Lacks for $ty {
            fn lacks(&mut self) -> &mut Vec<$crate::Missing> {
                &mut self.missing
            }
        })*
    };
}
pub use lacks;

/// Lists by `read`, again while the list changes or parts of it cannot be read. If the same parts cannot be read each
/// time, the list is given with them as missing: the same bytes twice are not a race.
///
/// # Errors
/// As [`settle`], for what cannot be listed at all.
pub fn settle_all<L: Lacks>(what: &str, mut read: impl FnMut() -> Result<Option<L>>) -> Result<L> {
    let mut before: Vec<Missing> = Vec::new();
    let mut same = 0;
    let mut tries = 0;
    settle(what, || {
        tries += 1;
        let Some(mut list) = read()? else {
            same = 0;
            return Ok(None);
        };
        let missing = list.lacks();
        if missing.iter().all(|part| part.kind.is_of_the_source()) {
            return Ok(Some(list));
        }
        same = if before == *missing { same + 1 } else { 0 };
        before.clone_from(missing);
        if same >= SAME {
            return Ok(Some(list));
        }
        // Another part each time: no damage, and no reading either.
        for part in missing.iter_mut() {
            *part = part.clone().torn(tries);
        }
        Ok((tries == TRIES).then_some(list))
    })
}

/// Reads until `read` gives the same twice in a row: for what is small enough to be read whole, not checked link by link.
///
/// # Errors
/// [`Error::Torn`] when it differs each time; else the error of `read` that came each time.
pub fn twice<T: PartialEq>(what: &str, mut read: impl FnMut() -> Result<T>) -> Result<T> {
    settle(what, || {
        let seen = read()?;
        Ok((read()? == seen).then_some(seen))
    })
}

/// Tells whether memory that changes while it is read can cause the error.
fn may_pass(error: &Error) -> bool {
    matches!(
        error.innermost(),
        Error::Broken { .. }
            | Error::TooLong { .. }
            | Error::NotMapped { .. }
            | Error::NotRam { .. }
            | Error::NotCanonical { .. }
            | Error::Malformed { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::Of as _;
    use crate::memory::GuestVirt;

    fn broken(n: u64) -> Error {
        Error::Broken {
            what: "list",
            at: GuestVirt(n),
            why: String::new(),
        }
    }

    #[test]
    fn what_settles_is_taken_and_what_never_does_is_torn() {
        let mut reads = [None, None, Some(7)].into_iter();
        assert_eq!(settle("x", || Ok(reads.next().unwrap())), Ok(7));
        let torn = Err(Error::Torn {
            what: "x".to_owned(),
            tries: TRIES,
        });
        assert_eq!(settle::<()>("x", || Ok(None)), torn);
        let mut n = 0;
        let mut flicker = || {
            n += 1;
            Err(broken(n))
        };
        assert_eq!(settle::<()>("x", &mut flicker), torn);
    }

    #[test]
    fn a_fault_that_stays_is_said_and_one_that_goes_is_not() {
        assert_eq!(settle::<()>("x", || Err(broken(1))), Err(broken(1)));
        let mut n = 0;
        let mut heals = || {
            n += 1;
            if n < 5 { Err(broken(1)) } else { Ok(Some(n)) }
        };
        assert_eq!(settle("x", &mut heals), Ok(5));
    }

    #[test]
    fn what_was_being_read_does_not_make_a_fault_lasting() {
        let mut n = 0;
        let mut heals = || {
            n += 1;
            match n {
                1..5 => Err(broken(1)).of(|| "its cred"),
                n => Ok(Some(n)),
            }
        };
        assert_eq!(settle("x", &mut heals), Ok(5));
    }

    #[test]
    fn parts_that_stay_unreadable_are_missing_and_those_that_heal_are_not() {
        let list = |bad: Option<u64>| {
            let mut list: Listing<u32> = vec![1].into();
            if let Some(n) = bad {
                list.miss("task 2", &broken(n));
            }
            Ok(Some(list))
        };
        let damaged = settle_all("x", || list(Some(7))).unwrap();
        assert_eq!((damaged.items.len(), damaged.missing.len()), (1, 1));
        let mut n = 0;
        let mut heals = || {
            n += 1;
            list((n < 4).then_some(n))
        };
        assert!(settle_all("x", &mut heals).unwrap().is_whole());
        let mut n = 0;
        let mut flickers = || {
            n += 1;
            list(Some(n))
        };
        let flickering = settle_all("x", &mut flickers).unwrap();
        assert_eq!(flickering.missing[0].kind, ErrorKind::Torn);
    }

    #[test]
    fn what_reads_the_same_twice_is_taken() {
        let mut reads = [1, 2, 3, 3, 4].into_iter();
        assert_eq!(twice("x", || Ok(reads.next().unwrap())), Ok(3));
    }

    #[test]
    fn what_no_memory_heals_is_said_at_once() {
        let mut n = 0;
        let absent = Error::Absent("no such thing".to_owned());
        let mut read = || {
            n += 1;
            Err(absent.clone())
        };
        assert_eq!(settle::<()>("x", &mut read), Err(absent.clone()));
        assert_eq!(n, 1);
    }
}

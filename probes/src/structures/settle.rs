//! Reading what changes under the reader.

use crate::{Error, Result};

/// How often something that changes under the reader is read before that is said.
const TRIES: u32 = 16;

/// What `what` reads, tried again while it changes. An error that comes twice alike is no change but a fault.
pub(crate) fn settle<T>(what: &str, mut read: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let mut last = None;
    for _ in 0..TRIES {
        match read() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => last = None,
            Err(error) if last.as_ref() == Some(&error) => return Err(error),
            Err(error) => last = Some(error),
        }
    }
    Err(Error::Torn {
        what: what.to_owned(),
        tries: TRIES,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_settles_is_taken_and_what_never_does_is_torn() {
        let mut reads = [None, None, Some(7)].into_iter();
        assert_eq!(settle("x", || Ok(reads.next().unwrap())), Ok(7));
        assert_eq!(
            settle::<()>("x", || Ok(None)),
            Err(Error::Torn {
                what: "x".to_owned(),
                tries: TRIES
            })
        );
    }

    #[test]
    fn an_error_that_stays_is_a_fault_and_one_that_goes_is_not() {
        let fault = |n: i32| Error::Other(format!("fault {n}"));
        assert_eq!(settle::<()>("x", || Err(fault(1))), Err(fault(1)));
        let mut n = 0;
        let mut flicker = || {
            n += 1;
            if n < 5 { Err(fault(n)) } else { Ok(Some(n)) }
        };
        assert_eq!(settle("x", &mut flicker), Ok(5));
    }
}

//! Exercises that check themselves: an answer is compared with a second reading of the live guest.

mod view;

use std::fmt::Debug;

use crate::{Error, Result};

/// Verdict on an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is no answer yet.
    Open {
        /// The exercise.
        exercise: String,
    },
    /// The answer agrees with the second reading.
    Right {
        /// The exercise.
        exercise: String,
        /// The answer, as Rust prints it.
        answer: String,
    },
}

/// Compares an answer with its witness: the same thing, read in another way.
///
/// `None` is no answer yet, and no error: a lesson runs from top to bottom before its exercises are done. The witness is
/// read only when there is an answer.
///
/// ```
/// use klab_memory::cell::exercise::check;
/// let hands = || Ok(10);
/// assert!(check("fingers", None, hands).is_ok());
/// assert!(check("fingers", Some(10), hands).is_ok());
/// assert!(check("fingers", Some(9), hands).is_err());
/// ```
///
/// # Errors
/// `Invalid`, so that the cell fails, if the answer and the witness differ; those of `witness`.
pub fn check<T: PartialEq + Debug>(
    exercise: &str,
    answer: Option<T>,
    witness: impl FnOnce() -> Result<T>,
) -> Result<Verdict> {
    let exercise = exercise.to_owned();
    let Some(answer) = answer else {
        return Ok(Verdict::Open { exercise });
    };
    let witness = witness()?;
    if answer == witness {
        return Ok(Verdict::Right {
            exercise,
            answer: format!("{answer:?}"),
        });
    }
    Err(Error::Invalid(format!(
        "{exercise}: you say {answer:?}, the guest's own reading is {witness:?}; look again"
    )))
}

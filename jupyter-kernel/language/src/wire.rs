//! Cells in another process: the messages between the kernel and that process, a line of JSON each, over one socket.
//!
//! The process answers questions by their numbers, in any order. The output of a cell comes before its answer. The process
//! ends when the socket does, so nothing of it outlives the kernel.

use std::io::{self, BufRead, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Bundle, Completion, Outcome, Shown};

/// From the kernel to the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Say {
    /// Wants an [`Answer`] of this number.
    Question(u64, Question),
    /// Stops the cell that runs, or waits for the process to be ready.
    Interrupt,
    /// The user's answer to [`Hear::Ask`] of this number; `None` where nobody answers.
    Input(u64, Option<String>),
}

/// A question to the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// Runs a cell.
    Execute {
        /// Its text.
        code: String,
        /// Its text for a session without tokio, if it awaits something.
        waiting: Option<String>,
    },
    /// Completions at byte `at`.
    Complete {
        /// The text of the cell.
        code: String,
        /// Byte of the text.
        at: usize,
    },
    /// Description of the name at byte `at`.
    Inspect {
        /// The text of the cell.
        code: String,
        /// Byte of the text.
        at: usize,
    },
}

/// From the process to the kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Hear {
    /// Output of the cell that runs, or ran last; before the first cell it belongs to none.
    Show(Shown),
    /// Wants a line of the cell's user: [`Say::Input`] of this number.
    Ask {
        /// The number.
        id: u64,
        /// The prompt.
        prompt: String,
        /// True if what is written is to be hidden.
        password: bool,
    },
    /// The answer to the question of this number.
    Answer(u64, Answer),
}

/// The answers, one for each [`Question`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// Outcome of the cell.
    Outcome(Outcome),
    /// Completions there.
    Completion(Completion),
    /// Description of the name.
    Inspection(Option<Bundle>),
}

/// Writes a message.
///
/// # Errors
/// When the other side is gone.
pub fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads a message; `None` once the other side is gone.
///
/// # Errors
/// When the socket fails, or brings something that is no such message.
pub fn read<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{CellError, Match};

    /// Messages as they are read after they were written.
    fn sent<T: Serialize + DeserializeOwned>(messages: &[T]) -> Vec<T> {
        let mut bytes = Vec::new();
        for message in messages {
            write(&mut bytes, message).unwrap();
        }
        let mut from = bytes.as_slice();
        std::iter::from_fn(|| read(&mut from).unwrap()).collect()
    }

    #[test]
    fn all_that_is_said_arrives() {
        let code = "let s = \"é\n\u{1e}\";".to_owned();
        let says = [
            Say::Question(
                1,
                Question::Execute {
                    code: code.clone(),
                    waiting: None,
                },
            ),
            Say::Question(
                2,
                Question::Complete {
                    code: code.clone(),
                    at: 7,
                },
            ),
            Say::Question(3, Question::Inspect { code, at: 0 }),
            Say::Interrupt,
            Say::Input(9, Some("two\nlines".to_owned())),
            Say::Input(9, None),
        ];
        assert_eq!(sent(&says), says);
    }

    #[test]
    fn all_that_is_heard_arrives() {
        let data = Bundle::from_iter([
            ("text/plain".to_owned(), json!("1\n2")),
            ("application/json".to_owned(), json!({"a": [1.5, null]})),
        ]);
        let hears = [
            Hear::Show(Shown::Stdout("a\nb".to_owned())),
            Hear::Show(Shown::Display {
                id: Some("x".to_owned()),
                update: true,
                data: data.clone(),
            }),
            Hear::Ask {
                id: 4,
                prompt: "name: ".to_owned(),
                password: true,
            },
            Hear::Answer(1, Answer::Outcome(Ok(Some(data.clone())))),
            Hear::Answer(1, Answer::Outcome(Ok(None))),
            Hear::Answer(1, Answer::Outcome(Err(CellError::new("Panic", "no")))),
            Hear::Answer(
                2,
                Answer::Completion(Completion {
                    matches: vec![Match {
                        text: "len".to_owned(),
                        kind: None,
                    }],
                    replaced: 3..5,
                }),
            ),
            Hear::Answer(3, Answer::Inspection(Some(data))),
            Hear::Answer(3, Answer::Inspection(None)),
        ];
        assert_eq!(sent(&hears), hears);
    }

    #[test]
    fn half_a_message_is_none() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Say::Interrupt).unwrap();
        bytes.pop();
        assert_eq!(read::<Say>(&mut bytes.as_slice()).unwrap(), None);
        assert!(read::<Say>(&mut b"{}\n".as_slice()).is_err());
    }
}

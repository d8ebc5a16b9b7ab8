//! Takes the stdout of the process of the cells apart: text that people print, events of
//! `probes::cell`, and evcxr's own lines.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Begins an event; the rest of the line is JSON. The same as in `probes::cell`.
const MARK: &str = "\u{1e}klab:";
const COMPLETE: &str = "EVCXR_EXECUTION_COMPLETE";
const PANIC: &str = "EVCXR_PANIC_NOTIFICATION";
const QUESTION_MARK: &str = "EVCXR_ERROR_OCCURRED";
const CHANGED_TYPE: &str = "EVCXR_VARIABLE_CHANGED_TYPE:";
const INPUT: &str = "EVCXR_INPUT_REQUEST";
const BEGIN_CONTENT: &str = "EVCXR_BEGIN_CONTENT ";
const END_CONTENT: &str = "EVCXR_END_CONTENT";
/// Beginning of all of evcxr's lines.
const EVCXR: &str = "EVCXR_";

/// A part of the output.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece {
    /// Printed text.
    Text(String),
    /// Said by `probes::cell`.
    Event(Event),
    /// A line that evcxr waits for; it goes on to evcxr.
    Evcxr { line: String, says: Says },
}

/// News of the cell in a line of evcxr's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Says {
    /// The cell is over.
    Complete,
    /// The cell ended by a panic.
    Panicked,
    /// The cell ended by a `?`; the error is its last text on stderr.
    QuestionMark,
    /// The cell asks its user, by evcxr's own way.
    Asks,
    /// Something else between evcxr and its child.
    Else,
}

/// An event of `probes::cell`.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The value of the cell, by mime type.
    Result { data: Map<String, Value> },
    /// Something shown while the cell runs.
    Display {
        id: String,
        update: bool,
        data: Map<String, Value>,
    },
    /// The value of the cell is an error.
    Error { evalue: String },
    /// The thread of the cells panics.
    Panic {
        message: String,
        line: u32,
        file: String,
        interrupted: bool,
    },
    /// The cell reads its stdin.
    Input {},
    /// There is a copy of the process, in case that the cell ends it.
    Copy { pid: i32 },
    /// The copy goes on: the process has died.
    Kept {},
    /// All output up to here belongs to this cell.
    End { cell: u64 },
}

/// Splits the output into pieces, as far as it has come.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    rest: Vec<u8>,
    /// A block of content that has begun: its mime type and its lines so far.
    block: Option<(String, Vec<String>)>,
    /// The blocks of the cell's value.
    content: Map<String, Value>,
}

impl Splitter {
    /// Takes the next bytes and gives the pieces that they complete. Text that may be the beginning of
    /// a mark is kept back.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Piece> {
        let mut pieces = Pieces::default();
        self.rest.extend_from_slice(bytes);
        let mut taken = 0;
        while let Some(length) = self.rest[taken..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.rest[taken..taken + length]).into_owned();
            taken += length + 1;
            self.line(&line, &mut pieces);
        }
        self.rest.drain(..taken);
        if self.block.is_none() {
            let text = self.rest.drain(..sure_text(&self.rest)).collect::<Vec<_>>();
            pieces.text(&String::from_utf8_lossy(&text));
        }
        pieces.0
    }

    fn line(&mut self, line: &str, pieces: &mut Pieces) {
        if let Some((mime, mut lines)) = self.block.take() {
            if line == END_CONTENT {
                self.content.insert(mime, Value::String(lines.join("\n")));
            } else {
                lines.push(line.to_owned());
                self.block = Some((mime, lines));
            }
        } else if let Some((text, json)) = line.split_once(MARK) {
            pieces.text(text);
            match serde_json::from_str(json) {
                Ok(event) => pieces.0.push(Piece::Event(event)),
                Err(_) => pieces.text(&format!("{line}\n")),
            }
        } else if let Some((text, mime)) = line.split_once(BEGIN_CONTENT) {
            pieces.text(text);
            self.block = Some((mime.to_owned(), Vec::new()));
        } else {
            let said = [
                (COMPLETE, Says::Complete),
                (PANIC, Says::Panicked),
                (QUESTION_MARK, Says::QuestionMark),
            ];
            if let Some((text, mark, says)) = said
                .iter()
                .find_map(|(mark, says)| Some((line.strip_suffix(mark)?, *mark, *says)))
            {
                pieces.text(text);
                if says == Says::Complete && !self.content.is_empty() {
                    let data = std::mem::take(&mut self.content);
                    // evcxr shows it of a loop that has moved a variable.
                    let is_unit = data.len() == 1 && data.get("text/plain") == Some(&"()".into());
                    if !is_unit {
                        pieces.0.push(Piece::Event(Event::Result { data }));
                    }
                }
                pieces.0.push(Piece::Evcxr {
                    line: mark.to_owned(),
                    says,
                });
            } else if let Some((at, says)) = [(CHANGED_TYPE, Says::Else), (INPUT, Says::Asks)]
                .into_iter()
                .find_map(|(mark, says)| Some((line.find(mark)?, says)))
            {
                pieces.text(&line[..at]);
                pieces.0.push(Piece::Evcxr {
                    line: line[at..].to_owned(),
                    says,
                });
            } else {
                pieces.text(&format!("{line}\n"));
            }
        }
    }
}

/// Number of bytes of an unfinished line that are text for sure: neither a mark that has begun nor half a
/// character.
fn sure_text(rest: &[u8]) -> usize {
    let begun = |mark: &[u8]| {
        let whole = rest.windows(mark.len()).position(|window| window == mark);
        whole.or_else(|| {
            let longest = rest.len().saturating_sub(mark.len() - 1);
            (longest..rest.len()).find(|at| mark.starts_with(&rest[*at..]))
        })
    };
    let end = [MARK, EVCXR]
        .into_iter()
        .filter_map(|mark| begun(mark.as_bytes()))
        .min();
    let rest = &rest[..end.unwrap_or(rest.len())];
    match std::str::from_utf8(rest) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => rest.len(),
    }
}

#[derive(Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    fn text(&mut self, text: &str) {
        match self.0.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(last)) => last.push_str(text),
            _ => self.0.push(Piece::Text(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(chunks: &[&str]) -> Vec<Piece> {
        let mut splitter = Splitter::default();
        chunks
            .iter()
            .flat_map(|chunk| splitter.push(chunk.as_bytes()))
            .collect()
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    fn evcxr(line: &str, says: Says) -> Piece {
        Piece::Evcxr {
            line: line.to_owned(),
            says,
        }
    }

    #[test]
    fn text_without_a_newline_comes_at_once() {
        assert_eq!(all(&["10 %\r"]), [text("10 %\r")]);
    }

    #[test]
    fn a_mark_glued_to_text_is_found() {
        assert_eq!(
            all(&["half a lineEVCXR_EXEC", "UTION_COMPLETE\n"]),
            [text("half a line"), evcxr(COMPLETE, Says::Complete)]
        );
    }

    #[test]
    fn text_that_begins_like_a_mark_is_text_in_the_end() {
        assert_eq!(
            all(&["an E", "VCXR", "y day\n"]),
            [text("an "), text("EVCXRy day\n")]
        );
    }

    #[test]
    fn events_keep_their_place() {
        let event = "\u{1e}klab:{\"event\":\"end\",\"cell\":3}\n";
        assert_eq!(
            all(&[&format!("a\nb{event}c\n")]),
            [
                text("a\nb"),
                Piece::Event(Event::End { cell: 3 }),
                text("c\n")
            ]
        );
    }

    #[test]
    fn blocks_of_evcxr_are_the_value_of_the_cell() {
        let pieces = all(&[
            "EVCXR_BEGIN_CONTENT text/plain\n1\n2\nEVCXR_END_CONTENT\n",
            "EVCXR_EXECUTION_COMPLETE\n",
        ]);
        let data = Map::from_iter([("text/plain".to_owned(), Value::from("1\n2"))]);
        assert_eq!(
            pieces,
            [
                Piece::Event(Event::Result { data }),
                evcxr(COMPLETE, Says::Complete)
            ]
        );
    }

    #[test]
    fn a_character_is_never_cut() {
        let mut splitter = Splitter::default();
        let bytes = "é".as_bytes();
        assert_eq!(splitter.push(&bytes[..1]), []);
        assert_eq!(splitter.push(&bytes[1..]), [text("é")]);
    }

    #[test]
    fn bytes_that_are_no_text_pass() {
        let mut splitter = Splitter::default();
        assert_eq!(splitter.push(&[0xff, b'a', b'\n']), [text("\u{fffd}a\n")]);
    }
}

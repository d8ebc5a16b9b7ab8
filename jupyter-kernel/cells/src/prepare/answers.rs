//! cargo's answers about the toolchain, which rust-analyzer asks for at each start: asked once, when the template is
//! made.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The file of the answers, in evcxr's folder.
const ANSWERS: &str = "answers.json";
/// Stands for evcxr's folder, of which each session has its own.
const FOLDER: &str = "\u{1}";
/// The words of a question about the toolchain. Questions about the user's configuration are asked anew.
const QUESTIONS: [&str; 2] = ["--print", "locate-project"];

#[derive(Clone, Serialize, Deserialize)]
struct Answer {
    question: String,
    code: u8,
    stdout: String,
    stderr: String,
}

/// Answers a question that was answered before, or asks `cargo`. `None` if it is no question about the toolchain.
pub(super) fn answer(
    cargo: &mut Command,
    words: &[OsString],
    folder: &Path,
) -> Option<Result<ExitCode>> {
    let asks = words.iter().filter_map(|word| word.to_str());
    if !asks.into_iter().any(|word| QUESTIONS.contains(&word)) {
        return None;
    }
    let path = folder.to_string_lossy();
    let question = format!("{words:?}").replace(&*path, FOLDER);
    let file = folder.join(ANSWERS);
    let known = fs::read(&file).ok();
    let mut known: Vec<Answer> = known
        .and_then(|known| serde_json::from_slice(&known).ok())
        .unwrap_or_default();
    let found = known.iter().find(|answer| answer.question == question);
    let answer = match found {
        Some(answer) => answer.clone(),
        None => {
            let output = match cargo.args(words).output() {
                Ok(output) => output,
                Err(error) => return Some(Err(error.into())),
            };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&*path, FOLDER);
            let answer = Answer {
                question,
                code: output
                    .status
                    .code()
                    .map_or(1, |code| u8::try_from(code).unwrap_or(1)),
                stdout: text(&output.stdout),
                stderr: text(&output.stderr),
            };
            // A failure may be of the moment.
            if answer.code == 0 {
                known.push(answer.clone());
                // Two may be asked at a time: the later file is the whole file.
                let new = folder.join(format!("{ANSWERS}.{}", std::process::id()));
                let kept = serde_json::to_vec(&known).map_err(anyhow::Error::from);
                let _ = kept.and_then(|kept| {
                    Ok(fs::write(&new, kept).and_then(|()| fs::rename(&new, &file))?)
                });
            }
            answer
        }
    };
    let said = std::io::stdout()
        .write_all(answer.stdout.replace(FOLDER, &path).as_bytes())
        .and_then(|()| {
            std::io::stderr().write_all(answer.stderr.replace(FOLDER, &path).as_bytes())
        });
    Some(
        said.map(|()| ExitCode::from(answer.code))
            .map_err(Into::into),
    )
}

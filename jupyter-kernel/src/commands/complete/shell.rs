//! Completions of a word of the guest's shell: its commands, and the paths of the guest, as its agent lists them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use vm::Machine;
use vm::agent::{RunSpec, Stream};

use super::{Completed, MOST};

/// Time that a reader waits. What comes later is there for the next question.
const PATIENCE: Duration = Duration::from_millis(50);
/// Time that the agent may be silent.
const SILENCE: Duration = Duration::from_secs(2);
/// Time for which a listing is taken for true.
const FRESH: Duration = Duration::from_secs(3);
/// Bytes of a listing that are taken.
const LENGTH: usize = 256 << 10;
/// Words that are followed by a command.
const BEFORE: [&str; 12] = [
    "if", "then", "else", "elif", "while", "until", "do", "!", "exec", "time", "xargs", "nohup",
];
/// Lists the commands of the guest's shell.
const COMMANDS: &str = "IFS=:; for folder in $PATH; do ls -1A \"$folder\"; done 2>/dev/null";

/// The word at the end of a shell's text.
#[derive(Debug, PartialEq, Eq)]
struct Word {
    wanted: Wanted,
    /// First byte of the part that is replaced.
    start: usize,
    /// The part itself, without quotes and backslashes.
    begun: String,
    quoted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    Command,
    /// A name in this folder.
    Path(String),
}

/// Completes the shell's text, whose end is the cursor.
pub(super) fn complete(text: &str, guest: &str) -> Completed {
    let Some(word) = word(text) else {
        return Completed::default();
    };
    let kind = match word.wanted {
        Wanted::Command => "command",
        Wanted::Path(_) => "path",
    };
    let hidden = word.begun.starts_with('.');
    let mut names = names(guest, &word.wanted);
    names.retain(|name| name.starts_with(&word.begun) && (hidden || !name.starts_with('.')));
    names.sort();
    names.dedup();
    names.truncate(MOST);
    let written = |name: String| match word.quoted {
        true => name,
        false => escaped(&name),
    };
    Completed {
        start: word.start,
        matches: names
            .into_iter()
            .map(|name| (written(name), kind.to_owned()))
            .collect(),
    }
}

/// The word at the end of the text; `None` for a variable, an option or a comment.
fn word(text: &str) -> Option<Word> {
    let (mut quote, mut start, mut first) = (None, 0, true);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        let behind = at + c.len_utf8();
        match (quote, c) {
            (None | Some('"'), '\\') => drop(chars.next()),
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '#') if start == at => {
                let end = text[at..].find('\n')?;
                return word(&text[at + end..]).map(|word| Word {
                    start: word.start + at + end,
                    ..word
                });
            }
            (None, '\n' | ';' | '|' | '&' | '(' | '`' | '{') => (start, first) = (behind, true),
            (None, '<' | '>') => (start, first) = (behind, false),
            (None, _) if c.is_whitespace() => {
                let word = &text[start..at];
                let stays = word.is_empty() || BEFORE.contains(&word) || word.contains('=');
                (start, first) = (behind, first && stays);
            }
            (None, _) => {}
        }
    }
    let word = &text[start..];
    let value = match word.rsplit_once('=') {
        Some((_, value)) => value,
        None if word.starts_with('-') => return None,
        None => word,
    };
    let open = value.starts_with(['"', '\'']);
    let value = value.strip_prefix(['"', '\'']).unwrap_or(value);
    if value.contains(['$', '"', '\'', '~']) || quote.is_some() != open {
        return None;
    }
    let (folder, begun) = match value.rfind('/') {
        Some(slash) => value.split_at(slash + 1),
        None => ("", value),
    };
    let plain = |text: &str| text.replace('\\', "");
    let wanted = match folder {
        "" if first && word == value => Wanted::Command,
        "" => Wanted::Path(".".to_owned()),
        folder => Wanted::Path(plain(folder)),
    };
    Some(Word {
        wanted,
        start: text.len() - begun.len(),
        begun: plain(begun),
        quoted: open,
    })
}

/// A name as the shell reads it without quotes.
fn escaped(name: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+:,@%=".contains(c);
    name.chars()
        .flat_map(|c| (!is_plain(c)).then_some('\\').into_iter().chain([c]))
        .collect()
}

type Listings = BTreeMap<(String, Wanted), (Instant, Vec<String>)>;

/// Listings, and whether the guest is being asked.
static KNOWN: Mutex<Listings> = Mutex::new(BTreeMap::new());
static ASKING: AtomicBool = AtomicBool::new(false);

/// The names that there are; those known before, or none, if the guest does not answer in time.
fn names(guest: &str, wanted: &Wanted) -> Vec<String> {
    let key = (guest.to_owned(), wanted.clone());
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let old = known.get(&key).cloned();
    drop(known);
    if let Some((_, names)) = old.clone().filter(|(when, _)| when.elapsed() < FRESH) {
        return names;
    }
    let (tell, told) = mpsc::channel();
    if !ASKING.swap(true, Ordering::AcqRel) {
        std::thread::spawn(move || {
            let found = ask(&key.0, &key.1);
            ASKING.store(false, Ordering::Release);
            if let Some(names) = found {
                let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
                known.retain(|_, (when, _)| when.elapsed() < FRESH);
                known.insert(key, (Instant::now(), names.clone()));
                // Nobody may wait any more.
                let _ = tell.send(names);
            }
        });
    }
    let new = told.recv_timeout(PATIENCE).ok();
    new.or(old.map(|(_, names)| names)).unwrap_or_default()
}

fn ask(guest: &str, wanted: &Wanted) -> Option<Vec<String>> {
    let mut client = Machine::attach(guest).ok()?.agent().ok()?;
    client.set_timeout(SILENCE);
    let words = match wanted {
        Wanted::Command => vec!["sh", "-c", COMMANDS],
        Wanted::Path(folder) => vec!["ls", "-1Ap", "--", folder],
    };
    let spec = RunSpec {
        argv: words.into_iter().map(str::to_owned).collect(),
        ..RunSpec::default()
    };
    let (mut text, cancel) = (Vec::new(), client.canceller());
    let run = client.run(&spec, |stream, data| {
        if stream == Stream::Stdout {
            text.extend_from_slice(data);
        }
        if text.len() > LENGTH {
            cancel.cancel();
        }
    });
    run.ok()?;
    let text = String::from_utf8_lossy(&text);
    Some(text.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_is_a_command_or_a_path() {
        let path = |folder: &str| Some(Wanted::Path(folder.to_owned()));
        for (text, wanted, begun) in [
            ("l", Some(Wanted::Command), "l"),
            ("echo x; ls /pr", path("/"), "pr"),
            ("ls | gr", Some(Wanted::Command), "gr"),
            ("A=1 if tr", Some(Wanted::Command), "tr"),
            ("cat a\nhe", Some(Wanted::Command), "he"),
            ("cat /proc/1/", path("/proc/1/"), ""),
            ("cat ", path("."), ""),
            ("/bin/l", path("/bin/"), "l"),
            ("echo 'a; b' x", path("."), "x"),
            ("echo \"/a b/c", path("/a b/"), "c"),
            (r"cat /a\ b/c\ d", path("/a b/"), "c d"),
            ("dd if=/dev/ze", path("/dev/"), "ze"),
            ("echo x >/tmp/f", path("/tmp/"), "f"),
            ("# it's\nls", Some(Wanted::Command), "ls"),
            ("ls -l", None, ""),
            ("ls $HO", None, ""),
            ("# ls /", None, ""),
            ("echo '서울/🐨", path("서울/"), "🐨"),
        ] {
            let found = word(text);
            assert_eq!(
                found.as_ref().map(|word| word.wanted.clone()),
                wanted,
                "{text}"
            );
            if let Some(word) = found {
                assert_eq!(word.begun, begun, "{text}");
                assert!(text.is_char_boundary(word.start), "{text}");
            }
        }
    }

    #[test]
    fn a_guest_that_is_not_there_has_no_names() {
        let begun = Instant::now();
        assert_eq!(complete("ls /", "no-such-guest").matches, []);
        assert!(begun.elapsed() < PATIENCE * 10);
        assert_eq!(escaped("a b$c.d"), r"a\ b\$c.d");
    }
}

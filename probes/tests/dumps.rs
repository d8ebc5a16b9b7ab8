//! Every reader on every stored dump: what it shows is what it showed when that was last accepted. No guest is needed.
//!
//! ```text
//! $ cargo test -p probes --test dumps            # all
//! $ cargo test -p probes --test dumps tasks      # one
//! $ INSTA_UPDATE=always cargo test -p probes --test dumps tasks
//! ```
//!
//! Each reader is also tried on damaged memory (`dumps/damaged.rs`): `cargo test -p probes --test dumps damaged`.
//!
//! The last one accepts what is shown now: read the difference before it is committed. `dumps/make.py` makes the dumps.

#[path = "dumps/damaged.rs"]
mod damaged;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};
use probes::readers::{READERS, Reader, Shown};
use probes::search::Needle;
use probes::{Error, Guest};
use serde_json::Value;

/// The dumps, and below a folder for each what was accepted.
const DUMPS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dumps");

/// The arguments of this program, and the tests that they name: `cargo test -- --exact A B` may name several, of which the harness
/// takes one.
fn arguments() -> (Arguments, Vec<String>) {
    let (names, options): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|word| !word.starts_with('-'));
    // A word behind an option may be its value.
    match options.iter().all(|option| option == "--exact") && names.len() > 1 {
        true => (
            Arguments::from_iter(std::iter::once("dumps".to_owned()).chain(options)),
            names,
        ),
        false => (Arguments::from_args(), Vec::new()),
    }
}

fn main() -> io::Result<ExitCode> {
    let (arguments, names) = arguments();
    let unpacked = tempfile::tempdir()?;
    let (mut trials, mut accepted) = (Vec::new(), BTreeSet::new());
    let mut kernels = Vec::new();
    for entry in fs::read_dir(DUMPS)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        kernels.extend(name.strip_suffix(".kdump.zst").map(str::to_owned));
    }
    kernels.sort();
    assert!(kernels.len() > 1, "no dumps in {DUMPS}");
    for kernel in &kernels {
        // Opened once: what is decoded of a kernel is shared by all that read it.
        let guest = open(kernel, unpacked.path())?;
        for reader in READERS.iter().filter(|reader| !reader.reads_all) {
            for sample in reader.samples {
                let (guest, folder) = (guest.clone(), kernel.clone());
                let name = file_name(reader.command, sample);
                accepted.insert(format!("{kernel}/{name}.snap"));
                trials.push(Trial::test(format!("{kernel}::{name}"), move || {
                    check(&folder, &name, &shown(&guest, reader, sample))
                }));
            }
        }
        let (wounded, memory) = damaged::Damaged::guest(&guest).map_err(io::Error::other)?;
        let turn = Arc::new(Mutex::new((wounded, memory)));
        for reader in READERS.iter().filter(|reader| !reader.reads_all) {
            for sample in reader.samples {
                let turn = Arc::clone(&turn);
                let name = file_name(reader.command, sample);
                trials.push(Trial::test(
                    format!("{kernel}::damaged::{name}"),
                    move || {
                        // One at a time: they share the memory.
                        let turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                        let faults = damaged::sweep(&turn.0, &turn.1, (reader, sample), damages());
                        match faults.is_empty() {
                            true => Ok(()),
                            false => Err(faults.join("\n").into()),
                        }
                    },
                ));
            }
        }
        let reading = guest.clone();
        trials.push(Trial::test(format!("{kernel}::first-guesses"), move || {
            first_guesses(&reading)
        }));
        let (guest, folder) = (guest.clone(), kernel.clone());
        accepted.insert(format!("{kernel}/search.snap"));
        trials.push(Trial::test(format!("{kernel}::search"), move || {
            let task = guest.symbol("init_task")?;
            let search = guest.search(Needle::pointer_into(task, 64));
            let hits = search.physical().limit(3).run()?;
            check(&folder, "search", &probes::view::View::text(&hits))
        }));
    }
    trials.push(Trial::test(
        "no_output_is_left_of_a_reader_that_has_gone",
        move || {
            let left = stored(&kernels)?;
            let left: Vec<_> = left.difference(&accepted).collect();
            if left.is_empty() {
                return Ok(());
            }
            Err(format!("no reader makes {left:?}: remove them").into())
        },
    ));
    if !names.is_empty() {
        trials.retain(|trial| names.iter().any(|name| name == trial.name()));
    }
    Ok(libtest_mimic::run(&arguments, trials).exit_code())
}

/// The dump of a kernel. A page of it that was left out is an error when it is read, not a page of zeros.
fn open(kernel: &str, folder: &Path) -> io::Result<Guest> {
    let packed = File::open(Path::new(DUMPS).join(format!("{kernel}.kdump.zst")))?;
    let mut stream = ruzstd::decoding::StreamingDecoder::new(packed).map_err(io::Error::other)?;
    let path = folder.join(kernel);
    let (mut file, mut chunk) = (File::create(&path)?, vec![0; 1 << 20]);
    loop {
        match stream.read(&mut chunk)? {
            0 => break,
            n => file.write_all(&chunk[..n])?,
        }
    }
    Guest::open_core(&path).map_err(io::Error::other)
}

/// The methods that newcomers try first.
fn first_guesses(guest: &Guest) -> Result<(), Failed> {
    let task = guest.find_task(1)?;
    let same = guest.task(1)?;
    assert_eq!(task.member("comm")?.string()?, &*same.comm);
    assert!(guest.find_task(i32::MAX).is_err());
    let banner = guest.symbol("linux_banner")?;
    let bytes = guest.read_bytes(banner, 13)?;
    assert_eq!(bytes, b"Linux version");
    assert_eq!(guest.read_u64(banner)?.to_le_bytes(), bytes[..8]);
    assert!(guest.read_bytes(banner, 0)?.is_empty());
    // Before there is memory for it.
    assert!(guest.read_bytes(banner, usize::MAX).is_err());
    assert!(guest.symbols("linux_banner").is_ok());
    Ok(())
}

/// Damages that are done to what one reader reads.
fn damages() -> usize {
    let count = std::env::var("KLAB_TEST_DAMAGES").ok();
    count.and_then(|count| count.parse().ok()).unwrap_or(3)
}

fn file_name(command: &str, sample: &[&str]) -> String {
    let words = [&[command], sample].concat().join(" ");
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
    let parts = words.split(|c| !is_part(c));
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    parts.join("-")
}

/// The text, and the names and kinds in the JSON: what programs rely on, with any numbers.
fn shown(guest: &Guest, reader: &Reader, sample: &[&str]) -> String {
    let quoted = |word: &&str| match word
        .contains(|c: char| !c.is_ascii_alphanumeric() && !"-_./,".contains(c))
    {
        true => format!("'{word}'"),
        false => (*word).to_owned(),
    };
    let words: Vec<String> = [&reader.command]
        .into_iter()
        .chain(sample)
        .map(quoted)
        .collect();
    let command = words.join(" ");
    let read = reader
        .words(sample)
        .and_then(|words| reader.read(guest, &words));
    let parsed = |value: &dyn Shown| {
        let json = serde_json::from_str::<Value>(&value.json()?);
        json.map_err(|fault| Error::Invalid(fault.to_string()))
    };
    match read.and_then(|value| Ok((parsed(&*value)?, value))) {
        Ok((json, value)) => {
            // The other faces are made as well: none may fail.
            let _ = (value.html(), value.svg());
            let (text, mut shape) = (value.text(), BTreeSet::new());
            shape_of(&json, "", &mut shape);
            let shape: Vec<String> = shape.into_iter().collect();
            format!(
                "$ klab {command}\n{}\n\n--json\n{}\n",
                text.trim_end(),
                shape.join("\n")
            )
        }
        Err(error) => format!(
            "$ klab {command}\nklab: {error}\n({})\n",
            error.kind().name()
        ),
    }
}

fn shape_of(value: &Value, at: &str, lines: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Object(members) => {
            for (name, inner) in members {
                shape_of(inner, &format!("{at}.{name}"), lines);
            }
            return;
        }
        Value::Array(elements) if !elements.is_empty() => {
            for inner in elements {
                shape_of(inner, &format!("{at}[]"), lines);
            }
            return;
        }
        Value::Array(_) => {
            lines.insert(format!("{at}[]"));
            return;
        }
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
    };
    lines.insert(format!("{at}: {kind}"));
}

fn check(kernel: &str, name: &str, text: &str) -> Result<(), Failed> {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(DUMPS).join(kernel));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
    Ok(())
}

/// The outputs that were accepted, as `KERNEL/NAME.snap`.
fn stored(kernels: &[String]) -> io::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for kernel in kernels {
        for entry in fs::read_dir(PathBuf::from(DUMPS).join(kernel))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".snap") {
                all.insert(format!("{kernel}/{name}"));
            }
        }
    }
    Ok(all)
}

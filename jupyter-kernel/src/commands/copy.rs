//! `klab cp`: a file of the host into a guest, or one of the guest's out of it.
//!
//! The guest's side is read and written by commands of the guest, each a process that may wait, or be ended, without the
//! agent: a path there may be a device or a FIFO as well as a path here.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use probes::cell::check_interrupt;
use serde_json::json;
use vm::UserFile;
use vm::agent::{Client, RunSpec, Stream};

use super::cli::Cp;
use super::machine::attach;
use super::output::{Context, Output};

/// Prints the kind of the file at a path of the guest, its permissions, and its path with links followed, a line each.
const LOOK: &str = r#"
path=$1
[ -L "$path" ] && path=$(readlink -f "$path"; echo x) && path=${path%?x}
if [ -d "$path" ]; then echo folder; elif [ -f "$path" ]; then echo file; elif [ -e "$path" ]; then echo other; else echo none; fi
stat -L -c %a "$path" 2>/dev/null || echo 0
printf %s "$path""#;
/// Permissions of a new file where the source says nothing.
const PLAIN: u32 = 0o644;

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Host(&'a str),
    Guest(&'a str, &'a str),
}

impl<'a> Place<'a> {
    /// `GUEST:PATH`; a file here whose name has a `:` is written `./A:B`.
    fn of(text: &'a str) -> Self {
        match text.split_once(':') {
            Some((guest, path)) if !guest.is_empty() && !guest.contains('/') => {
                Self::Guest(guest, path)
            }
            _ => Self::Host(text),
        }
    }
}

/// Copies.
pub(crate) fn run(cp: &Cp, cx: &mut Context<'_>) -> Result<Output> {
    let (from, to, bytes) = match (Place::of(&cp.from), Place::of(&cp.to)) {
        (Place::Host(from), Place::Guest(guest, to)) => {
            let mut client = attach(Some(guest), cx)?.agent()?;
            let (to, bytes) = push(&mut client, from, guest, absolute(to)?)?;
            (from.to_owned(), format!("{guest}:{to}"), bytes)
        }
        (Place::Guest(guest, from), Place::Host(to)) => {
            let mut client = attach(Some(guest), cx)?.agent()?;
            let (to, bytes) = pull(&mut client, guest, absolute(from)?, to)?;
            (cp.from.clone(), to, bytes)
        }
        (Place::Host(_), Place::Host(_)) => {
            bail!("`klab cp` copies into a guest or out of one: write one of the two as GUEST:PATH")
        }
        (Place::Guest(..), Place::Guest(..)) => {
            bail!(
                "`klab cp` copies between this machine and a guest, not between guests: copy to a file here first"
            )
        }
    };
    let value = json!({ "from": from, "to": to, "bytes": bytes });
    // The file itself may be on the standard output.
    let text = if to == "-" {
        String::new()
    } else {
        format!("{from} -> {to} ({bytes} bytes)\n")
    };
    Output::new(text, &value)
}

fn absolute(path: &str) -> Result<&str> {
    if path.starts_with('/') {
        return Ok(path);
    }
    bail!("`{path}` is no path in a guest: write it from the root on, as in GUEST:/root/file")
}

/// File, folder or nothing at a path of the guest.
struct There {
    kind: String,
    mode: u32,
    path: String,
}

fn look(client: &mut Client, path: &str) -> Result<There> {
    let said = client.output(&["sh", "-c", LOOK, "sh", path])?;
    let text = String::from_utf8(said.stdout).unwrap_or_default();
    let mut parts = text.splitn(3, '\n');
    let mut next = || parts.next().map(str::to_owned);
    let (Some(kind), Some(mode), Some(path)) = (next(), next(), next()) else {
        let why = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        bail!("the guest does not say what is at `{path}`: {why}");
    };
    let mode = u32::from_str_radix(&mode, 8).unwrap_or(0);
    Ok(There { kind, mode, path })
}

/// Copies into the guest; gives the path there, and the size in bytes.
fn push(client: &mut Client, from: &str, guest: &str, to: &str) -> Result<(String, u64)> {
    let (source, mode) = open(from, guest, to)?;
    let mut there = look(client, to)?;
    if there.kind == "folder" {
        let name = Path::new(from).file_name().filter(|_| from != "-");
        let Some(name) = name.and_then(|name| name.to_str()) else {
            bail!("{guest}:{to} is a folder: name the file in it")
        };
        there = look(
            client,
            &format!("{}/{name}", there.path.trim_end_matches('/')),
        )?;
        if there.kind == "folder" {
            bail!(
                "{guest}:{} is a folder: `klab run {guest} -- rm -r` removes it",
                there.path
            );
        }
    }
    let of_the_kernel = ["/proc/", "/sys/"]
        .iter()
        .any(|root| there.path.starts_with(root));
    if there.kind == "other" || of_the_kernel {
        return Ok((there.path.clone(), write_into(client, source, &there.path)?));
    }
    let mut counted = Counted {
        from: source,
        bytes: 0,
    };
    client.push(&there.path, mode, &mut counted)?;
    Ok((there.path, counted.bytes))
}

/// The host's file, and the permissions that it is to have in the guest.
fn open(from: &str, guest: &str, to: &str) -> Result<(File, u32)> {
    if from == "-" {
        let own = std::io::stdin().as_fd().try_clone_to_owned();
        return Ok((own.context("there is no standard input")?.into(), PLAIN));
    }
    let cannot = || format!("cannot read {from}");
    let file = File::open(from).with_context(cannot)?;
    let meta = file.metadata().with_context(cannot)?;
    if meta.is_dir() {
        bail!(
            "{from} is a folder, and `klab cp` copies files: `tar -C {from} -c . | klab run {guest} -- tar -C {to} -x` copies \
             what is in it"
        );
    }
    let mode = if meta.is_file() {
        meta.permissions().mode() & 0o7777
    } else {
        PLAIN
    };
    Ok((file, mode))
}

/// Writes into something that is no regular file, as it is.
fn write_into(client: &mut Client, source: File, path: &str) -> Result<u64> {
    let spec = spec(&["sh", "-c", "exec cat > \"$1\"", "sh", path]);
    let (reader, mut writer) = std::io::pipe().context("cannot make a pipe")?;
    std::thread::scope(|scope| {
        let copy = scope.spawn(move || {
            let mut source = source;
            // Ends early if the guest reads no more.
            std::io::copy(&mut source, &mut writer)
        });
        let ran = client.output_from(&spec, Some(reader.as_fd()));
        drop(reader);
        let ran = ran?;
        if !ran.status.success() {
            bail!(
                "the guest did not write it: {}",
                String::from_utf8_lossy(&ran.stderr).trim()
            );
        }
        match copy.join() {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(error).context("cannot read what is to be copied"),
            Err(_) => bail!("reading what is to be copied failed"),
        }
    })
}

fn spec(argv: &[&str]) -> RunSpec {
    RunSpec {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        ..RunSpec::default()
    }
}

/// Copies out of the guest; gives the path here, and the size in bytes.
fn pull(client: &mut Client, guest: &str, from: &str, to: &str) -> Result<(String, u64)> {
    let there = look(client, from)?;
    match there.kind.as_str() {
        "none" => bail!("there is no {guest}:{from}"),
        "folder" => bail!(
            "{guest}:{from} is a folder, and `klab cp` copies files: `klab run {guest} -- tar -C {from} -c . | tar -C {to} -x` \
             copies what is in it"
        ),
        _ => {}
    }
    if to == "-" {
        let mut out = std::io::stdout().lock();
        let bytes = stream(client, &there.path, &mut out)?;
        out.flush().context("cannot write the standard output")?;
        return Ok((to.to_owned(), bytes));
    }
    let mut path = PathBuf::from(to);
    if path.is_dir() {
        path.push(Path::new(from).file_name().unwrap_or_default());
    }
    // The rights of others to the file are decided here: neither who may write it nor as whom it runs.
    let mode = match there.kind.as_str() {
        "file" => there.mode & 0o755,
        _ => PLAIN,
    };
    let file = UserFile::stream(&path, &check_interrupt)?;
    let bytes = stream(client, &there.path, &mut &file)
        .with_context(|| format!("{guest}:{from} is not copied to {}", path.display()))?;
    if file.is_plain() {
        let set = file.file().set_permissions(Permissions::from_mode(mode));
        set.map_err(|error| file.fault(error))?;
    }
    file.place()?;
    Ok((path.display().to_string(), bytes))
}

/// Writes the content of the guest's file.
fn stream(client: &mut Client, path: &str, to: &mut dyn Write) -> Result<u64> {
    let cancel = client.canceller();
    let (mut bytes, mut failed, mut said) = (0, None, Vec::new());
    let exit = client.run(&spec(&["cat", path]), |stream, data| match stream {
        Stream::Stdout if failed.is_some() => {}
        Stream::Stdout => match to.write_all(data) {
            Ok(()) => bytes += data.len() as u64,
            Err(error) => {
                failed = Some(error);
                cancel.cancel();
            }
        },
        Stream::Stderr => said.extend_from_slice(data),
    })?;
    if let Some(error) = failed {
        return Err(error).context("cannot write it");
    }
    if !exit.success() {
        bail!(
            "the guest did not read it: {}",
            String::from_utf8_lossy(&said).trim()
        );
    }
    Ok(bytes)
}

struct Counted {
    from: File,
    bytes: u64,
}

impl Read for &mut Counted {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_end_names_a_guest() {
        assert_eq!(
            Place::of("default:/tmp/a:b"),
            Place::Guest("default", "/tmp/a:b")
        );
        assert_eq!(Place::of("./a:b"), Place::Host("./a:b"));
        assert_eq!(Place::of("/tmp/a:b"), Place::Host("/tmp/a:b"));
        assert_eq!(Place::of(":/x"), Place::Host(":/x"));
        assert_eq!(Place::of("-"), Place::Host("-"));
    }
}

//! The text of a frame: its function's instructions, one a line, as they are in memory. The kernel has no source text.

use anyhow::{Context as _, Result};
use probes::guest::Guest;
use probes::memory::GuestVirt;
use probes::text::Disassembly;

/// Beginning and end of the path of such a text; between them are the address of the function, and its name.
const PREFIX: &str = "/klab/text/";
const SUFFIX: &str = ".s";

/// The functions that were looked at since the guest stopped, with their paths.
#[derive(Debug, Default)]
pub(super) struct Sources(Vec<(String, Disassembly)>);

impl Sources {
    /// Path of the text of the function around an address, and the line there.
    pub(super) fn find(&mut self, guest: &Guest, at: GuestVirt) -> Result<(String, usize)> {
        let has = |text: &Disassembly| text.instructions.iter().position(|one| one.at == at);
        let known = self
            .0
            .iter()
            .find_map(|(path, text)| Some((path.clone(), has(text)? + 1)));
        if let Some(known) = known {
            return Ok(known);
        }
        let text = guest.disassembly(at)?;
        let path = format!("{PREFIX}{:x}/{}{SUFFIX}", text.start.0, text.function);
        let line = has(&text).map_or(1, |line| line + 1);
        self.0.push((path.clone(), text));
        Ok((path, line))
    }

    /// The text of a path.
    pub(super) fn text(&mut self, guest: &Guest, path: &str) -> Result<String> {
        let text = self.of(guest, path)?;
        let lines = text.instructions.iter().map(|one| {
            let patched = one.patched.as_ref().map(|what| format!("    # {what}"));
            let patched = patched.unwrap_or_default();
            format!("{} +{:#06x}  {}{patched}", one.at, one.offset, one.text)
        });
        Ok(lines.collect::<Vec<_>>().join("\n") + "\n")
    }

    /// Address of the instruction in a line of a path.
    pub(super) fn at(&mut self, guest: &Guest, path: &str, line: usize) -> Result<GuestVirt> {
        let text = self.of(guest, path)?;
        let one = line
            .checked_sub(1)
            .and_then(|line| text.instructions.get(line));
        Ok(one.context("there is no such line")?.at)
    }

    fn of(&mut self, guest: &Guest, path: &str) -> Result<&Disassembly> {
        let known = self.0.iter().position(|(known, _)| known == path);
        let known = match known {
            Some(known) => known,
            None => {
                let start = start_of(path).with_context(|| format!("`{path}` is no function's"))?;
                self.0.push((path.to_owned(), guest.disassembly(start)?));
                self.0.len() - 1
            }
        };
        Ok(&self.0[known].1)
    }
}

/// Tells whether a path is that of a function's text.
pub(super) fn is_source(path: &str) -> bool {
    start_of(path).is_some()
}

fn start_of(path: &str) -> Option<GuestVirt> {
    let (start, _) = path.strip_prefix(PREFIX)?.split_once('/')?;
    u64::from_str_radix(start, 16).ok().map(GuestVirt)
}

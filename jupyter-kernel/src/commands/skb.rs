//! `klab skb`: the paths of packets while a command runs, which of them, and the cell that does the same.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use probes::cell::check_interrupt;
use probes::guest::Guest;
use probes::skb::{Filter, Profile};
use vm::UserFile;

use super::output::{Context, INTERRUPTED, Output};
use super::record;
use super::source::Source;

/// What to record, and while what runs.
#[derive(Debug, Args)]
pub(crate) struct Skb {
    /// The functions to hook: `path`, `all`, or names with commas between them
    #[arg(long, value_name = "path|all|NAMES", default_value = "path")]
    profile: String,
    #[command(flatten)]
    filter: PacketFilter,
    /// Only packets whose description has this in it: `10.1.0.2`, `UDP`, `echo request`
    #[arg(long, value_name = "TEXT")]
    about: Option<String>,
    /// Show messages of netlink and unix sockets, too, which never leave the machine
    #[arg(long)]
    all_families: bool,
    /// Write the packets at each station into a file for Wireshark, too
    #[arg(long, value_name = "FILE")]
    pcapng: Option<PathBuf>,
    #[command(flatten)]
    pub(super) source: Source,
    /// The command and its arguments
    #[arg(required = true, allow_hyphen_values = true, trailing_var_arg = true)]
    command: Vec<String>,
}

/// Which packets a capture is about.
#[derive(Debug, Clone, Args)]
struct PacketFilter {
    /// Record only packets of a pcap-filter expression: `tcp port 80 and not host 10.0.0.7`
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// .. that pass a network device of this name
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// .. in this network namespace: that of a task, or as `ip netns` calls it, or by its inode number
    #[arg(long, value_name = "PID|NAME|INODE")]
    netns: Option<String>,
    /// .. with this mark, of which the bits of the mask count
    #[arg(long, value_name = "MARK[/MASK]", value_parser = mark)]
    mark: Option<(u32, u32)>,
}

/// `1`, `0x10/0xff`.
fn mark(text: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| {
        let number = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.map_err(|_| "write a mark as 1, 0x10 or 0x10/0xff".to_owned())
    };
    match text.split_once('/') {
        Some((mark, mask)) => Ok((number(mark)?, number(mask)?)),
        None => Ok((number(text)?, u32::MAX)),
    }
}

/// Records, shows the paths, and writes them for Wireshark.
pub(super) fn run(what: &Skb, guest: &Guest, cx: &mut Context<'_>) -> Result<Output> {
    // Before the recording: whether it can be written is not to be found out afterwards.
    let open = |path| UserFile::stream(path, &check_interrupt);
    let file = what.pcapng.as_deref().map(open);
    let file = file.transpose()?;
    let Ok(profile) = what.profile.parse::<Profile>();
    let mut options = profile.only(packets(&what.filter)?);
    options.all_families = what.all_families;
    let (mut paths, interrupted) = record::run(guest, options, &what.command, cx)?;
    if let Some(text) = &what.about {
        paths = paths.about(text);
    }
    if let Some(file) = file {
        let written = (&file).write_all(&paths.pcapng());
        written.map_err(|error| file.fault(error))?;
        file.place()?;
    }
    let mut output = Output::of(&paths)?;
    if interrupted {
        output.code = INTERRUPTED;
    }
    Ok(output)
}

/// The packets that a capture is about.
fn packets(wanted: &PacketFilter) -> Result<Filter> {
    let mut filter = match &wanted.filter {
        Some(expression) => Filter::new(expression)?,
        None => Filter::default(),
    };
    if let Some(name) = &wanted.interface {
        filter = filter.interface(name);
    }
    if let Some(netns) = &wanted.netns {
        filter = filter.netns(netns.as_str());
    }
    if let Some((mark, mask)) = wanted.mark {
        filter = filter.mark(mark, mask);
    }
    Ok(filter)
}

/// The cell.
pub(super) fn code(what: &Skb, guest: &str) -> String {
    let profile = match what.profile.as_str() {
        "path" => "Profile::Path".to_owned(),
        "all" => "Profile::All".to_owned(),
        list => {
            let names = list.split(',');
            let names = names.map(|name| format!("{:?}.to_owned()", name.trim()));
            let names: Vec<String> = names.collect();
            format!("Profile::List(vec![{}])", names.join(", "))
        }
    };
    let about = match &what.about {
        Some(text) => format!(".about({text:?})"),
        None => String::new(),
    };
    let only = match (what.all_families, only(&what.filter)) {
        (false, only) => only,
        (true, only) if only.is_empty() => ".only(Filter::default()).all_families()".to_owned(),
        (true, only) => format!("{only}.all_families()"),
    };
    let command = &what.command;
    format!(
        "{guest}.paths({profile}{only}, |guest| {{ guest.agent()?.output(&{command:?})?; Ok(()) }})?{about}"
    )
}

/// A capture's filter, if it has one.
fn only(filter: &PacketFilter) -> String {
    let mut parts = Vec::new();
    parts.extend(
        filter
            .interface
            .iter()
            .map(|name| format!(".interface({name:?})")),
    );
    parts.extend(
        filter
            .netns
            .iter()
            .map(|netns| format!(".netns({netns:?})")),
    );
    parts.extend(
        filter
            .mark
            .map(|(mark, mask)| format!(".mark({mark:#x}, {mask:#x})")),
    );
    match &filter.filter {
        Some(expression) => format!(".only(Filter::new({expression:?})?{})", parts.concat()),
        None if parts.is_empty() => String::new(),
        None => format!(".only(Filter::default(){})", parts.concat()),
    }
}

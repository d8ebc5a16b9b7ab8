//! The Rust cell that does what a command does: what `--code` prints. Every cell compiles and runs as it is.

use super::cli::{Look, PacketFilter, Source};
use super::look::{address, container};
use super::read::Argument as _;
use super::search;

/// The cell. Its last line is the value that the command shows.
pub(crate) fn cell(command: &Look) -> anyhow::Result<String> {
    let guest = match command.source() {
        Source {
            core: Some(file),
            kernel_at: Some(at),
            ..
        } => format!("Guest::open_core_kernel({file:?}, GuestPhys({:#x}))?", at.0),
        Source {
            core: Some(file), ..
        } => format!("Guest::open_core({file:?})?"),
        Source {
            guest,
            kernel_at: Some(at),
            ..
        } => {
            let name = guest.clone().unwrap_or_else(super::default_guest);
            format!("Guest::attach_kernel({name:?}, GuestPhys({:#x}))?", at.0)
        }
        Source {
            guest: Some(name), ..
        } => format!("Guest::attach({name:?})?"),
        _ => "guest".to_owned(),
    };
    let value = match command {
        Look::Read(read) => read.code(&guest),
        Look::Stack { pid: None, .. } => format!("{guest}.stack_traces()?"),
        Look::Stack { pid: Some(pid), .. } => format!("{guest}.stack_trace({pid})?"),
        Look::Vtop { address, pid, .. } => {
            let at = address.literal(&guest);
            match pid {
                Some(pid) => format!("{guest}.page_walk_of({pid}, {at})?"),
                None => format!("{guest}.page_walk({at})?"),
            }
        }
        Look::What { address, pid, .. } => {
            let at = address.literal(&guest);
            match pid {
                Some(pid) => format!("{guest}.what_of({pid}, {at})?"),
                None => format!("{guest}.what({at})?"),
            }
        }
        Look::Search(what) => search::code(what, &guest)?,
        Look::Slab { cache: None, .. } => format!("{guest}.slab_caches()?"),
        Look::Slab {
            cache: Some(cache), ..
        } => format!("{guest}.slab_objects({cache:?})?"),
        Look::Sym { what, .. } => match address(what) {
            Some(at) => format!("{guest}.kernel()?.symbol_at(GuestVirt({:#x}))?", at.0),
            None => format!("{guest}.symbols({what:?})?"),
        },
        Look::Struct { ty, .. } => format!("{guest}.type_of({:?})?", ty.join(" ")),
        Look::P { expression, .. } => format!("{guest}.eval({:?})?", expression.join(" ")),
        Look::List {
            expression,
            of,
            show,
            ..
        } => {
            let (container, member) = container(of.as_deref())?;
            let label = match show.as_slice() {
                [] => "|_| Ok(String::new())".to_owned(),
                members => format!("|entry| {}", label(members)),
            };
            let expression = expression.join(" ");
            format!("{guest}.eval({expression:?})?.ring({container:?}, {member:?}, {label})?")
        }
        Look::Skb {
            profile,
            filter,
            about,
            all_families,
            command,
            ..
        } => {
            let profile = match profile.as_str() {
                "path" => "Profile::Path".to_owned(),
                "all" => "Profile::All".to_owned(),
                list => {
                    let names: Vec<String> = list
                        .split(',')
                        .map(|name| format!("{:?}.to_owned()", name.trim()))
                        .collect();
                    format!("Profile::List(vec![{}])", names.join(", "))
                }
            };
            let about = match about {
                Some(text) => format!(".about({text:?})"),
                None => String::new(),
            };
            let only = match (all_families, only(filter)) {
                (false, only) => only,
                (true, only) if only.is_empty() => {
                    ".only(Filter::default()).all_families()".to_owned()
                }
                (true, only) => format!("{only}.all_families()"),
            };
            format!(
                "{guest}.paths({profile}{only}, |guest| {{ guest.agent()?.output(&{command:?})?; Ok(()) }})?{about}"
            )
        }
    };
    Ok(format!("{value}\n"))
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

/// `entry`'s members as text, a space between.
fn label(members: &[String]) -> String {
    let values: Vec<String> = members
        .iter()
        .map(|name| format!("entry.member({name:?})?.to_value()?"))
        .collect();
    format!(
        "Ok(format!({:?}, {}))",
        vec!["{}"; members.len()].join(" "),
        values.join(", ")
    )
}

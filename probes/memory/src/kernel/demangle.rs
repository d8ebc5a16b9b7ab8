//! Names of Rust functions as people write them, by `rustc-demangle`: `<gcblock::GcShared>::wait_for_value` of
//! `_RNvMs_NtC..7gcblock8GcShared14wait_for_value`.

/// A symbol's name for people: of a Rust symbol its path, without the hashes of its crates; `None` of all others.
#[must_use]
pub fn demangled(symbol: &str) -> Option<String> {
    if !is_mangled(symbol.as_bytes()) {
        return None;
    }
    let name = rustc_demangle::try_demangle(symbol).ok()?;
    let text = format!("{name:#}");
    // A demangled name may be as long as it likes; a name is one line that can be read.
    (!text.is_empty() && text.len() <= MOST).then_some(text)
}

/// Bytes of the longest name that is shown demangled.
const MOST: usize = 1024;

/// A symbol's name as it is shown: demangled where it is of Rust.
#[must_use]
pub fn shown(symbol: &str) -> std::borrow::Cow<'_, str> {
    demangled(symbol).map_or(symbol.into(), Into::into)
}

/// A place in code or data as the kernel prints it in a call trace: `vfs_read+0x25d`, `group_show [tun]`. The one text
/// that all views have of it, and that [`Kernel::resolve`](super::Kernel::resolve) reads.
#[must_use]
pub fn place(symbol: &str, offset: u64, module: Option<&str>) -> String {
    let mut text = shown(symbol).into_owned();
    if offset > 0 {
        text += &format!("+{offset:#x}");
    }
    if let Some(module) = module {
        text += &format!(" [{module}]");
    }
    text
}

/// A text, such as a call trace in the log, with the names of Rust functions in it demangled.
#[must_use]
pub fn readable(text: &str) -> std::borrow::Cow<'_, str> {
    if !text.contains("_R") && !text.contains("_ZN") {
        return text.into();
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_.$".contains(c);
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(is_name) {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        out.push_str(&shown(&rest[..end]));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out.into()
}

/// Tells whether it begins as the names of Rust symbols do.
pub(super) fn is_mangled(symbol: &[u8]) -> bool {
    symbol.starts_with(b"_R") || symbol.starts_with(b"_ZN") || symbol.starts_with(b"__pfx__R")
}

/// Tells whether people may mean a symbol by this: its path as it is shown, with or without angle brackets, without its
/// generic arguments, or the end of it from any `::` on.
pub(super) fn is_meant(symbol: &str, wanted: &str) -> bool {
    let Some(name) = demangled(symbol) else {
        return false;
    };
    let spellings = [name.clone(), plain(&name), bare(&name)];
    let wanted = [wanted.to_owned(), plain(wanted)];
    let ends = |name: &str, wanted: &str| {
        !wanted.is_empty()
            && name
                .strip_suffix(wanted)
                .is_some_and(|before| before.is_empty() || before.ends_with("::"))
    };
    spellings
        .iter()
        .any(|name| wanted.iter().any(|wanted| ends(name, wanted)))
}

/// Without angle brackets, and without the `::` before arguments.
fn plain(name: &str) -> String {
    name.replace("::<", "").replace(['<', '>'], "")
}

/// Without generic arguments: `kernel::miscdevice::MiscdeviceVTable::read_iter`. The brackets round a type that begins
/// the path are no arguments, and what follows ` as ` in them is the trait.
fn bare(name: &str) -> String {
    let mut out = String::new();
    let mut depth = 0_u32;
    let mut before = None;
    for c in name.chars() {
        match c {
            // After a name or `::` it opens arguments.
            '<' if depth > 0
                || before.is_some_and(|b: char| b.is_alphanumeric() || b == '_' || b == ':') =>
            {
                depth += 1;
            }
            '>' if before == Some('-') && depth == 0 => out.push(c),
            '>' if before == Some('-') => {}
            '>' if depth > 0 => depth -= 1,
            '<' | '>' => {}
            c if depth == 0 => out.push(c),
            _ => {}
        }
        before = Some(c);
    }
    out.replace("::::", "::").trim_end_matches("::").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ_ITER: &str = "_RNvMs2_NtCsb5MLIFMWygY_6kernel10miscdeviceINtB5_16MiscdeviceVTableNtCsidBNNlSAJAZ_7gcblock6OpenedE9read_iterB14_";
    const UNWRAP: &str = "_RNvNtCs1234_4core6option13unwrap_failed";

    #[test]
    fn rust_names_are_paths() {
        assert_eq!(
            demangled(READ_ITER).unwrap(),
            "<kernel::miscdevice::MiscdeviceVTable<gcblock::Opened>>::read_iter"
        );
        assert_eq!(demangled("vfs_read"), None);
        assert_eq!(demangled("_Rubbish"), None);
        assert_eq!(shown("_ZN"), "_ZN");
        assert_eq!(shown(UNWRAP), "core::option::unwrap_failed");
    }

    #[test]
    fn a_call_trace_is_readable() {
        let line = format!("RIP: 0010:{UNWRAP}+0x12/0x20 [gc]");
        assert_eq!(
            readable(&line),
            "RIP: 0010:core::option::unwrap_failed+0x12/0x20 [gc]"
        );
        assert_eq!(readable("no _Rust here"), "no _Rust here");
    }

    #[test]
    fn people_mean_them_by_their_paths() {
        for wanted in [
            "core::option::unwrap_failed",
            "option::unwrap_failed",
            "unwrap_failed",
        ] {
            assert!(is_meant(UNWRAP, wanted), "{wanted}");
        }
        for wanted in [
            "<kernel::miscdevice::MiscdeviceVTable<gcblock::Opened>>::read_iter",
            "kernel::miscdevice::MiscdeviceVTable::read_iter",
            "kernel::miscdevice::MiscdeviceVTable::<gcblock::Opened>::read_iter",
            "MiscdeviceVTable::read_iter",
            "read_iter",
        ] {
            assert!(is_meant(READ_ITER, wanted), "{wanted}");
        }
        assert!(!is_meant(READ_ITER, "iter"));
        assert!(!is_meant(UNWRAP, ""));
        assert!(!is_meant("vfs_read", "vfs_read"));
    }
}

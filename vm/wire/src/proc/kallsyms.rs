/// A line of `/proc/kallsyms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// Its address.
    pub address: u64,
    /// `T`, `t`, `D`, .. as nm has them.
    pub kind: char,
    /// Its name.
    pub name: String,
    /// The module it is of; none for the kernel itself.
    pub module: Option<String>,
}

/// The symbols of `/proc/kallsyms`, in its order; lines that are no symbol are left out.
pub fn parse_kallsyms(text: &[u8]) -> Vec<Symbol> {
    text.split(|&b| b == b'\n')
        .filter_map(|line| symbol(std::str::from_utf8(line).ok()?))
        .collect()
}

fn symbol(line: &str) -> Option<Symbol> {
    let (address, rest) = line.split_once(' ')?;
    let (kind, rest) = rest.split_once(' ')?;
    let (name, module) = match rest.split_once('\t') {
        Some((name, module)) => (
            name,
            module.strip_prefix('[').and_then(|m| m.strip_suffix(']')),
        ),
        None => (rest, None),
    };
    Some(Symbol {
        address: u64::from_str_radix(address, 16).ok()?,
        kind: kind.chars().next()?,
        name: name.to_owned(),
        module: module.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_each() {
        let symbols = parse_kallsyms(
            b"ffffffff81000000 T _text\nffffffffc0001000 t init_one\t[virtio_net]\n\ngarbage",
        );
        assert_eq!(symbols.len(), 2);
        assert_eq!(
            (
                symbols[0].address,
                symbols[0].kind,
                symbols[0].name.as_str()
            ),
            (0xffff_ffff_8100_0000, 'T', "_text")
        );
        assert_eq!(symbols[1].module.as_deref(), Some("virtio_net"));
    }
}

/// A line of `/proc/modules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Bytes of memory.
    pub size: u64,
    /// Its reference count; none when the kernel cannot unload modules.
    pub refcount: Option<i64>,
    /// Modules that use it.
    pub used_by: Vec<String>,
    /// `Live`, `Loading` or `Unloading`.
    pub state: String,
    /// Address of its core section.
    pub address: u64,
}

/// The lines of `/proc/modules`, in its order.
pub fn parse_modules(text: &[u8]) -> Vec<Module> {
    String::from_utf8_lossy(text)
        .lines()
        .filter_map(line)
        .collect()
}

fn line(line: &str) -> Option<Module> {
    let mut words = line.split_whitespace();
    Some(Module {
        name: words.next()?.to_owned(),
        size: words.next()?.parse().ok()?,
        refcount: words.next()?.parse().ok(),
        used_by: words
            .next()?
            .split(',')
            .filter(|u| !u.is_empty() && *u != "-")
            .map(str::to_owned)
            .collect(),
        state: words.next()?.to_owned(),
        address: u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_address() {
        let text = b"nf_conntrack 180224 2 nf_nat,nft_ct, Live 0xffffffffc03a2000\nveth 40960 0 - Live 0xffffffffc0391000 (E)\n";
        let modules = parse_modules(text);
        assert_eq!(modules[0].used_by, ["nf_nat", "nft_ct"]);
        assert_eq!(
            (modules[0].address, modules[0].refcount),
            (0xffff_ffff_c03a_2000, Some(2))
        );
        assert!(modules[1].used_by.is_empty());
    }
}

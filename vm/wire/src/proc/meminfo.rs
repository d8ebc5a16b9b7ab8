/// A line of `/proc/meminfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mem {
    /// `MemTotal`, ..
    pub name: String,
    /// Bytes; a plain number for the lines that have no unit (`HugePages_Total`).
    pub value: u64,
}

/// The lines of `/proc/meminfo`, in its order.
pub fn parse_meminfo(text: &[u8]) -> Vec<Mem> {
    String::from_utf8_lossy(text)
        .lines()
        .filter_map(line)
        .collect()
}

fn line(line: &str) -> Option<Mem> {
    let (name, rest) = line.split_once(':')?;
    let mut words = rest.split_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    let value = if words.next() == Some("kB") {
        number.checked_mul(1024)?
    } else {
        number
    };
    Some(Mem {
        name: name.to_owned(),
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_a_unit_and_without() {
        let lines = parse_meminfo(b"MemTotal:         482532 kB\nHugePages_Total:       3\njunk\n");
        assert_eq!(
            lines[0],
            Mem {
                name: "MemTotal".to_owned(),
                value: 482_532 * 1024
            }
        );
        assert_eq!((lines[1].value, lines.len()), (3, 2));
    }
}

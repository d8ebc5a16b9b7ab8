use serde::{Deserialize, Serialize};

/// A record of `/dev/kmsg` (`Documentation/ABI/testing/dev-kmsg`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsgRecord {
    /// `LOG_EMERG` 0 to `LOG_DEBUG` 7.
    pub level: u8,
    /// 0 for the kernel itself.
    pub facility: u32,
    /// Its number since boot.
    pub seq: u64,
    /// Microseconds since boot.
    pub time_us: u64,
    /// `c` for a piece that more may follow, `+` for such a piece, else `-`.
    pub cont: char,
    /// The text, as the kernel escapes it (`\x0a`).
    pub text: String,
    /// `KEY=value` of the device and the subsystem.
    pub dict: Vec<(String, String)>,
}

/// The record in one read of `/dev/kmsg`; none if it is no record.
pub fn parse_kmsg(record: &[u8]) -> Option<KmsgRecord> {
    let record = String::from_utf8_lossy(record);
    let (head, body) = record.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let seq = fields.next()?.parse().ok()?;
    let time_us = fields.next()?.parse().ok()?;
    let cont = fields.next()?.chars().next()?;
    let mut lines = body.split('\n');
    let text = lines.next()?.to_owned();
    let dict = lines
        .filter_map(|l| l.strip_prefix(' ')?.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
    Some(KmsgRecord {
        level: (priority & 7) as u8,
        facility: priority >> 3,
        seq,
        time_us,
        cont,
        text,
        dict: dict.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_dictionary() {
        let record = parse_kmsg(b"6,339,5140900,-;NET: Registered, protocol; family 10\n SUBSYSTEM=pci\n DEVICE=+pci:0000:00\n").unwrap();
        assert_eq!(
            (record.level, record.facility, record.seq, record.time_us),
            (6, 0, 339, 5_140_900)
        );
        assert_eq!(record.text, "NET: Registered, protocol; family 10");
        assert_eq!(
            record.dict[1],
            ("DEVICE".to_owned(), "+pci:0000:00".to_owned())
        );
        assert!(parse_kmsg(b"").is_none() && parse_kmsg(b"6,1;x").is_none());
    }
}

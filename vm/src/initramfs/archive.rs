//! A newc cpio archive (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
};

use cpio::newc::{Builder, ModeFileType, trailer};

/// Entry at one path.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    File { mode: u32, bytes: Vec<u8> },
    Device { mode: u32, number: (u32, u32) },
}

/// Paths, without a leading `/`, and what is under them. Sorted, so that a folder comes before what is in it.
#[derive(Debug, Default)]
pub(super) struct Archive(BTreeMap<String, Entry>);

impl Archive {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn folder(&mut self, path: &str) {
        self.put(path, Entry::Folder);
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        self.put(path, Entry::File { mode, bytes });
    }

    pub(super) fn device(&mut self, path: &str, mode: u32, number: (u32, u32)) {
        self.put(path, Entry::Device { mode, number });
    }

    fn put(&mut self, path: &str, entry: Entry) {
        for (slash, _) in path.match_indices('/') {
            self.0
                .entry(path[..slash].to_owned())
                .or_insert(Entry::Folder);
        }
        self.0.insert(path.to_owned(), entry);
    }

    /// The archive's bytes.
    pub(super) fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        for (ino, (path, entry)) in (1..).zip(&self.0) {
            let new = |kind, mode| {
                Builder::new(path)
                    .ino(ino)
                    .mode(mode)
                    .nlink(1)
                    .set_mode_file_type(kind)
            };
            let (builder, bytes): (_, &[u8]) = match entry {
                Entry::Folder => (new(ModeFileType::Directory, 0o755).nlink(2), &[]),
                Entry::File { mode, bytes } => (new(ModeFileType::Regular, *mode), bytes),
                Entry::Device {
                    mode,
                    number: (major, minor),
                } => (
                    new(ModeFileType::Char, *mode)
                        .rdev_major(*major)
                        .rdev_minor(*minor),
                    &[],
                ),
            };
            let len = u32::try_from(bytes.len())
                .map_err(|_| io::Error::other(format!("{path} is too long")))?;
            let mut writer = builder.write(out, len);
            writer.write_all(bytes)?;
            out = writer.finish()?;
        }
        trailer(out)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_is_put_in_is_read_back_in_order_with_its_folders() {
        let mut archive = Archive::new();
        archive.file("usr/sbin/nft", 0o755, b"nft".to_vec());
        archive.device("dev/null", 0o666, (1, 3));
        let bytes = archive.bytes().unwrap();
        assert_eq!(bytes, archive.bytes().unwrap());
        let (mut names, mut rest) = (Vec::new(), bytes.as_slice());
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut data = String::new();
            reader.read_to_string(&mut data).unwrap();
            names.push((
                reader.entry().name().to_owned(),
                reader.entry().mode(),
                data,
            ));
            rest = reader.finish().unwrap();
        }
        let names: Vec<_> = names
            .iter()
            .map(|(n, m, d)| (n.as_str(), *m, d.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("dev", 0o040_755, ""),
                ("dev/null", 0o020_666, ""),
                ("usr", 0o040_755, ""),
                ("usr/sbin", 0o040_755, ""),
                ("usr/sbin/nft", 0o100_755, "nft")
            ]
        );
    }
}

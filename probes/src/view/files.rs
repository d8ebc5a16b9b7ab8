//! Open files and mounts.

use super::{Align, Table, View};
use crate::fs::{FileKind, Mounts, OpenFile, OpenFiles, Pipe};
use crate::net::{family, socket_type};

/// `O_ACCMODE` and the flags worth a word (`include/uapi/asm-generic/fcntl.h`).
const FLAGS: [(u32, &str); 5] = [
    (0x400, "append"),
    (0x800, "nonblock"),
    (0x4000, "direct"),
    (0x10_0000, "sync"),
    (0x20_0000, "path"),
];

impl View for OpenFiles {
    fn text(&self) -> String {
        files(self).text()
    }

    fn html(&self) -> Option<String> {
        files(self).html()
    }
}

fn files(files: &OpenFiles) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("FD", Right),
        ("FILE", Left),
        ("KIND", Left),
        ("MODE", Left),
        ("POS", Right),
        ("INODE", Right),
        ("PATH", Left),
        ("", Left),
    ];
    let mut table = Table::new(columns);
    for file in files.iter() {
        let (kind, more) = kind(&file.kind);
        table.row([
            file.fd.to_string(),
            file.at.to_string(),
            kind.to_owned(),
            mode(file),
            file.pos.to_string(),
            file.ino.to_string(),
            file.path.clone(),
            more,
        ]);
    }
    let s = if files.len() == 1 { "" } else { "s" };
    table.note(format!("{} open file{s}", files.len()));
    table
}

fn mode(file: &OpenFile) -> String {
    let mut mode = ["r", "w", "rw", "-"][(file.flags & 3) as usize].to_owned();
    for (bit, name) in FLAGS {
        if file.flags & bit != 0 {
            mode.push(',');
            mode.push_str(name);
        }
    }
    if file.cloexec {
        mode.push_str(",cloexec");
    }
    mode
}

/// Its word, and what only its kind has.
fn kind(kind: &FileKind) -> (&'static str, String) {
    let pipe = |pipe: &Pipe| {
        let Pipe {
            readers,
            writers,
            used,
            ring_size,
            ..
        } = pipe;
        format!("{readers} readers, {writers} writers, {used} of {ring_size} buffers used")
    };
    match kind {
        FileKind::Regular => ("file", String::new()),
        FileKind::Directory => ("dir", String::new()),
        FileKind::Symlink => ("link", String::new()),
        FileKind::Char(major, minor) => ("char", format!("{major}:{minor}")),
        FileKind::Block(major, minor) => ("block", format!("{major}:{minor}")),
        FileKind::Pipe(ends) => ("pipe", pipe(ends)),
        FileKind::Fifo(ends) => ("fifo", pipe(ends)),
        FileKind::Socket(socket) => {
            let names = (family(socket.family), socket_type(socket.type_));
            let text = format!(
                "{} {} protocol {}, sock {}",
                names.0, names.1, socket.protocol, socket.sk
            );
            ("socket", text)
        }
        FileKind::PathOnly => ("path", String::new()),
        FileKind::Anonymous => ("anon", String::new()),
    }
}

impl View for Mounts {
    fn text(&self) -> String {
        mounts(self).text()
    }

    fn html(&self) -> Option<String> {
        mounts(self).html()
    }
}

fn mounts(mounts: &Mounts) -> Table {
    use Align::{Left, Right};
    let columns = [
        ("ID", Right),
        ("ON", Right),
        ("DEV", Left),
        ("TYPE", Left),
        ("SOURCE", Left),
        ("ROOT", Left),
        ("PATH", Left),
        ("OPTIONS", Left),
    ];
    let mut table = Table::new(columns);
    for mount in mounts.iter() {
        table.row([
            mount.id.to_string(),
            mount.parent.to_string(),
            format!("{}:{}", mount.dev.0, mount.dev.1),
            mount.fs_type.clone(),
            mount.source.clone(),
            mount.root.clone(),
            mount.path.clone(),
            mount.options.clone(),
        ]);
    }
    let s = if mounts.len() == 1 { "" } else { "s" };
    table.note(format!("{} mount{s}", mounts.len()));
    table
}

crate::displays!(OpenFiles, Mounts);

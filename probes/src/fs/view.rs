//! Open files and mounts.

use crate::fs::{
    FileKind, FileLock, FileLocks, FileSystemType, FileSystems, Inode, Mount, Mounts, OpenFile,
    OpenFiles, PathLookup, Pipe, Time, family, socket_type, type_letter,
};
use crate::view::sections::{Sections, fields};
use crate::view::{Align, Table, bytes, or_unknown};

/// `O_ACCMODE` and the flags worth a word (`include/uapi/asm-generic/fcntl.h`).
const FLAGS: [(u32, &str); 5] = [
    (0x400, "append"),
    (0x800, "nonblock"),
    (0x4000, "direct"),
    (0x10_0000, "sync"),
    (0x20_0000, "path"),
];

crate::lists! { OpenFile => files }

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
            bytes,
            ..
        } = pipe;
        format!(
            "{readers} readers, {writers} writers, {bytes} bytes in {used} of {ring_size} buffers"
        )
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

crate::lists! { Mount => mounts }

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
        ("FILE SYSTEM", Left),
        ("PROPAGATION", Left),
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
            match mount.frozen {
                Some(frozen) => format!("{},frozen ({frozen})", mount.super_options),
                None => mount.super_options.clone(),
            },
            mount.propagation.clone(),
        ]);
    }
    let s = if mounts.len() == 1 { "" } else { "s" };
    table.note(format!("{} mount{s}", mounts.len()));
    table
}

crate::faces! {
    Inode => inode,
    PathLookup => lookup,
}

crate::lists! {
    FileSystemType => filesystems,
    FileLock => locks,
}

/// `drwxr-xr-x`
fn permissions(mode: u16) -> String {
    let mut text = String::from(type_letter(mode));
    for (i, letter) in "rwxrwxrwx".chars().enumerate() {
        let set = mode >> (8 - i) & 1 == 1;
        // The bits for set-user-ID, set-group-ID and sticky stand in the place of an x.
        let special = i % 3 == 2 && mode >> (11 - i / 3) & 1 == 1;
        let letter = match (special, i, set) {
            (true, 8, true) => 't',
            (true, 8, false) => 'T',
            (true, _, true) => 's',
            (true, _, false) => 'S',
            (false, _, true) => letter,
            (false, _, false) => '-',
        };
        text.push(letter);
    }
    text
}

fn inode(inode: &Inode) -> Table {
    let time = |time: &Time| format!("{}.{:09}", time.sec, time.nsec);
    let device = |dev: (u32, u32)| format!("{}:{}", dev.0, dev.1);
    let cached = match inode.cached_pages.zip(inode.cached_bytes()) {
        Some((pages, size)) => format!("{pages} pages, {}", bytes(size)),
        None => "?".to_owned(),
    };
    let mut table = fields([
        ("inode", inode.at.to_string()),
        ("number", inode.ino.to_string()),
        (
            "file system",
            format!(
                "{} {}, super_block {}",
                or_unknown(inode.fs_type.as_ref()),
                or_unknown(inode.dev.map(device)),
                inode.sb
            ),
        ),
        ("mode", permissions(inode.mode)),
        ("user, group", format!("{}, {}", inode.uid, inode.gid)),
        ("names", inode.nlink.to_string()),
        ("device", device(inode.rdev)),
        (
            "size",
            format!("{} bytes in {} blocks", inode.size, inode.blocks),
        ),
        ("page cache", cached),
        ("users", inode.count.to_string()),
        ("read", time(&inode.atime)),
        ("modified", time(&inode.mtime)),
        ("changed", time(&inode.ctime)),
        (
            "i_op, i_fop",
            format!(
                "{}, {}",
                or_unknown(inode.i_op.as_ref()),
                or_unknown(inode.i_fop.as_ref())
            ),
        ),
    ]);
    table.lacks(&inode.missing);
    table
}

fn lookup(lookup: &PathLookup) -> Sections {
    let mut table = Table::new([
        ("NAME", Align::Left),
        ("", Align::Left),
        ("DENTRY", Align::Left),
        ("INODE", Align::Left),
        ("MOUNT", Align::Left),
        ("", Align::Left),
    ]);
    for step in &lookup.steps {
        let more = match &step.link {
            Some(link) => format!("followed to {link}"),
            None if step.mounted => "another mount begins".to_owned(),
            None => String::new(),
        };
        table.row([
            step.name.clone(),
            step.kind.to_string(),
            step.dentry.to_string(),
            step.inode.to_string(),
            step.mount.to_string(),
            more,
        ]);
    }
    let title = format!("{}: dentry {}", lookup.path, lookup.dentry);
    Sections(vec![
        (title, table),
        ("inode".to_owned(), inode(&lookup.inode)),
    ])
}

fn filesystems(all: &FileSystems) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("TYPE", Left),
        ("", Left),
        ("MODULE", Left),
        ("DEV", Left),
        ("ID", Left),
        ("SUPER_BLOCK", Left),
        ("ROOT", Left),
        ("BLOCK", Right),
        ("INODES", Right),
        ("", Left),
    ]);
    for one in all.iter() {
        let dev = match (one.registered, one.requires_dev) {
            (false, _) => "internal",
            (_, true) => "",
            (_, false) => "nodev",
        };
        let first = [
            one.name.clone(),
            dev.to_owned(),
            one.module.clone().unwrap_or_default(),
        ];
        if one.supers.is_empty() {
            table.row(first.clone());
        }
        for sb in &one.supers {
            let [name, dev, module] = first.clone();
            table.row([
                name,
                dev,
                module,
                format!("{}:{}", sb.dev.0, sb.dev.1),
                sb.id.clone(),
                sb.at.to_string(),
                sb.root.to_string(),
                sb.block_size.to_string(),
                or_unknown(sb.inodes),
                sb.frozen
                    .map_or_else(String::new, |frozen| format!("frozen ({frozen})")),
            ]);
        }
    }
    let supers: usize = all.iter().map(|one| one.supers.len()).sum();
    table.note(format!("{} types, {supers} file systems", all.len()));
    table.lacks(&all.missing);
    table
}

fn locks(locks: &FileLocks) -> Table {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("KIND", Left),
        ("FOR", Left),
        ("PID", Right),
        ("DEV", Left),
        ("INODE", Right),
        ("FROM", Right),
        ("TO", Right),
        ("", Left),
        ("FILE_LOCK", Left),
    ]);
    // Depth first, each before those that wait for it.
    let mut work: Vec<(usize, &FileLock)> = locks.iter().rev().map(|lock| (0, lock)).collect();
    while let Some((depth, lock)) = work.pop() {
        table.row([
            format!("{}{}", "  ".repeat(depth), lock.kind),
            if lock.write { "writing" } else { "reading" }.to_owned(),
            lock.pid.to_string(),
            format!("{}:{}", lock.dev.0, lock.dev.1),
            lock.ino.to_string(),
            lock.start.to_string(),
            lock.end
                .map_or_else(|| "end".to_owned(), |end| end.to_string()),
            state(lock, depth),
            lock.at.to_string(),
        ]);
        work.extend(lock.waiters.iter().rev().map(|lock| (depth + 1, lock)));
    }
    let s = if locks.len() == 1 { "" } else { "s" };
    table.note(format!("{} lock{s}", locks.len()));
    table
}

/// State of a lock: whether it waits; of a lease that is being broken, to what, and how long its holder still has.
fn state(lock: &FileLock, depth: usize) -> String {
    let waits = if depth > 0 { "waits" } else { "" };
    let Some(breaking) = &lock.breaking else {
        return waits.to_owned();
    };
    let to = match breaking.to {
        "none" => "being broken".to_owned(),
        to => format!("being broken to {to}"),
    };
    match breaking.left {
        Some(left) if left < 0 => format!("{to}, overdue by {} s", -left),
        Some(left) => format!("{to} within {left} s"),
        None => to,
    }
}

#[cfg(test)]
mod tests {
    use super::permissions;

    #[test]
    fn permissions_are_those_of_ls() {
        assert_eq!(permissions(0x41ed), "drwxr-xr-x");
        assert_eq!(permissions(0x81a4), "-rw-r--r--");
        assert_eq!(permissions(0x43ff), "drwxrwxrwt");
        assert_eq!(permissions(0x89e8), "-rwsr-x---");
        assert_eq!(permissions(0x8c00), "-".to_owned() + "--S--S---");
    }
}

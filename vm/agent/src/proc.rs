//! `/proc`, read with the procfs crate (tasks, maps, pagemap) and by hand where it has nothing (`/dev/kmsg`).
//! A task that ends while it is read is left out.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{ErrorKind, Read as _},
    os::unix::fs::OpenOptionsExt as _,
};

use klab_wire::{
    Answer, MAX_PAGES, ProcPart, ProcQuery,
    proc::{KmsgRecord, Mm, PageEntry, Task, Vma, parse_kmsg},
};
use procfs::{
    ProcError,
    process::{
        MMapPath, MemoryMap, MemoryPageFlags, PageInfo, Process, Stat, Status, all_processes,
    },
};

use crate::{
    error::{Error, Result},
    session::Responder,
};

/// A part is sent when its values may take up so many bytes, so that it fits a frame.
const PART: usize = 48 * 1024;
/// `PRINTK_MESSAGE_MAX` of `kernel/printk/internal.h` is 2048, a record's text at `/dev/kmsg` at most four times that.
const KMSG_RECORD: usize = 16 * 1024;
const PAGE: u64 = 4096;

/// Answers a query, part by part.
pub(crate) fn read(query: &ProcQuery, to: &Responder) -> Result<()> {
    match query {
        ProcQuery::Tasks => parts(tasks(|_| true), to, task_size, ProcPart::Tasks),
        ProcQuery::Maps { pid } => {
            parts(maps(*pid)?, to, |v: &Vma| v.path.len() + 64, ProcPart::Maps)
        }
        ProcQuery::Pagemap { pid, start, pages } => parts(
            pagemap(*pid, *start, *pages)?,
            to,
            |_| 24,
            ProcPart::Pagemap,
        ),
        ProcQuery::Kmsg => parts(
            kmsg()?,
            to,
            |r: &KmsgRecord| r.text.len() + 64 + dict_size(r),
            ProcPart::Kmsg,
        ),
    }
}

fn parts<T>(
    all: Vec<T>,
    to: &Responder,
    size: impl Fn(&T) -> usize,
    part: impl Fn(Vec<T>) -> ProcPart,
) -> Result<()> {
    let (mut some, mut bytes) = (Vec::new(), 0);
    for value in all {
        bytes += size(&value);
        some.push(value);
        if bytes > PART {
            to.send(Answer::Proc(part(std::mem::take(&mut some))))?;
            bytes = 0;
        }
    }
    if !some.is_empty() {
        to.send(Answer::Proc(part(some)))?;
    }
    Ok(())
}

fn task_size(task: &Task) -> usize {
    600 + task.cmdline.iter().map(|a| a.len() + 5).sum::<usize>()
        + task.exe.as_ref().map_or(0, String::len)
}

fn dict_size(record: &KmsgRecord) -> usize {
    record
        .dict
        .iter()
        .map(|(k, v)| k.len() + v.len() + 10)
        .sum()
}

/// Every thread for whose `stat` `wanted` says yes.
pub(crate) fn tasks(wanted: impl Fn(&Stat) -> bool) -> Vec<Task> {
    let Ok(processes) = all_processes() else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for process in processes.flatten() {
        let Ok(threads) = process.tasks() else {
            continue;
        };
        let mut shared = None;
        for thread in threads.flatten() {
            let Ok(stat) = thread.stat() else { continue };
            if !wanted(&stat) {
                continue;
            }
            let Ok(status) = thread.status() else {
                continue;
            };
            let (cmdline, exe) = shared.get_or_insert_with(|| program(&process));
            let namespaces = namespaces(process.pid, thread.tid);
            all.push(task(stat, status, namespaces, cmdline.clone(), exe.clone()));
        }
    }
    all
}

fn program(process: &Process) -> (Vec<String>, Option<String>) {
    let mut cmdline = process.cmdline().unwrap_or_default();
    // Arguments are the guest's to choose and as long as it likes; a frame is not.
    let mut left = 16 * 1024;
    cmdline.retain(|arg| {
        let fits = arg.len() <= left;
        left = left.saturating_sub(arg.len() + 5);
        fits
    });
    (
        cmdline,
        process.exe().ok().map(|p| p.to_string_lossy().into_owned()),
    )
}

/// From the links `ns/NAME -> NAME:[INODE]`; `pid_for_children` and the like are no namespaces of the task.
fn namespaces(pid: i32, tid: i32) -> BTreeMap<String, u64> {
    let Ok(folder) = fs::read_dir(format!("/proc/{pid}/task/{tid}/ns")) else {
        return BTreeMap::new();
    };
    let links = folder.flatten().filter_map(|entry| {
        let name = entry
            .file_name()
            .into_string()
            .ok()
            .filter(|n| !n.ends_with("_for_children"))?;
        let link = fs::read_link(entry.path())
            .ok()?
            .into_os_string()
            .into_string()
            .ok()?;
        let inode = link.split_once(":[")?.1.strip_suffix(']')?.parse().ok()?;
        Some((name, inode))
    });
    links.collect()
}

fn task(
    stat: Stat,
    s: Status,
    namespaces: BTreeMap<String, u64>,
    cmdline: Vec<String>,
    exe: Option<String>,
) -> Task {
    let mm = s.vmsize.map(|vm_size| mm(&stat, &s, vm_size));
    Task {
        pid: s.pid,
        tgid: s.tgid,
        ppid: s.ppid,
        pgrp: stat.pgrp,
        session: stat.session,
        comm: stat.comm,
        state: stat.state,
        flags: stat.flags,
        num_threads: stat.num_threads,
        uid: [s.ruid, s.euid, s.suid, s.fuid],
        gid: [s.rgid, s.egid, s.sgid, s.fgid],
        nice: stat.nice,
        priority: stat.priority,
        policy: stat.policy.unwrap_or_default(),
        processor: stat.processor.unwrap_or_default(),
        starttime: stat.starttime,
        utime: stat.utime,
        stime: stat.stime,
        exit_signal: stat.exit_signal.unwrap_or_default(),
        blocked: s.sigblk,
        cap_effective: s.capeff,
        nspid: s.nspid.unwrap_or_default(),
        namespaces,
        cmdline,
        exe,
        mm,
    }
}

fn mm(stat: &Stat, s: &Status, vm_size: u64) -> Mm {
    Mm {
        vm_size,
        vm_peak: s.vmpeak.unwrap_or_default(),
        vm_lck: s.vmlck.unwrap_or_default(),
        vm_pin: s.vmpin.unwrap_or_default(),
        vm_hwm: s.vmhwm.unwrap_or_default(),
        vm_rss: s.vmrss.unwrap_or_default(),
        rss_anon: s.rssanon.unwrap_or_default(),
        rss_file: s.rssfile.unwrap_or_default(),
        rss_shmem: s.rssshmem.unwrap_or_default(),
        vm_data: s.vmdata.unwrap_or_default(),
        vm_stk: s.vmstk.unwrap_or_default(),
        vm_exe: s.vmexe.unwrap_or_default(),
        vm_lib: s.vmlib.unwrap_or_default(),
        vm_pte: s.vmpte.unwrap_or_default(),
        vm_swap: s.vmswap.unwrap_or_default(),
        start_code: stat.startcode,
        end_code: stat.endcode,
        start_data: stat.start_data.unwrap_or_default(),
        end_data: stat.end_data.unwrap_or_default(),
        start_brk: stat.start_brk.unwrap_or_default(),
        start_stack: stat.startstack,
        arg_start: stat.arg_start.unwrap_or_default(),
        arg_end: stat.arg_end.unwrap_or_default(),
        env_start: stat.env_start.unwrap_or_default(),
        env_end: stat.env_end.unwrap_or_default(),
    }
}

fn process(pid: i32) -> Result<Process> {
    Process::new(pid).map_err(|e| failed(pid, &e))
}

fn failed(pid: i32, error: &ProcError) -> Error {
    match error {
        ProcError::NotFound(_) => Error(format!("the guest has no process {pid}; see `ps`")),
        error => Error(format!("cannot read /proc/{pid}: {error}")),
    }
}

fn maps(pid: i32) -> Result<Vec<Vma>> {
    let maps = process(pid)?.maps().map_err(|e| failed(pid, &e))?;
    Ok(maps.0.into_iter().map(vma).collect())
}

fn vma(map: MemoryMap) -> Vma {
    let part = |n: i32| u32::try_from(n).unwrap_or_default();
    Vma {
        start: map.address.0,
        end: map.address.1,
        perms: map.perms.as_str(),
        offset: map.offset,
        dev: (part(map.dev.0), part(map.dev.1)),
        inode: map.inode,
        path: match map.pathname {
            MMapPath::Path(path) => path.to_string_lossy().into_owned(),
            MMapPath::Heap => "[heap]".to_owned(),
            MMapPath::Stack => "[stack]".to_owned(),
            MMapPath::TStack(tid) => format!("[stack:{tid}]"),
            MMapPath::Vdso => "[vdso]".to_owned(),
            MMapPath::Vvar => "[vvar]".to_owned(),
            MMapPath::Vsyscall => "[vsyscall]".to_owned(),
            MMapPath::Rollup => "[rollup]".to_owned(),
            MMapPath::Anonymous => String::new(),
            MMapPath::Vsys(key) => format!("/SYSV{key:08x} (deleted)"),
            MMapPath::Other(name) => format!("[{name}]"),
        },
    }
}

fn pagemap(pid: i32, start: u64, pages: u32) -> Result<Vec<PageEntry>> {
    if pages > MAX_PAGES {
        return Err(Error(format!(
            "{pages} pages at once are too many: at most {MAX_PAGES}"
        )));
    }
    let first = start / PAGE;
    let range = usize::try_from(first)?..usize::try_from(first.saturating_add(u64::from(pages)))?;
    let mut pagemap = process(pid)?.pagemap().map_err(|e| failed(pid, &e))?;
    let infos = pagemap.get_range_info(range).map_err(|e| failed(pid, &e))?;
    let entries = (first..).zip(infos).map(|(page, info)| {
        let flags = match info {
            PageInfo::MemoryPage(flags) => flags,
            PageInfo::SwapPage(flags) => MemoryPageFlags::from_bits_retain(flags.bits()),
        };
        let present = flags.contains(MemoryPageFlags::PRESENT);
        PageEntry {
            address: page.wrapping_mul(PAGE),
            present,
            pfn: if present {
                flags.get_page_frame_number().0
            } else {
                0
            },
            swapped: flags.contains(MemoryPageFlags::SWAP),
            file: flags.contains(MemoryPageFlags::FILE),
            exclusive: flags.contains(MemoryPageFlags::MMAP_EXCLUSIVE),
        }
    });
    Ok(entries.collect())
}

fn kmsg() -> Result<Vec<KmsgRecord>> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    let mut record = vec![0; KMSG_RECORD];
    let mut all = Vec::new();
    loop {
        match file.read(&mut record) {
            Ok(0) => return Ok(all),
            Ok(n) => all.extend(parse_kmsg(&record[..n])),
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(all),
            // Records that the ring has overwritten meanwhile: the next read goes on after them.
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

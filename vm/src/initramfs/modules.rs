//! Kernel modules: which, what they depend on, and the lists that modprobe reads.
//!
//! Debian's packages have no `modules.dep`: depmod writes it where a kernel is installed. So the dependencies are
//! read from the modules themselves (`depends=` in `.modinfo`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use object::{Object as _, ObjectSection as _};

use super::{Archive, bad};
use crate::{
    error::{At as _, Result},
    kernels::Kernel,
};

/// Modules that the agent loads before it looks for its ports; Debian's newer kernels have them built in.
const EARLY: &[&str] = &["virtio_pci", "virtio_console"];
/// Modules that lessons load beside [`EARLY`]. A kernel without one of them has it built in, or not at all.
pub(super) const WANTED: &[&str] = &[
    // disks
    "brd",
    "ext4",
    "mq_deadline",
    "null_blk",
    // devices
    "virtio_net",
    "veth",
    "dummy",
    "bridge",
    "tun",
    "macvlan",
    "vxlan",
    "8021q",
    "af_packet",
    "loop",
    "overlay",
    // tells QEMU of VMCOREINFO, for tools that ask QEMU
    "qemu_fw_cfg",
    "fuse",
    // nftables and connection tracking
    "nf_tables",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nf_nat",
    "nf_log_syslog",
    "nf_flow_table",
    "nf_flow_table_inet",
    "nfnetlink",
    "nfnetlink_hook",
    "nfnetlink_log",
    "nfnetlink_queue",
    "nft_chain_nat",
    "nft_connlimit",
    "nft_ct",
    "nft_dup_netdev",
    "nft_fib",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_flow_offload",
    "nft_fwd_netdev",
    "nft_hash",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_queue",
    "nft_quota",
    "nft_redir",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_socket",
    "nft_tproxy",
    "nft_counter",
    "nft_objref",
    // traffic control
    "sch_ingress",
    "sch_netem",
    "sch_tbf",
    "sch_htb",
    "sch_prio",
    "sch_fq",
    "sch_fq_codel",
    "sch_sfq",
    "cls_matchall",
    "cls_u32",
    "cls_flower",
    "cls_bpf",
    "act_mirred",
    "act_gact",
    "act_police",
    // sockets
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "unix_diag",
    "netlink_diag",
    "af_packet_diag",
    "tcp_bbr",
];
/// No module is longer.
const MAX_MODULE: u64 = 64 << 20;

/// A module that goes into the archive.
struct Module {
    /// Below `lib/modules/RELEASE`, without compression's suffix.
    path: String,
    depends: Vec<String>,
    /// Modules that it asks for when it is loaded, by name or by algorithm (`MODULE_SOFTDEP("pre: ..")`).
    softdeps: Vec<String>,
    aliases: Vec<String>,
}

/// Adds the wanted modules of `kernel`, all they depend on, `modules.dep` and `modules.alias`.
pub(super) fn add(archive: &mut Archive, kernel: &Kernel) -> Result<()> {
    let files = index(&kernel.modules.join("kernel"))?;
    let base = format!("lib/modules/{}", kernel.release);
    let mut modules = BTreeMap::new();
    let mut wanted: Vec<String> = EARLY.iter().chain(WANTED).map(|&n| n.to_owned()).collect();
    while let Some(name) = wanted.pop() {
        let Some(file) = files.get(&name).filter(|_| !modules.contains_key(&name)) else {
            continue;
        };
        let bytes = read(file)?;
        let inside = file
            .strip_prefix(&kernel.modules)
            .unwrap_or(file)
            .to_string_lossy();
        let path = inside.strip_suffix(".xz").unwrap_or(&inside).to_owned();
        let mut module =
            describe(path, &bytes).map_err(|e| bad(file, format!("is no kernel module: {e}")))?;
        archive.file(&format!("{base}/{}", module.path), 0o644, bytes);
        // The portable implementation of an algorithm is named so; where there is none, it is built in.
        let there = |name: &String| {
            let generic = format!("{name}_generic");
            [name.clone(), generic]
                .into_iter()
                .find(|name| files.contains_key(name))
        };
        let softdeps: Vec<String> = module.softdeps.iter().filter_map(there).collect();
        module.depends.extend(softdeps);
        wanted.extend(module.depends.iter().cloned());
        modules.insert(name, module);
    }
    let (mut dep, mut alias) = (String::new(), String::new());
    for (name, module) in &modules {
        let mut first = Vec::new();
        collect(&modules, name, &mut first, &mut BTreeSet::new());
        first.pop();
        // The module that is loaded first comes last.
        let line = first
            .iter()
            .rev()
            .fold(format!("{}:", module.path), |line, path| line + " " + path);
        dep += &(line + "\n");
        for pattern in &module.aliases {
            let _ = writeln!(alias, "alias {pattern} {name}");
        }
    }
    let early: String = EARLY
        .iter()
        .filter(|&&n| modules.contains_key(n))
        .map(|n| format!("{n}\n"))
        .collect();
    archive.file("etc/klab/modules", 0o644, early.into_bytes());
    archive.file(&format!("{base}/modules.dep"), 0o644, dep.into_bytes());
    archive.file(&format!("{base}/modules.alias"), 0o644, alias.into_bytes());
    Ok(())
}

/// The paths of what `name` depends on, then its own, in the order in which they are loaded.
fn collect(
    modules: &BTreeMap<String, Module>,
    name: &str,
    order: &mut Vec<String>,
    seen: &mut BTreeSet<String>,
) {
    let Some(module) = modules.get(name).filter(|_| seen.insert(name.to_owned())) else {
        return;
    };
    for depends in &module.depends {
        collect(modules, depends, order, seen);
    }
    order.push(module.path.clone());
}

/// All modules below `folder` by their names.
fn index(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).at("read", &folder)? {
            let entry = entry.at("read", &folder)?;
            if entry.file_type().at("look at", &folder)?.is_dir() {
                folders.push(entry.path());
            } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
                files.insert(name.replace('-', "_"), entry.path());
            }
        }
    }
    Ok(files)
}

/// The module itself, whichever way it is stored.
fn read(file: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(file).at("read", file)?;
    match file.extension().and_then(|e| e.to_str()) {
        Some("ko") => Ok(bytes),
        Some("xz") => {
            let mut module = Vec::new();
            let reader = lzma_rust2::XzReader::new(bytes.as_slice(), true);
            reader
                .take(MAX_MODULE)
                .read_to_end(&mut module)
                .at("unpack", file)?;
            Ok(module)
        }
        _ => Err(bad(
            file,
            "is packed in a way that klab cannot unpack: unpack the modules to .ko first",
        )),
    }
}

fn describe(path: String, bytes: &[u8]) -> object::read::Result<Module> {
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(bytes)?;
    let info = file
        .section_by_name(".modinfo")
        .map(|s| s.data())
        .transpose()?
        .unwrap_or_default();
    let (mut depends, mut softdeps, mut aliases) = (Vec::new(), Vec::new(), Vec::new());
    for line in info.split(|&b| b == 0) {
        match std::str::from_utf8(line)
            .ok()
            .and_then(|l| l.split_once('='))
        {
            Some(("depends", names)) => {
                depends.extend(
                    names
                        .split(',')
                        .filter(|n| !n.is_empty())
                        .map(|n| n.replace('-', "_")),
                );
            }
            Some(("softdep", words)) => {
                let pre = words
                    .split_whitespace()
                    .skip_while(|word| *word != "pre:")
                    .skip(1)
                    .take_while(|word| *word != "post:");
                softdeps.extend(pre.map(|n| n.replace('-', "_")));
            }
            Some(("alias", pattern)) if !pattern.contains(char::is_whitespace) => {
                aliases.push(pattern.to_owned())
            }
            _ => {}
        }
    }
    Ok(Module {
        path,
        depends,
        softdeps,
        aliases,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once_and_a_loop_ends() {
        let module = |path: &str, depends: &[&str]| Module {
            path: path.to_owned(),
            depends: depends.iter().map(|&d| d.to_owned()).collect(),
            softdeps: Vec::new(),
            aliases: Vec::new(),
        };
        let modules = BTreeMap::from([
            ("a".to_owned(), module("a.ko", &["b", "c"])),
            ("b".to_owned(), module("b.ko", &["c", "built_in"])),
            ("c".to_owned(), module("c.ko", &["a"])),
        ]);
        let mut order = Vec::new();
        collect(&modules, "a", &mut order, &mut BTreeSet::new());
        assert_eq!(order, ["c.ko", "b.ko", "a.ko"]);
    }
}

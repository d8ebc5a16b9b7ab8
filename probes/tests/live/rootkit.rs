//! Hooks that nobody should have set, planted in a copy of a guest's RAM as rootkits plant them: the audit names each.

use probes::audit::Finding;
use probes::kernel::Kernel;
use probes::memory::GuestVirt;
use probes::structures::offset_of;

use crate::ground::Ground;
use crate::hostile::Ram;

crate::on_kernels!(is_found);

/// Runs the audit on the copy, which must find exactly this: a part of the place, and a part of what is wrong.
fn finds(ram: &mut Ram, what: &str, wanted: &[(&str, &str)]) {
    let audit = ram.guest().unwrap().audit().unwrap();
    ram.heal();
    println!("{what}: {:?}", audit.findings);
    assert_eq!(
        audit.findings.len(),
        wanted.len(),
        "{what}: {:?}",
        audit.findings
    );
    for (place, why) in wanted {
        let says = |finding: &Finding| finding.place.contains(place) && finding.why.contains(why);
        assert!(
            audit.findings.iter().any(says),
            "{what}: no {place}, {why}: {:?}",
            audit.findings
        );
    }
}

/// Address of a symbol.
fn symbol(kernel: &Kernel, name: &str) -> GuestVirt {
    kernel.symbols().unwrap().lookup(name).unwrap()
}

pub(crate) fn is_found(kernel: &str) {
    let mut ground = Ground::bare(kernel, vm::Options::default().memory);
    ground.sh(
        "modprobe veth; nft add table inet t; nft add chain inet t c '{ type filter hook input priority 0; }'; \
         nft add rule inet t c ct state new accept",
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ram");
    Ram::copy(&ground, &file);
    drop(ground);
    let mut ram = Ram::open(&file);
    let guest = ram.guest().unwrap();
    let kernel = guest.kernel().unwrap();
    let phys = |at: GuestVirt| kernel.virt_to_phys(at).unwrap();
    // Code on the heap: the first task's structure is as good as any.
    let heap = guest.task(1).unwrap().at;
    finds(&mut ram, "nothing", &[]);

    let nobody = "code of nobody";
    let table = symbol(&kernel, "sys_call_table");
    ram.lie_u64(phys(table.offset(39 * 8)), heap.0);
    finds(
        &mut ram,
        "a system call on the heap",
        &[("sys_call_table[39]", nobody)],
    );

    ram.lie_u64(phys(table.offset(62 * 8)), symbol(&kernel, "schedule").0);
    finds(
        &mut ram,
        "a system call that is none",
        &[("sys_call_table[62]", "schedule, which is no system call")],
    );

    // An interrupt gate holds its address in three parts.
    let gate = symbol(&kernel, "idt_table").offset(14 * 16);
    ram.lie(phys(gate), &(heap.0 as u16).to_le_bytes());
    ram.lie(phys(gate.offset(6)), &((heap.0 >> 16) as u16).to_le_bytes());
    ram.lie(phys(gate.offset(8)), &((heap.0 >> 32) as u32).to_le_bytes());
    finds(&mut ram, "the page fault's gate", &[("vector 14", nobody)]);

    let hooks = guest
        .eval("init_net.nf.hooks_ipv4[1]")
        .unwrap()
        .pointer()
        .unwrap();
    let entry = offset_of(&kernel, "struct nf_hook_entries", "hooks").unwrap();
    ram.lie_u64(phys(hooks.offset(entry)), heap.0);
    finds(
        &mut ram,
        "a hook of netfilter",
        &[("hooks_ipv4[1]", nobody)],
    );

    let chain = GuestVirt(kernel.read_u64(symbol(&kernel, "netdev_chain")).unwrap());
    let call = offset_of(&kernel, "struct notifier_block", "notifier_call").unwrap();
    ram.lie_u64(phys(chain.offset(call)), heap.0);
    finds(&mut ram, "a notifier", &[("netdev_chain", nobody)]);

    let show = offset_of(&kernel, "struct seq_operations", "show").unwrap();
    ram.lie_u64(phys(symbol(&kernel, "tcp4_seq_ops").offset(show)), heap.0);
    finds(
        &mut ram,
        "what lists sockets",
        &[("tcp4_seq_ops.show", nobody)],
    );

    // A jump at the entry of what lists sockets, over the place that ftrace patches: `jmp *0(%rip)` and the address.
    let function = GuestVirt(
        kernel
            .read_u64(symbol(&kernel, "tcp4_seq_ops").offset(show))
            .unwrap(),
    );
    let mut jump = vec![0xff, 0x25, 0, 0, 0, 0];
    jump.extend(heap.0.to_le_bytes());
    let endbr = kernel.read_u32(function).unwrap() == 0xfa1e_0ff3;
    let entry = function.offset(if endbr { 4 } else { 0 });
    ram.lie(phys(entry), &jump);
    finds(
        &mut ram,
        "a jump at an entry",
        &[
            ("tcp4_seq_ops.show", "begins with a jump to"),
            ("tcp4_seq_show", "was overwritten"),
        ],
    );

    // A call there that ftrace knows nothing of: to the image, which no pointer to a function tells from a tracer's.
    let target = symbol(&kernel, "schedule");
    let distance = target.0.wrapping_sub(entry.offset(5).0) as u32;
    let mut call = vec![0xe8];
    call.extend(distance.to_le_bytes());
    ram.lie(phys(entry), &call);
    finds(
        &mut ram,
        "a call at an entry",
        &[(
            "tcp4_seq_show",
            "though ftrace says that nobody has hooked it",
        )],
    );

    ram.lie(phys(entry), &[0xcc]);
    finds(
        &mut ram,
        "a breakpoint at an entry",
        &[
            ("tcp4_seq_ops.show", "breakpoint that nobody has set"),
            ("tcp4_seq_show", "breakpoint that nobody has set"),
        ],
    );

    // A module takes itself off the list, as rootkits do first of all: its hooks are found, and it.
    let list = offset_of(&kernel, "struct module", "list").unwrap();
    let hide = |ram: &mut Ram, name: &str| {
        let modules = guest.modules().unwrap();
        let node = modules
            .iter()
            .find(|module| module.name == name)
            .unwrap()
            .at
            .offset(list);
        let [next, prev] = [0, 8].map(|at| kernel.read_u64(node.offset(at)).unwrap());
        ram.lie_u64(phys(GuestVirt(prev)), next);
        ram.lie_u64(phys(GuestVirt(next + 8)), prev);
        modules.len()
    };
    let count = hide(&mut ram, "veth");
    let found = ram.guest().unwrap().modules().unwrap();
    assert_eq!(found.len(), count);
    let hidden: Vec<&str> = found
        .iter()
        .filter(|module| !module.listed)
        .map(|module| module.name.as_str())
        .collect();
    assert_eq!(hidden, ["veth"]);
    finds(
        &mut ram,
        "a hidden module",
        &[("module veth", "not on the list")],
    );

    hide(&mut ram, "nf_conntrack");
    let audit = ram.guest().unwrap().audit().unwrap();
    ram.heal();
    let of_module = audit.findings.iter().filter(|finding| {
        finding
            .why
            .contains("in the module nf_conntrack, which is not")
    });
    assert!(of_module.count() >= 4, "{:?}", audit.findings);
    assert!(
        audit
            .findings
            .iter()
            .any(|finding| finding.place == "module nf_conntrack")
    );

    // It takes its object out of sysfs, too; the tree of module memory still has it.
    hide(&mut ram, "veth");
    let module = guest
        .modules()
        .unwrap()
        .iter()
        .find(|module| module.name == "veth")
        .unwrap()
        .at;
    let node = module.offset(offset_of(&kernel, "struct module", "mkobj.kobj.entry").unwrap());
    let [next, prev] = [0, 8].map(|at| kernel.read_u64(node.offset(at)).unwrap());
    ram.lie_u64(phys(GuestVirt(prev)), next);
    ram.lie_u64(phys(GuestVirt(next + 8)), prev);
    finds(
        &mut ram,
        "a module hidden twice",
        &[("module veth", "not on the list")],
    );
    finds(&mut ram, "nothing", &[]);
}

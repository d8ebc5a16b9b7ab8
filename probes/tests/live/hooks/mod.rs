//! Modules, BPF, tracing and the hooks of all of them: `/sys/module`, `/proc/PID/fdinfo`, `/sys/kernel/tracing`, nft.

mod audit;
mod bpf;
mod modules;
mod tracing;

use std::collections::{BTreeMap, BTreeSet};

use probes::audit::{Audit, HookPoint, Owner};
use probes::bpf::Bpf;
use probes::module::ModuleDetails;
use probes::skb::Profile;
use probes::trace::Tracing;
use vm::agent::WorkloadKind;

use crate::ground::Ground;
use crate::ledger::Ledger;

use audit::audit;
use bpf::bpf;
use modules::{command_line, modules};
use tracing::tracing;

crate::on_kernels!(are_those_of_sys);

pub(crate) fn are_those_of_sys(kernel: &str) {
    let mut ground = Ground::to_trace(kernel);
    command_line(&mut ground, kernel);
    let clean = ground.guest.paused(|guest| guest.audit()).unwrap();
    assert_eq!(clean.findings, [], "{kernel}");
    assert_eq!(clean.hooked_sites, 0);
    ground.sh(
        "modprobe loop max_loop=3 max_part=7; modprobe null_blk nr_devices=0 queue_mode=2 bs=4096; modprobe brd rd_nr=1 rd_size=77; \
         modprobe veth; nft add table inet t; nft add chain inet t c '{ type filter hook input priority 0; }'; \
         nft add rule inet t c ct state new accept; nft add table ip n; nft add chain ip n c '{ type nat hook output priority 0; }'",
    );
    modules(&mut ground, kernel);
    bpf(&mut ground, kernel);
    tracing(&mut ground, kernel);
    audit(&mut ground, kernel, &clean);
}

/// klab's own module hooks functions of the whole network stack: all of it is a module's, and nothing is wrong.
#[test]
fn of_klabs_own_module() {
    let ground = Ground::bare("default", vm::Options::default().memory);
    let mut seen: Option<Audit> = None;
    let paths = ground.guest.paths(&Profile::Path, |guest| {
        seen = Some(guest.audit()?);
        Ok(())
    });
    paths.unwrap();
    let seen = seen.unwrap();
    assert_eq!(seen.findings, []);
    assert!(seen.hooked_sites > 50, "{}", seen.hooked_sites);
    let own = Owner::Module("klab".to_owned());
    for point in [HookPoint::Ftrace, HookPoint::Tracepoint] {
        let hooks = seen
            .hooks
            .iter()
            .filter(|hook| hook.point == point && hook.owner == own);
        assert!(hooks.count() > 0, "{point:?}: {:?}", seen.hooks);
    }
}

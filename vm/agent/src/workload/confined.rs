//! A process that is not what processes are by default, so that each of its properties can be told from another's.

use std::{io::Read as _, thread};

use nix::{
    sys::signal::{SigSet, Signal, kill, raise},
    unistd::{Pid, Uid, setfsuid},
};
use rustix::{
    process::{Gid, Resource, Rlimit, setrlimit},
    thread::{
        CapabilitiesSecureBits, CapabilitySet, CapabilitySets, SecureComputingMode, capabilities,
        configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
        set_capabilities_secure_bits, set_no_new_privs, set_secure_computing_mode,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use crate::error::Result;

/// The name of the thread that may only read and write.
const STRICT: &str = "klab-confined-s";

/// Takes other users and groups, fewer capabilities, limits, and signals that wait.
pub(super) fn confine() -> Result<()> {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR1);
    blocked.add(Signal::SIGUSR2);
    blocked.add(Signal::SIGHUP);
    blocked.thread_block()?;
    strict()?;
    raise(Signal::SIGUSR1)?;
    kill(Pid::this(), Signal::SIGUSR2)?;
    let limit = |current, maximum| Rlimit {
        current: Some(current),
        maximum,
    };
    setrlimit(Resource::Nofile, limit(100, Some(200)))?;
    setrlimit(Resource::Core, limit(0, Some(1 << 20)))?;
    setrlimit(Resource::Fsize, limit(1 << 30, None))?;
    setrlimit(Resource::Rtprio, limit(3, Some(7)))?;
    let id = |id| rustix::process::Uid::from_raw(id);
    let group = Gid::from_raw;
    for capability in [CapabilitySet::SYS_BOOT, CapabilitySet::SYS_TIME] {
        remove_capability_from_bounding_set(capability)?;
    }
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_SETUID_FIXUP | CapabilitiesSecureBits::KEEP_CAPS_LOCKED,
    )?;
    set_thread_groups(&[group(7), group(99), group(4321)])?;
    set_thread_res_gid(group(11), group(12), group(13))?;
    set_thread_res_uid(id(1001), id(1002), id(1003))?;
    setfsuid(Uid::from_raw(1001));
    let sets = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            inheritable: CapabilitySet::NET_RAW | CapabilitySet::NET_ADMIN,
            ..sets
        },
    )?;
    configure_capability_in_ambient_set(CapabilitySet::NET_RAW, true)?;
    let sets = capabilities(None)?;
    let kept = CapabilitySet::KILL | CapabilitySet::NET_RAW | CapabilitySet::CHECKPOINT_RESTORE;
    set_capabilities(
        None,
        CapabilitySets {
            permitted: kept | CapabilitySet::SYS_NICE,
            effective: kept,
            ..sets
        },
    )?;
    set_no_new_privs(true)?;
    Ok(())
}

/// Leaves a thread in strict mode, in a `read()` that never returns.
fn strict() -> Result<()> {
    let (mut from, to) = std::io::pipe()?;
    let thread = thread::Builder::new().name(STRICT.to_owned());
    thread.spawn(move || {
        if set_secure_computing_mode(SecureComputingMode::Strict).is_ok() {
            let _ = from.read(&mut [0]);
        }
        // Never: the other end is never closed.
        drop(to);
    })?;
    Ok(())
}

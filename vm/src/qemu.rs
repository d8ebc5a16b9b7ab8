//! QEMU: which one there is, and the arguments that make a guest of it.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use klab_wire::LINE;
use serde::{Deserialize, Serialize};

use crate::agent::PORTS;
use crate::error::{At, Error, Result};
use crate::nic::{GUEST_END, GUEST_MAC, HOST_END};

/// File of a recorded guest that has what came from outside, and when.
pub(crate) const EVENTS: &str = "events";
/// The serial line of its agent: what the two FIFOs of it are called before the dot, and what the guest reads and writes.
const FIFOS: &str = "line";
pub(crate) const LINE_IN: &str = "line.in";
pub(crate) const LINE_OUT: &str = "line.out";
/// Its file with the states of the machine, and the names of those: after its boot, and where its record begins.
pub(crate) const STATES: &str = "states";
pub(crate) const READY: &str = "ready";
const FIRST: &str = "first";
/// The end of a console's options.
const LOG: &str = "logfile=serial.log,logappend=on";
const TCG_CPU: &str = "max,cx16=off";
const PROGRAM: &str = "qemu-system-x86_64";
/// The first version known to work: it migrates with `x-ignore-shared` and has `-action`.
const OLDEST: (u32, u32) = (7, 2);

/// Accelerator that executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The host's processor. `/dev/kvm` can exist and still fail, so it is taken only after a trial boot.
    Kvm,
    /// QEMU's translator: always works.
    Tcg,
}

impl Accel {
    /// Arguments of QEMU's `-accel` and `-cpu`, for a guest that boots or is recorded (`one_thread`), or for
    /// one that goes on from a saved state.
    pub(crate) fn options(self, one_thread: bool) -> [&'static str; 2] {
        match (self, one_thread) {
            (Self::Kvm, _) => ["kvm", "host"],
            // The translator's buffer would be 1 GiB a guest. QEMU 7.2 now and then leaves garbage in EFLAGS after
            // cmpxchg16b, of which Linux 6.12 then dies (a double fault in kmem_cache_alloc_noprof, one guest in
            // ten); without cx16 the kernel does the same in software.
            //
            // While it boots, the kernel's code is patched hundreds of times (`smp_text_poke_batch_finish`,
            // `arch/x86/kernel/alternative.c:2810@v7.3.4`): a breakpoint goes in, the rest, the first byte. QEMU 7.2 can
            // keep a translation with the breakpoint when another thread translates meanwhile, and the kernel dies
            // of it ("Oops: int3" in `sched_clock_cpu`: 3 of 120 boots on a busy host, none of 120 on one thread).
            (Self::Tcg, true) => ["tcg,thread=single,tb-size=256", TCG_CPU],
            (Self::Tcg, false) => ["tcg,thread=multi,tb-size=256", TCG_CPU],
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// The QEMU of this host.
#[derive(Debug, Clone)]
pub(crate) struct Qemu {
    pub(crate) program: PathBuf,
    /// As `7.2.22 (Debian 1:7.2+dfsg-7)`.
    pub(crate) version: String,
}

/// Parts of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) vmlinuz: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// Bytes, whole MiB.
    pub(crate) memory: u64,
    pub(crate) cpus: u32,
    pub(crate) accel: Accel,
    /// True if its run is recorded: then it has one CPU, and only devices that QEMU can replay.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) recorded: bool,
}

impl Qemu {
    /// Finds QEMU in `PATH` and asks its version, which is remembered for as long as the file is the same.
    pub(crate) fn find() -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path)
            .map(|folder| folder.join(PROGRAM))
            .find(|path| path.is_file());
        let program = found.ok_or(Error::NoQemu)?;
        let meta = program.metadata().at("look at", &program)?;
        let stamp = format!(
            "{}\n{} {} {}\n",
            program.display(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        let note = crate::paths::cache()?.join("qemu");
        let known = std::fs::read_to_string(&note).unwrap_or_default();
        if let Some(version) = known.strip_prefix(&stamp) {
            return Ok(Self {
                program,
                version: version.to_owned(),
            });
        }
        let out = Command::new(&program)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .at("run", &program)?;
        let version = check_version(&String::from_utf8_lossy(&out.stdout))?;
        crate::paths::write_whole(&note, format!("{stamp}{version}").as_bytes())?;
        Ok(Self { program, version })
    }
}

/// `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)` -> what follows `version`.
fn check_version(text: &str) -> Result<String> {
    let line = text.lines().next().unwrap_or_default();
    let version = line
        .split_once("version ")
        .map_or("", |(_, version)| version)
        .trim();
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < OLDEST {
        let found = if version.is_empty() {
            "of an unknown version"
        } else {
            version
        };
        return Err(Error::OldQemu {
            found: found.to_owned(),
        });
    }
    Ok(version.to_owned())
}

/// Action of QEMU when it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// It boots the kernel.
    Boot,
    /// It waits before the first instruction.
    Held,
    /// It waits for a device state; one that is recorded has it, and waits before it goes on.
    Incoming,
    /// It waits at the beginning of the run that was recorded.
    Replay,
}

/// QEMU's arguments for a guest in `folder`, which is its working directory: so the sockets' names stay short
/// and need no escapes.
pub(crate) fn args(
    name: &str,
    spec: &Spec,
    folder: &Path,
    ram: &Path,
    begin: Begin,
) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |flag: &str, value: &str| args.extend([flag.into(), value.into()]);
    add("-name", &format!("guest={name}"));
    for flag in ["-nodefaults", "-no-user-config"] {
        add(flag, "");
    }
    add("-display", "none");
    // No device that a stock kernel would spend its boot on and no lesson shows.
    let machine = "q35,memory-backend=ram,smm=off,vmport=off,sata=off";
    if spec.recorded {
        // With the HPET a replay stands still.
        add("-M", &format!("{machine},hpet=off"));
    } else {
        add("-M", machine);
    }
    let ram = ram.display().to_string().replace(',', ",,");
    add(
        "-object",
        &format!(
            "memory-backend-file,id=ram,size={},mem-path={ram},share=on",
            spec.memory
        ),
    );
    add("-m", &format!("{}M", spec.memory >> 20));
    add("-smp", &spec.cpus.to_string());
    let [accel, cpu] = spec
        .accel
        .options(spec.recorded || begin != Begin::Incoming);
    add("-accel", accel);
    add("-cpu", cpu);
    add("-device", "vmcoreinfo");
    add("-device", "pvpanic-pci");
    // A stopped guest keeps its RAM: panic, power-off and reboot all leave QEMU standing.
    add("-action", "panic=pause,shutdown=pause,reboot=shutdown");
    // Says in qemu.log why the guest stopped; only the event does otherwise, and there is no one to hear it.
    add("-trace", "qemu_system_shutdown_request");
    let socket = |id: &str| format!("socket,id={id},path={id},server=on,wait=off");
    if spec.recorded {
        recorded(begin, &mut add);
    } else {
        add("-chardev", &format!("{},{LOG}", socket("serial")));
        add("-serial", "chardev:serial");
    }
    for id in ["qmp", "qmp2"] {
        add("-chardev", &socket(id));
        add("-mon", &format!("chardev={id},mode=control"));
    }
    add("-chardev", &socket("gdb"));
    add("-gdb", "chardev:gdb");
    if !spec.recorded {
        virtio(&mut add, &socket);
    }
    // The check of the timer's interrupt waits for what a busy host's translator may not do in time, and then panics
    // ("IO-APIC + timer doesn't work", arch/x86/kernel/apic/io_apic.c).
    let mut words = "console=ttyS0 loglevel=5 panic=-1 no_timer_check".to_owned();
    if spec.recorded {
        // The tests of the kernel's ciphers go on for seconds after the boot, and would be the most of a record.
        words += " cryptomgr.notests=1";
        words += &format!(" {LINE}ttyS1");
    }
    if begin == Begin::Held {
        // Somebody wants to see it boot: each initcall says its name, in a log that has room for all of them.
        add("-append", &format!("{words} initcall_debug log_buf_len=1M"));
        add("-S", "");
    } else {
        add("-append", &words);
    }
    add(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    match (begin, spec.recorded) {
        (Begin::Incoming, false) => add("-incoming", "defer"),
        (Begin::Incoming | Begin::Replay, true) => add("-S", ""),
        _ => {}
    }
    args.retain(|arg| !arg.is_empty());
    let paths = [
        ("-kernel", &spec.vmlinuz),
        ("-initrd", &spec.initramfs),
        ("-pidfile", &folder.join("pid")),
    ];
    args.extend(
        paths
            .into_iter()
            .flat_map(|(flag, path)| [flag.into(), path.into()]),
    );
    args
}

/// The agent's ports and the network card.
fn virtio(add: &mut impl FnMut(&str, &str), socket: &impl Fn(&str) -> String) {
    add(
        "-device",
        &format!("virtio-serial-pci,id=ports,max_ports={}", PORTS + 1),
    );
    for port in 0..PORTS {
        add("-chardev", &socket(&format!("agent.{port}")));
        add(
            "-device",
            &format!(
                "virtserialport,bus=ports.0,nr={},chardev=agent.{port},name=klab.{port}",
                port + 1
            ),
        );
    }
    // A card on a cable that ends in the run folder. No offloads go over it, so the guest's kernel computes every
    // check sum and cuts every segment itself, where it can be seen.
    add(
        "-netdev",
        &format!(
            "dgram,id=net,local.type=unix,local.path={GUEST_END},remote.type=unix,remote.path={HOST_END}"
        ),
    );
    let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
    add(
        "-device",
        &format!("virtio-net-pci,netdev=net,mac={mac},romfile="),
    );
}

/// Options that record or replay, and the serial lines of a guest that is recorded: what comes over those is recorded
/// too, unlike what comes over a `-chardev`. With virtio-serial ports a replay stands still.
fn recorded(begin: Begin, add: &mut impl FnMut(&str, &str)) {
    let (mode, state) = match begin {
        Begin::Replay => ("replay", format!(",rrsnapshot={FIRST}")),
        Begin::Incoming => ("record", format!(",rrsnapshot={FIRST}")),
        Begin::Boot | Begin::Held => ("record", String::new()),
    };
    add(
        "-icount",
        &format!("shift=5,rr={mode},rrfile={EVENTS}{state}"),
    );
    add(
        "-drive",
        // A QEMU that was killed may have its lock for a moment longer than its command line, by which it is found.
        &format!("file={STATES},file.locking=off,if=none,format=qcow2,id=states"),
    );
    if begin == Begin::Incoming {
        add("-loadvm", READY);
    }
    if begin == Begin::Replay {
        // What it prints was printed before, and what it is told is in the record.
        add("-serial", "null");
        add("-serial", "null");
    } else {
        add("-serial", &format!("unix:serial,server=on,wait=off,{LOG}"));
        add("-serial", &format!("pipe:{FIFOS}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_checked() {
        assert_eq!(
            check_version("QEMU emulator version 7.2.22 (Debian 1:7.2)\nCopyright").unwrap(),
            "7.2.22 (Debian 1:7.2)"
        );
        assert!(check_version("QEMU emulator version 10.0.2").is_ok());
        assert!(matches!(
            check_version("QEMU emulator version 5.2.0"),
            Err(Error::OldQemu { .. })
        ));
        assert!(matches!(check_version("x"), Err(Error::OldQemu { .. })));
    }
}

//! The peers of the walks: C on the same mapping, and drgn.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use probes::kernel::Kernel;
use vm::Machine;

/// Start value of both random number generators (xorshift64).
pub(crate) const SEED: u64 = 88_172_645_463_325_252;

/// A walk of the task list. Times are those of a whole walk, in nanoseconds.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) tasks: u64,
    /// Sum of what was read, to compare.
    pub(crate) sum: u64,
    pub(crate) cold: f64,
    pub(crate) warm: f64,
}

/// Figures of the C program.
#[derive(Debug)]
pub(crate) struct Chase {
    pub(crate) walk: Walk,
    /// Seconds of all random reads.
    pub(crate) reads: f64,
    pub(crate) sum: u64,
    /// Seconds of a bulk read of the whole span, the median.
    pub(crate) bulk: f64,
}

/// Task of the C program.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Warm walks of the task list.
    pub(crate) walks: usize,
    /// Random reads.
    pub(crate) reads: u64,
    /// Physical address at which they and the bulk reads begin.
    pub(crate) from: u64,
    pub(crate) span: u64,
    /// Bytes of a bulk read.
    pub(crate) block: usize,
    /// Bulk reads of the whole span.
    pub(crate) sweeps: usize,
}

/// Compiles `chase.c` and runs it on the guest's RAM with the offsets that this kernel has.
pub(crate) fn chase(machine: &Machine, kernel: &Kernel, asked: &Asked) -> Result<Chase> {
    let folder = tempfile::tempdir()?;
    let (source, program) = (folder.path().join("chase.c"), folder.path().join("chase"));
    fs::write(&source, include_str!("chase.c"))?;
    let built = Command::new("cc")
        .args(["-O2", "-o"])
        .args([&program, &source])
        .output()
        .context("the C compiler `cc` does not start: `sudo apt install gcc`")?;
    if !built.status.success() {
        bail!(
            "the C program of the comparison does not compile: {}",
            String::from_utf8_lossy(&built.stderr).trim()
        );
    }
    let offset = |member: &str| {
        kernel
            .eval(&format!("offsetof(struct task_struct, {member})"))?
            .u64()
    };
    let ram = machine.ram()?;
    let [low, rest @ ..] = ram.ranges.as_slice() else {
        bail!("the guest has no RAM")
    };
    let high = rest.first().map_or(u64::MAX, |range| range.gpa);
    let init = kernel.virt_to_phys(kernel.symbol("init_task")?)?.0;
    let numbers = [
        if init < low.len {
            init
        } else {
            init.wrapping_sub(high).wrapping_add(low.len)
        },
        kernel.page_offset_base()?.0,
        offset("tasks")?,
        offset("pid")?,
        offset("comm")?,
        offset("mm")?,
        offset("__state")?,
        low.len,
        high,
        asked.walks as u64,
        asked.reads,
        asked.from,
        asked.span,
        asked.block as u64,
        asked.sweeps as u64,
    ];
    let output = Command::new(&program)
        .arg(&ram.path)
        .args(numbers.map(|number| number.to_string()))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let fields: Vec<u64> = text
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    let [tasks, sum, cold, warm, reads, read_sum, bulk] = fields[..] else {
        bail!("the C program of the comparison failed ({})", output.status);
    };
    Ok(Chase {
        walk: Walk {
            tasks,
            sum,
            cold: cold as f64,
            warm: warm as f64,
        },
        reads: reads as f64 / 1e9,
        sum: read_sum,
        bulk: bulk as f64 / 1e9,
    })
}

/// Figures of drgn.
#[derive(Debug)]
pub(crate) struct Drgn {
    /// Milliseconds of a whole process that prints the task list.
    pub(crate) process: f64,
    /// Nanoseconds a task of a warm walk.
    pub(crate) walk: f64,
}

const WALK: &str = "
import time
from drgn.helpers.linux.pid import for_each_task
def walk(): return [(t.pid.value_(), t.comm.string_(), t.mm.value_(), t.member_('__state').value_()) for t in for_each_task(prog)]
n = len(walk()); walks = max(1, 1000 // n)
start = time.perf_counter_ns(); n = sum(len(walk()) for _ in range(walks)); took = time.perf_counter_ns() - start
print('walk', took / n)
";
const FIRST: &str = "prog['init_task'].comm";
const LIST: &str = "
from drgn.helpers.linux.pid import for_each_task
for t in for_each_task(prog): print(t.pid.value_(), t.comm.string_())
";

/// drgn on the guest's second QMP socket, with a vmlinux; the error says why it cannot be.
fn qemu(machine: &Machine, vmlinux: Option<&Path>) -> Result<impl Fn(&str) -> Command, String> {
    let Some(vmlinux) = vmlinux.map(Path::to_owned) else {
        return Err("give a vmlinux with DWARF by --vmlinux".to_owned());
    };
    // drgn asks QEMU for VMCOREINFO. Where the driver is built in there is nothing to load.
    if let Ok(mut agent) = machine.agent() {
        let _ = agent.load_module("qemu_fw_cfg", "");
    }
    let drgn = vm::paths::cache()
        .map(|cache| cache.join("venv/bin/drgn"))
        .ok()
        .filter(|path| path.exists())
        .unwrap_or_else(|| "drgn".into());
    let socket = machine.qmp_socket().to_owned();
    Ok(move |script: &str| {
        let mut command = Command::new(&drgn);
        command
            .arg("-q")
            .arg("--qemu")
            .arg(&socket)
            .arg("-s")
            .arg(&vmlinux)
            .args(["--main-symbols", "-e", script]);
        command
    })
}

/// Needs of drgn on the guest's second QMP socket; the error says why it cannot be.
pub(crate) fn drgn(machine: &Machine, vmlinux: Option<&Path>) -> Result<Drgn, String> {
    let run = qemu(machine, vmlinux)?;
    let mut process = Vec::new();
    for _ in 0..3 {
        process.push(crate::timed(&mut run(LIST)).map_err(|error| format!("{error:#}"))?);
    }
    Ok(Drgn {
        process: crate::median(process),
        walk: walk_of(run(WALK))?,
    })
}

/// Nanoseconds a task of a warm walk by drgn on the guest's second QMP socket.
pub(crate) fn drgn_walk(machine: &Machine, vmlinux: Option<&Path>) -> Result<f64, String> {
    walk_of(qemu(machine, vmlinux)?(WALK))
}

fn walk_of(mut command: Command) -> Result<f64, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("walk ")?.parse().ok())
        .ok_or_else(|| {
            let words = String::from_utf8_lossy(&output.stderr);
            format!("drgn printed no figure: {}", words.trim())
        })
}

/// Runs drgn on klab's own reader: milliseconds of a whole process up to its first typed object, and a warm walk.
pub(crate) fn drgn_on_klab(name: &str) -> Result<Drgn> {
    let run = |script: &str| {
        let mut command = Command::new(probes::drgn::python()?);
        command.args(["-m", "klab.cli", "--guest", name, "-e", script]);
        anyhow::Ok(command)
    };
    let mut process = Vec::new();
    for _ in 0..5 {
        process.push(crate::timed(&mut run(FIRST)?)?);
    }
    Ok(Drgn {
        process: crate::median(process),
        walk: walk_of(run(WALK)?).map_err(anyhow::Error::msg)?,
    })
}

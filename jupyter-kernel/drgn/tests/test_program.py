"""drgn on klab's program against klab's own readers and against the guest's /proc."""

import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import time

import drgn
import pytest
from drgn.helpers.linux import (
    d_path,
    find_module,
    find_task,
    for_each_file,
    for_each_module,
    for_each_mount,
    for_each_online_cpu,
    for_each_slab_cache,
    for_each_task,
    for_each_vma,
    list_for_each_entry,
    mount_dst,
    task_cpu,
    task_state_to_char,
)

import klab

# Types of every shape: bit fields, anonymous unions, flexible arrays, enumerations, modules' own.
TYPES = ["task_struct", "mm_struct", "list_head", "dentry", "inode", "sk_buff", "sock", "page", "module", "rq", "file", "net"]

#: A disk whose requests take long, read through a loop device: the pid of the worker that waits in the module's code.
SLEEPER = r"""
modprobe null_blk nr_devices=1 gb=1 queue_mode=2 irqmode=2 completion_nsec=20000000000 hw_queue_depth=16 submit_queues=1
modprobe loop; losetup /dev/loop0 /dev/nullb0
setsid dd if=/dev/loop0 of=/dev/null bs=64k count=1000 </dev/null >/dev/null 2>&1 &
for i in $(seq 100); do
    for p in /proc/[0-9]*; do grep -q '\[loop\]' $p/stack 2>/dev/null && echo ${p#/proc/} && exit; done
    sleep 0.1
done
exit 1
"""


def tasks(prog):
    return {task.pid.value_(): task.comm.string_().decode() for task in for_each_task(prog)}


def test_the_version_is_the_pinned_one():
    assert drgn.__version__ == klab.DRGN


@pytest.fixture
def own():
    """A guest that nothing else reads: klab on it, with these words."""
    name = f"store-{os.getpid()}"

    def run(*words):
        env = {**os.environ, "KLAB_GUEST": name}
        return subprocess.run([os.environ["KLAB"], *words], check=True, capture_output=True, text=True, env=env).stdout

    run("up", name)
    yield name, run
    run("down", name)


def test_what_is_stored_is_in_the_guest(own):
    name, run = own
    sh = lambda script: run("run", name, "--", "sh", "-c", script)
    prog = klab.program(name)
    swappiness = drgn.Object(prog, "int", address=prog.symbol("vm_swappiness").address)
    assert klab.store(swappiness, 33).value_() == 33
    assert sh("cat /proc/sys/vm/swappiness").strip() == "33"
    pid = int(sh("sleep 300 >/dev/null 2>&1 </dev/null & echo $!"))
    task = find_task(prog, pid)
    klab.store(task.comm, "renamed")
    assert sh(f"cat /proc/{pid}/comm").strip() == "renamed"
    # Another object's value, of each kind; bytes.
    klab.store(task.comm, find_task(prog, 1).comm)
    assert task.comm.string_() == b"init"
    klab.store(task.comm, b"bytes")
    assert sh(f"cat /proc/{pid}/comm").strip() == "bytes"
    klab.store(swappiness, prog["init_task"].prio)
    assert swappiness.value_() == prog["init_task"].prio.value_()
    klab.store(task.real_parent, find_task(prog, 2))
    assert "PPid:\t2\n" in sh(f"cat /proc/{pid}/status")
    writes = next(one["writes"] for one in json.loads(run("status", "--json")) if one["name"] == name)
    assert len(writes) == 6, writes
    for wrong in (
        lambda: klab.store(task.comm, "a name that is longer than its sixteen bytes"),
        lambda: klab.store(swappiness, 1 << 40),
        lambda: klab.store(swappiness, "text"),
        lambda: klab.store(swappiness + 1, 1),
        lambda: klab.store(task.sched_reset_on_fork, 1),
        lambda: klab.store(swappiness, None),
        lambda: klab.store(swappiness, 1.5),
    ):
        with pytest.raises((OSError, ValueError, TypeError)):
            wrong()
    run("reset", name)
    # What the address means now is another kernel's.
    with pytest.raises(OSError, match="was reset or started anew"):
        klab.store(swappiness, 1)


def test_tasks_are_those_of_probes(prog, run, still):
    of_klab = {task["pid"]: task["comm"] for task in json.loads(run("ps", "--json"))}
    assert {task.pid.value_(): task.comm.string_().decode() for task in for_each_task(prog) if task.pid == task.tgid} == of_klab


def test_tasks_are_those_of_proc(prog, run, sh):
    names = "for p in /proc/[0-9]*; do echo ${p#/proc/} $(cat $p/comm 2>/dev/null); done; true"
    of_proc = dict(line.split(" ", 1) for line in sh(names).splitlines() if " " in line)
    # Its last processes end while drgn walks, unless it stands still.
    run("pause")
    of_drgn = tasks(prog)
    run("resume")
    # The script's own processes, and workers that came or went meanwhile, are not in both. /proc adds to a worker's name what
    # it does.
    same = [pid for pid, comm in of_proc.items() if comm.startswith(of_drgn.get(int(pid), "no task"))]
    assert len(same) > 50 and len(of_proc) - len(same) <= 6, set(of_proc) - set(same)
    assert of_drgn[1] == "init" and of_drgn[2] == "kthreadd"


@pytest.mark.parametrize("name", TYPES)
def test_layouts_are_those_of_probes(prog, run, name):
    of_drgn = prog.type(f"struct {name}")
    compared = 0
    for line in json.loads(run("struct", "--json", name))["lines"]:
        member = re.search(r"(\w+)(\[\d*\])*;$", line["text"])
        # A bit field has no address, an anonymous union no name; those deeper down are other structures' own.
        if line["depth"] != 1 or "offset" not in line or ":" in line["text"] or not member:
            continue
        made = of_drgn.member(member[1])
        assert made.offset == line["offset"], member[1]
        if made.type.kind != drgn.TypeKind.ARRAY or made.type.length is not None:
            assert drgn.sizeof(made.type) == line["size"], member[1]
        compared += 1
    assert compared and drgn.sizeof(of_drgn) == int(run("p", f"sizeof(struct {name})").rpartition(")")[2])


def test_the_callback_and_python_read_the_same(guest, prog, still):
    slow = klab.program(guest, native=False)
    assert tasks(slow) == tasks(prog)
    address = prog["init_task"].address_
    assert slow.read(address, 4096) == prog.read(address, 4096)
    for program in (slow, prog):
        with pytest.raises(drgn.FaultError):
            program.read(0xFFFF_F000_0000_0000, 8)
        with pytest.raises(drgn.FaultError):
            program.read(1 << 50, 8, True)


def test_states_and_files_of_a_task(prog, sh):
    status = sh("cat /proc/2/status")
    kthreadd = find_task(prog, 2)
    assert f"State:\t{task_state_to_char(kthreadd)}" in status
    paths = {d_path(file.f_path).decode() for _, file in for_each_file(find_task(prog, 1))}
    links = set(sh("for f in /proc/1/fd/*; do readlink $f; done").split("\n"))
    assert {path for path in paths if path.startswith("/dev/")} <= links


def test_mappings_of_init_are_those_of_proc(prog, sh):
    vmas = [(vma.vm_start.value_(), vma.vm_end.value_()) for vma in for_each_vma(find_task(prog, 1).mm)]
    lines = [line.split()[0].split("-") for line in sh("grep -v vsyscall /proc/1/maps").splitlines()]
    assert vmas == [(int(start, 16), int(end, 16)) for start, end in lines]


def test_mounts_are_those_of_proc(prog, sh):
    mounts = {mount_dst(mount).decode() for mount in for_each_mount(prog)}
    of_proc = {line.split()[1] for line in sh("cat /proc/1/mounts").splitlines()}
    assert of_proc <= mounts


def test_slab_caches_and_cpus_and_modules(prog, sh):
    caches = {cache.name.string_().decode() for cache in for_each_slab_cache(prog)}
    assert {"task_struct", "mm_struct", "dentry"} <= caches
    online = sh("cat /sys/devices/system/cpu/online").strip()
    assert [0, int(online.rsplit("-", 1)[-1])] == [min(for_each_online_cpu(prog)), max(for_each_online_cpu(prog))]
    modules = {module.name.string_().decode() for module in for_each_module(prog)}
    assert modules == {line.split()[0] for line in sh("cat /proc/modules").splitlines()}


def test_lists_by_the_helpers(prog, run):
    children = list_for_each_entry("struct task_struct", prog["init_task"].children.address_of_(), "sibling")
    assert sorted(child.pid.value_() for child in children) == [1, 2]


def test_stacks_of_sleeping_tasks(prog, sh):
    trace = prog.stack_trace(find_task(prog, 2))
    names = [frame.name for frame in trace]
    assert "kthreadd" in names and names[-1].startswith("ret_from_fork"), names
    # The agent runs as root: its own reading of the same stack.
    of_proc = [line.split()[-1].split("+")[0] for line in sh("cat /proc/2/stack").splitlines()]
    assert "kthreadd" in of_proc and set(of_proc) <= set(names) | {"__schedule"}


def test_symbols_both_ways(prog, sh):
    line = sh("grep ' T schedule$' /proc/kallsyms").split()
    assert prog.symbol("schedule").address == int(line[0], 16)
    assert prog.symbol(int(line[0], 16) + 4).name == "schedule"
    with pytest.raises(LookupError):
        prog.symbol("no_such_symbol")


def test_symbols_have_a_size_a_binding_and_a_kind(prog):
    schedule = prog.symbol("schedule")
    assert (schedule.binding, schedule.kind) == (drgn.SymbolBinding.GLOBAL, drgn.SymbolKind.FUNC)
    assert prog.symbol("jiffies").kind == drgn.SymbolKind.OBJECT
    letters = {"T": (drgn.SymbolBinding.GLOBAL, drgn.SymbolKind.FUNC), "t": (drgn.SymbolBinding.LOCAL, drgn.SymbolKind.FUNC)}
    letters |= {"D": (drgn.SymbolBinding.GLOBAL, drgn.SymbolKind.OBJECT), "b": (drgn.SymbolBinding.LOCAL, drgn.SymbolKind.OBJECT)}
    seen = dict.fromkeys(letters.values(), 0)
    for symbol in prog.symbols():
        if (symbol.binding, symbol.kind) in seen:
            seen[symbol.binding, symbol.kind] += 1
    assert all(count > 1000 for count in seen.values()), seen
    # One address has several names, and each of them is given.
    names = {symbol.name for symbol in prog.symbols(prog.symbol("jiffies").address)}
    assert {"jiffies", "jiffies_64"} <= names


def test_symbols_of_modules_are_as_large_as_their_tables_say(prog, sh):
    sh("modprobe veth")
    # `/proc/PID/stack` and a warning print `veth_xmit+0x10/0x3c0`: the kernel has the size from the same table.
    symbol = prog.symbol("veth_xmit")
    assert symbol.size > 0x40 and symbol.kind == drgn.SymbolKind.FUNC
    for address in (symbol.address, symbol.address + 1, symbol.address + symbol.size - 1):
        assert prog.symbol(address) == symbol
    try:
        assert prog.symbol(symbol.address + symbol.size).name != "veth_xmit"
    except LookupError:
        pass


def test_stacks_go_through_modules(prog, sh):
    pid = int(sh(SLEEPER))

    def of_proc():
        return [re.match(r"\[<0>\] ([^+]+)\+", line)[1] for line in sh(f"cat /proc/{pid}/stack").splitlines()]

    # It waits for seconds; between two requests it may be anywhere.
    for _ in range(20):
        before = of_proc()
        names = [frame.name for frame in prog.stack_trace(find_task(prog, pid))]
        if before == of_proc() and "loop_process_work" in before:
            break
    assert before == of_proc() and "loop_process_work" in before, before
    # The file leaves out the scheduler's own.
    assert names[-len(before) :] == before, (names, before)
    assert set(names[: -len(before)]) <= {"__schedule", "schedule", "io_schedule"}, names


def test_modules_are_followed(prog, sh):
    for _ in range(2):
        sh("modprobe veth")
        prog.stack_trace(1)
        address = prog.symbol("veth_xmit").address
        module = prog.module(address)
        assert module.name == "veth" and module.object == find_module(prog, "veth")
        sh("rmmod veth")
        prog.stack_trace(1)
        with pytest.raises(LookupError):
            prog.module(address)


def test_constants_functions_and_globals(prog):
    assert prog.constant("PIDTYPE_PID").value_() == 0
    assert prog.function("schedule").type_.kind == drgn.TypeKind.FUNCTION
    assert prog["init_task"].comm.string_().startswith(b"swapper")
    assert prog["jiffies"].value_() > 0
    assert task_cpu(find_task(prog, 1)) in (0, 1)
    with pytest.raises(KeyError):
        prog["no_such_variable"]
    with pytest.raises(LookupError):
        prog.type("struct no_such_type")


#: `nanosleep`, `clock_nanosleep` and `select` of x86-64, by which Pythons sleep.
SLEEPS = {"35", "230", "23"}


def test_ctrl_c_ends_a_line_of_the_prompt_and_not_the_prompt(klab, guest):
    pid, terminal = pty.fork()
    if not pid:
        os.execv(klab, [klab, "drgn", "--guest", guest])

    def until(*texts):
        """Reads on until each of these was said, one behind the other."""
        said, at = b"", 0
        for text in texts:
            while (found := said.find(text, at)) < 0:
                assert select.select([terminal], [], [], 60)[0], (said, pathlib.Path(f"/proc/{pid}/status").read_text())
                said += os.read(terminal, 4096)
            at = found + len(text)

    # The next is written when the prompt is there: what comes before goes to a terminal that is about to change its mode.
    until(b">>> ")
    os.write(terminal, b"import time; print(2 * 21); time.sleep(1000)\n")
    until(b"42\r\n")
    # A signal that comes between two lines of Python and a sleep is seen behind the sleep, in any Python.
    call = pathlib.Path(f"/proc/{pid}/syscall")
    for _ in range(600):
        if call.read_text().split()[0] in SLEEPS:
            break
        time.sleep(0.1)
    else:
        raise AssertionError(f"it does not sleep: {call.read_text()}")
    os.write(terminal, b"\x03")
    until(b"KeyboardInterrupt", b">>> ")
    os.write(terminal, b"find_task(1).comm.string_()\n")
    until(b"b'init'", b">>> ")
    os.write(terminal, b"\x04")
    for _ in range(600):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.1)
    else:
        os.kill(pid, signal.SIGKILL)
        raise AssertionError("the end of input does not end the prompt")
    assert status == 0
    os.close(terminal)


def test_a_reset_is_noticed(guest, run):
    prog = klab.program(guest)
    kernel = klab.kernel_of(prog)
    assert kernel.current()
    run("reset")
    assert not kernel.current()
    assert klab.kernel_of(klab.program(guest)).current()


def test_a_guest_that_is_not_there_is_told_with_the_cure():
    with pytest.raises(OSError, match="klab up no-such-guest"):
        klab.program("no-such-guest")

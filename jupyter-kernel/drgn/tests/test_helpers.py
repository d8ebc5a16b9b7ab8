"""drgn's helpers over the kernel's subsystems, each beside what the guest itself says."""

import contextlib
import io

import drgn
import drgn.cli
import pytest
from drgn.commands import run_command


@pytest.fixture(scope="module")
def here(prog):
    """The names of drgn's own prompt."""
    drgn.set_default_prog(prog)
    return drgn.cli.default_globals(prog)


def test_memory(here, sh):
    total = next(int(line.split()[1]) for line in sh("cat /proc/meminfo").splitlines() if line.startswith("MemTotal"))
    assert here["totalram_pages"]() * 4 == total
    page = here["virt_to_page"](here["find_task"](1))
    assert here["page_to_virt"](page) <= here["find_task"](1) < here["page_to_virt"](page) + 4096
    areas = sum(1 for _ in here["for_each_vmap_area"]())
    assert areas > 10


def test_slab_caches(here, sh):
    of_proc = {line.split()[0] for line in sh("cat /proc/slabinfo").splitlines()[2:]}
    of_drgn = {cache.name.string_().decode() for cache in here["for_each_slab_cache"]()}
    assert of_proc == of_drgn
    assert here["identify_address"](here["find_task"](1)) == "task: 1 (init)"


def test_every_task_is_an_object_of_its_slab_cache(here, still):
    cache = here["find_slab_cache"]("task_struct")
    objects = here["slab_cache_for_each_allocated_object"](cache, "struct task_struct")
    assert {task.value_() for task in here["for_each_task"]()} <= {task.value_() for task in objects}


def test_times_and_load(here, sh):
    uptime = float(sh("cat /proc/uptime").split()[0])
    assert abs(here["uptime"]() - uptime) < 10
    load = [float(word) for word in sh("cat /proc/loadavg").split()[:3]]
    assert all(abs(ours - theirs) < 0.5 for ours, theirs in zip(here["loadavg"](), load))


def test_a_process(here, sh):
    init = here["find_task"](1)
    assert b"\0".join(here["cmdline"](init)).decode() == sh("cat /proc/1/cmdline").rstrip("\0")
    assert here["d_path"](init.fs.root) == b"/"
    assert here["d_path"](here["path_lookup"](init.fs.root, "/proc")) == b"/proc"
    assert sum(1 for _ in here["for_each_pid"]()) > 30


def test_devices_and_net(here, prog, sh):
    names = {device.name.string_().decode() for device in here["for_each_netdev"](prog["init_net"])}
    assert names == set(sh("ls /sys/class/net").split())
    assert len(list(here["for_each_pci_dev"]())) == len(sh("ls /sys/bus/pci/devices").split())
    assert here["kernfs_path"](prog["sysfs_root_kn"]) == b"/"


def test_the_log(here, sh):
    assert here["get_dmesg"]().decode().splitlines()[0].split("] ", 1)[1] == sh("dmesg").splitlines()[0].split("] ", 1)[1]


def test_a_module_that_was_just_loaded(here, prog, sh):
    sh("modprobe veth")
    module = here["find_module"]("veth")
    assert module.name.string_() == b"veth"
    # Its own types, and its own symbols.
    assert drgn.sizeof(prog.type("struct veth_priv")) > 0
    line = next(line.split() for line in sh("grep '\\[veth\\]' /proc/kallsyms").splitlines() if " t veth_xmit" in line)
    assert prog.symbol("veth_xmit").address == int(line[0], 16)
    assert prog.symbol(int(line[0], 16) + 1).name == "veth_xmit"


@pytest.mark.parametrize("command", ["sys", "ps", "runq", "net", "vm 1", "files 1", "kmem -i", "kmem -s", "kmem -V", "irq", "timer", "log", "bt 2", "task 1"])
def test_crashs_commands(prog, still, command):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run_command(prog, f"crash {command}")
    assert len(printed.getvalue()) > 50

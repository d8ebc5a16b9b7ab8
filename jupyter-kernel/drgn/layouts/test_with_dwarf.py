"""What drgn does on klab's reader once it has a vmlinux with DWARF: source lines, locals, the types of all variables."""

import os

import drgn
import pytest
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.sched import cpu_curr


@pytest.fixture(scope="module")
def prog(run, kernel, by_btf):
    by_btf.load_debug_info([run("vmlinux", "--kernel", kernel).strip()])
    return by_btf


def test_source_lines(prog):
    assert "kernel/sched/core.c" in str(prog.source_location(prog.symbol("schedule").address))
    named = {frame.name: frame for frame in prog.stack_trace(2)}
    assert named["kthreadd"].source()[0].endswith("kernel/kthread.c")


def test_locals_of_frames(prog):
    frames = {frame.name: frame for frame in prog.stack_trace(1)}
    assert "sched_mode" in frames["__schedule"].locals()
    assert frames["context_switch"]["prev"].pid.value_() == 1


def test_variables_without_a_type_in_btf(prog):
    assert prog["rcu_state"].gp_seq.value_() > 0
    assert prog["jiffies"].value_() > 0


def test_drgn_alone_traces_the_cpus_of_a_dump(run, kernel, by_btf, tmp_path):
    core = tmp_path / "core"
    run("dump", f"layouts-{os.getpid()}", str(core))
    prog = drgn.Program()
    prog.set_core_dump(core)
    prog.load_debug_info([run("vmlinux", "--kernel", kernel).strip()])
    for cpu in 0, 1:
        # Its registers are in the file, and are those of this CPU: its stack pointer or its per-CPU area says so.
        task = cpu_curr(prog, cpu)
        frames = prog.stack_trace(task)
        assert len(frames) > 0
        current = per_cpu(prog["current_task"], cpu) if "current_task" in prog else None
        assert current is None or current == task
        sp, stack = frames[0].sp, task.stack.value_()
        user = frames[0].pc < 1 << 47
        assert user or stack <= sp < stack + (16 << 10) or frames[0].interrupted


def test_a_variable_is_what_the_compiler_says_whatever_klab_declares(prog):
    declared = drgn.Object(prog, "int", address=prog.symbol("nr_swapfiles").address)
    prog.register_object_finder("of klab's rank", lambda *_: declared, enable_index=-1)
    assert prog["nr_swapfiles"].type_.type_name() == "unsigned int"
    assert prog["no_such_variable"].type_.type_name() == "int"
    prog.set_enabled_object_finders([name for name in prog.enabled_object_finders() if name != "of klab's rank"])
    names = prog.enabled_object_finders()
    assert names.index("dwarf") < names.index("klab")


def test_each_symbol_is_there_once(prog):
    names = [symbol.name for symbol in prog.symbols("schedule")]
    assert names == ["schedule"]
    assert prog.symbol("schedule").binding == drgn.SymbolBinding.GLOBAL

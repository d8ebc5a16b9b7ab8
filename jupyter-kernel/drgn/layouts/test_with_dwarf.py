"""What drgn does on klab's reader once it has a vmlinux with DWARF: source lines, locals, the types of all variables."""

import pytest


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

"""`klab set`: in a shell, as a `%` line, as the cell that `--code` prints; what is refused; who is told."""

import json
import os
import subprocess

import pytest

from conftest import Kernel


def test_a_write_is_made_shown_and_told_until_the_reset(shell, guest):
    assert "changed by hand" not in shell("status", guest).stdout
    said = shell("set", "*(int *)&vm_swappiness", "7", "--json")
    assert said.returncode == 0, said.stderr
    change = json.loads(said.stdout)
    assert (change["old"], change["new"], change["ty"]) == (60, 7, "int"), change
    assert shell("run", guest, "--", "cat", "/proc/sys/vm/swappiness").stdout == "7\n"
    for value in ["hello", '"hello"']:
        assert '"hello"; the guest is changed by hand until' in shell("set", "init_task.comm", value).stdout
    assert '"hello"' in shell("eval", "init_task.comm").stdout
    assert "changed by hand, 3 times" in shell("status", guest).stdout
    assert shell("reset", guest).returncode == 0
    assert "changed by hand" not in shell("status", guest).stdout
    assert shell("run", guest, "--", "cat", "/proc/sys/vm/swappiness").stdout == "60\n"


def test_what_is_refused_is_one_sentence(shell, guest):
    for words, says in [
        (["init_task.prio", "3000000000"], "takes -2147483648 to 2147483647"),
        (["init_task.comm", "a_word_of_twenty_one_"], "15 bytes and its NUL"),
        (["init_task", "1"], "takes no number"),
        (["1 + 1", "1"], "lies nowhere"),
        (["vm_swappiness", "1"], "cast its address"),
        (["*(int *)&vfs_read", "1"], "is code"),
        (["init_task.prio", "no such ("], ""),
    ]:
        said = shell("set", *words)
        assert said.returncode == 1 and says in said.stderr, said
    assert json.loads(shell("status", guest, "--json").stdout)[0]["writes"] == []


def test_the_line_and_the_cell_do_the_same(shell, guest):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    try:
        line = kernel.run('%set init_task.comm "by a line"')
        assert line.error is None and "by a line" in line.value["text/plain"], line.published
        code = shell("set", "init_task.comm", "by_a_cell", "--code").stdout
        cell = kernel.run(code)
        assert cell.error is None and '"by a line" -> "by_a_cell"' in cell.value["text/plain"], cell.published
    finally:
        kernel.stop()
    assert '"by_a_cell"' in shell("eval", "init_task.comm").stdout


def test_a_call_returns_and_is_told(shell, guest):
    assert shell("reset", guest).returncode == 0
    said = shell("call", "kallsyms_lookup_name", '"init_task"', "--json")
    assert said.returncode == 0, said.stderr
    done = json.loads(said.stdout)
    line = shell("run", guest, "--", "grep", "-w", "init_task", "/proc/kallsyms").stdout
    assert done["value"] == int(line.split()[0], 16), (done, line)
    assert 'strlen(s = "four") returned 4 (' in shell("call", "strlen", '"four"').stdout
    assert "changed by hand, 2 times" in shell("status", guest).stdout
    fault = shell("call", "strlen", "0")
    assert fault.returncode == 1 and "NULL pointer dereference" in fault.stderr, fault
    code = shell("call", "strlen", '"four"', "--code").stdout
    kernel = Kernel(env={"KLAB_GUEST": guest})
    try:
        cell = kernel.run(code)
        assert cell.error is None and "returned 4" in cell.value["text/plain"], cell.published
    finally:
        kernel.stop()
    assert shell("reset", guest).returncode == 0

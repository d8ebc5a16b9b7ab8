"""`klab ftrace`: in a shell, as a `%` line, as the cell that `--code` prints, interrupted and killed."""

import json
import os
import signal
import subprocess
import time

import pytest

from conftest import Kernel

DD = ["sh", "-c", "dd if=/dev/zero of=/tmp/dd bs=5000 count=3 2>/dev/null"]
FTRACE = ["ftrace", "vfs_write", "--if", 'comm == "dd" && count == 5000', "--within", "100"]


def test_every_view_has_the_calls(shell, tmp_path):
    file = tmp_path / "trace.json"
    said = shell(*FTRACE, "--json", "--perfetto", file, "--", *DD)
    assert said.returncode == 0, said.stderr
    traced = json.loads(said.stdout)
    assert traced["ended"] == "command" and len(traced["calls"]) == 3, traced
    for call in traced["calls"]:
        values = {one["name"]: one["value"] for one in call["args"]}
        assert (call["comm"], values["count"], call["returned"]) == ("dd", 5000, {"value": 5000})
        assert call["duration"] > 0 and call["tgid"] == call["pid"]
    events = json.loads(file.read_text())["traceEvents"]
    assert [one["name"] for one in events if one["ph"] == "X"] == ["vfs_write"] * 3
    said = shell(*FTRACE, "--", *DD)
    assert "count=5000" in said.stdout and "3 calls of 1 function" in said.stdout, said
    latencies = shell(*FTRACE, "--view", "latencies", "--", *DD).stdout
    assert "on average" in latencies and "vfs_write" in latencies, latencies
    assert "3 vfs_write by dd" in shell(*FTRACE, "--view", "counts", "--", *DD).stdout
    tree = shell("ftrace", "ksys_write", "vfs_write", *FTRACE[2:], "--view", "tree", "--json", "--", *DD)
    depths = [depth for depth, _ in json.loads(tree.stdout)["calls"]]
    assert depths == [0, 1] * 3, tree


def test_tracepoints_have_their_views(shell, tmp_path):
    file = tmp_path / "trace.json"
    words = ["ftrace", "sched_switch", "vfs_write", "--within", "100"]
    said = shell(*words, "--read", "next->prio", "--perfetto", file, "--json", "--", *DD)
    assert said.returncode == 0, said.stderr
    switches = [call for call in json.loads(said.stdout)["calls"] if call["point"]]
    assert switches and all(call["function"] == "sched:sched_switch" for call in switches), said.stdout
    for call in switches:
        members = {one["name"]: one["value"] for one in call["members"]}
        assert set(members) == {"next->prio", "prev->comm", "prev->pid", "next->comm", "next->pid"}
        assert members["prev->pid"] == call["pid"] and 0 <= members["next->prio"] <= 140
    events = json.loads(file.read_text())["traceEvents"]
    assert {one["ph"] for one in events} >= {"M", "X", "i"}
    assert "CPUs" in {one["args"]["name"] for one in events if one["ph"] == "M"}
    timeline = shell(*words, "--view", "timeline", "--", *DD)
    assert "SWITCHES" in timeline.stdout and "on 2 CPUs" in timeline.stdout, timeline
    slices = json.loads(shell(*words, "--view", "timeline", "--json", "--", *DD).stdout)["slices"]
    assert any(one["comm"] == "dd" for one in slices), slices
    stacks = shell("ftrace", "sched_switch", "--view", "stacks", "--if", 'comm == "dd"', "--", *DD)
    assert "__schedule+" in stacks.stdout, stacks
    none = shell("ftrace", "sched_switch", "--if", "next->pid == 123456", "--", *DD)
    assert "0 events of 1 tracepoint" in none.stdout, none


def test_what_is_not_there_is_said(shell):
    for words, says in [
        (["no_such_function"], "put into all its callers"),
        (["no_such_*"], "no function of the kernel that ftrace can hook"),
        (["ktime_get_mono_fast_ns"], "ftrace cannot hook"),
        (["*"], "more than 1024 functions"),
        (["tracepoint:no_such"], "no tracepoint is called no_such"),
        (["consume_skb"], "say skb:consume_skb or function:consume_skb"),
        (["sched_switch", "--read", "nxt->prio"], "nothing that is traced has the argument of `nxt->prio`"),
        (["vfs_read", "--view", "timeline"], "trace `sched_switch`, too"),
        (["vfs_read", "--if", "cuont > 1"], "vfs_read has file, buf, count, pos, retval"),
    ]:
        said = shell("ftrace", *words, "--within", "1")
        assert said.returncode == 1 and says in said.stderr, said


def test_ctrl_c_shows_the_calls_and_no_hook_stays(klab, guest, shell):
    env = {**os.environ, "KLAB_GUEST": guest}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    loop = ["sh", "-c", "while true; do dd if=/dev/zero of=/tmp/dd bs=5000 count=1 2>/dev/null; done"]
    hooked = ["run", guest, "--", "cat", "/sys/kernel/tracing/enabled_functions"]
    for sent, code in [(signal.SIGINT, 130), (signal.SIGKILL, -9)]:
        with subprocess.Popen([klab, *FTRACE, "--", *loop], env=env, **pipes) as trace:
            for _ in range(600):
                if "vfs_write" in shell(*hooked).stdout:
                    break
                time.sleep(0.1)
            time.sleep(2)
            trace.send_signal(sent)
            out, err = trace.communicate(timeout=60)
        assert trace.returncode == code, err
        assert code < 0 or "count=5000" in out and "interrupted" in out, out
        for _ in range(300):
            if shell(*hooked).stdout == "":
                break
            time.sleep(0.1)
        assert shell(*hooked).stdout == ""
        assert shell("run", guest, "--", "sh", "-c", "killall dd; echo on").stdout == "on\n"


def test_lines_and_codes_are_the_same_in_a_notebook(shell, guest):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    try:
        for view in ["calls", "tree", "latencies", "counts"]:
            words = [*FTRACE, "--view", view, "--", *DD]
            code = shell(words[0], "--code", *words[1:])
            assert code.returncode == 0, code.stderr
            line = "%" + " ".join(f"'{word}'" if set(word) & set(" ;'\"&") else word for word in words)
            for source in (code.stdout, line):
                cell = kernel.run(source)
                assert cell.error is None, (source, cell.error)
                assert "vfs_write" in cell.value["text/plain"], cell.value
        for view in ["timeline", "stacks"]:
            words = ["ftrace", "sched_switch", "--read", "next->prio", "--view", view, "--within", "100", "--", *DD]
            code = shell(words[0], "--code", *words[1:])
            assert code.returncode == 0, code.stderr
            line = "%" + " ".join(f"'{word}'" if set(word) & set(" ;'\"&>") else word for word in words)
            for source in (code.stdout, line):
                cell = kernel.run(source)
                assert cell.error is None, (source, cell.error)
                face = {"timeline": "image/svg+xml", "stacks": "text/html"}[view]
                assert face in cell.value, cell.value
        cell = kernel.run(
            'guest.trace(["vfs_write"])?.when("count == 5000")'
            f".during(|| {{ guest.agent()?.output(&{json.dumps(DD)})?; Ok(()) }})?.calls.len()"
        )
        assert cell.value["text/plain"] == "3", cell
    finally:
        kernel.stop()

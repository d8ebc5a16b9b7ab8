"""The guest kept where it stopped, by `%` lines and by the front end's debugger, as JupyterLab asks for it."""

import json
import os
import signal
import subprocess
import time

import pytest

from conftest import Kernel

STAY = """%break vfs_write --stay --if 'current->comm == "dd" && count == 5000' --within 100 -- sh -c 'dd if=/dev/zero of=/tmp/dd bs=5000 count=3 2>/dev/null'"""


@pytest.fixture
def kernel(guest):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    yield kernel
    kernel.stop()


def state(shell, guest):
    return json.loads(shell("status", guest, "--json").stdout)[0]


def runs(shell, guest, within=20):
    """The guest runs, and its agent answers."""
    deadline = time.monotonic() + within
    while state(shell, guest)["state"] != "running":
        assert time.monotonic() < deadline, state(shell, guest)
        time.sleep(0.1)
    assert shell("run", guest, "--", "echo", "on").stdout == "on\n"


def text(kernel, line):
    cell = kernel.run(line)
    assert cell.error is None, (line, cell.error)
    return cell.value["text/plain"]


def test_lines_go_on_from_a_stop(kernel, shell, guest):
    nobody = kernel.run("%step").error
    assert "`%break FUNCTION --stay`" in nobody["evalue"], nobody
    at = text(kernel, STAY)
    assert "vfs_write+" in at and "count = 5000" in at and "=>" in at, at
    assert "struct file *" in text(kernel, "%args")
    assert "ksys_write" in text(kernel, "%where")
    # Everybody is told, and reads.
    assert "dd" in text(kernel, "%tasks | grep dd")
    began = time.monotonic()
    told = kernel.run("%%sh\necho never").error
    assert "stopped by a debugger" in told["evalue"] and "`%continue`" in told["evalue"], told
    outside = shell("run", guest, "--", "true")
    assert outside.returncode == 1 and "stopped by a debugger" in outside.stderr, outside
    assert time.monotonic() - began < 15
    assert state(shell, guest)["state"] == "paused"
    assert "dd" in shell("tasks").stdout
    # A Rust cell reads it, too.
    assert "true" in text(kernel, 'guest.tasks()?.iter().any(|task| task.comm == "dd")')
    before = text(kernel, "%where").splitlines()[0]
    after = text(kernel, "%step").splitlines()[0]
    assert before != after and "dd" in after, (before, after)
    assert "vfs_write+" in text(kernel, "%next")
    assert "vfs_write returned 5000" in text(kernel, "%finish")
    assert "count = 5000" in text(kernel, "%continue --within 100")
    assert text(kernel, "%resume") == f"{guest} is running\n"
    runs(shell, guest)
    assert shell("run", guest, "--", "stat", "-c", "%s", "/tmp/dd").stdout == "15000\n"


def test_codes_are_cells(kernel, shell, guest):
    code = text(kernel, STAY.replace("%break", "%break --code"))
    for cell, says in [
        (code, "count = 5000"),
        (text(kernel, "%args --code"), "struct file *"),
        (text(kernel, "%step --code"), "vfs_write+"),
        (text(kernel, "%next --code"), "vfs_write+"),
        (text(kernel, "%where --code"), "ksys_write"),
        (text(kernel, "%finish --code"), "vfs_write returned 5000"),
        (text(kernel, "%continue --code"), "count = 5000"),
    ]:
        assert says in text(kernel, cell), cell
    assert kernel.run("drop(stop);").error is None
    runs(shell, guest)


def test_a_write_stops_it_and_stop_is_a_stop(kernel, shell, guest):
    at = text(kernel, "%watch total_forks --within 100 -- sh -c 'true; ls'")
    assert "copy_process+" in at, at
    assert "copy_process+" in text(kernel, "%continue --within 100")
    # Nothing forks now: the square stops the guest where it is.
    request = kernel.client.execute("%continue --within 600")
    time.sleep(3)
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(request)
    assert cell.error is None and "on CPU" in cell.value["text/plain"], cell.error
    assert kernel.run("%guest resume").error is None
    runs(shell, guest)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_whatever_ends_the_notebook_the_guest_runs(klab, shell, guest, sent):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    text(kernel, STAY)
    os.kill(kernel.manager.provisioner.pid, sent)
    runs(shell, guest)
    kernel.stop()


class Debugger:
    """JupyterLab's side."""

    def __init__(self, kernel):
        self.kernel = kernel
        self.seq = 0

    def ask(self, command, ok=True, **arguments):
        self.seq += 1
        content = {"type": "request", "seq": self.seq, "command": command, "arguments": arguments}
        message = self.kernel.client.session.msg("debug_request", content)
        self.kernel.client.control_channel.send(message)
        while True:
            reply = self.kernel.client.get_control_msg(timeout=120)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                break
        assert reply["msg_type"] == "debug_reply"
        reply = reply["content"]
        assert (reply["request_seq"], reply["command"], reply["success"]) == (self.seq, command, ok), reply
        return reply.get("body") if ok else reply["message"]

    def event(self, name):
        while True:
            message = self.kernel.client.get_iopub_msg(timeout=120)
            if message["msg_type"] == "debug_event" and message["content"]["event"] == name:
                return message["content"]["body"]


def test_the_panes_of_a_front_end(kernel, shell, guest):
    kernel.client.kernel_info()
    info = kernel.client.get_shell_msg(timeout=60)["content"]
    assert info["debugger"] is True
    panes = Debugger(kernel)
    begin = panes.ask("debugInfo")
    assert begin["isStarted"] is False and begin["hashMethod"] == "Murmur2", begin
    assert panes.ask("initialize", clientID="jupyterlab", adapterID="")["supportsConditionalBreakpoints"]
    panes.event("initialized")
    panes.ask("attach")
    # A line of a cell that names a function is a breakpoint there.
    cell = '// vfs_write of dd\nlet a = 1;\n%%sh'
    path = panes.ask("dumpCell", code=cell)["sourcePath"]
    condition = 'current->comm == "dd" && count == 5000'
    lines = [{"line": 1, "condition": condition}, {"line": 2}]
    set_ = panes.ask("setBreakpoints", source={"path": path}, breakpoints=lines)["breakpoints"]
    assert [one["verified"] for one in set_] == [True, False], set_
    panes.ask("configurationDone")
    runs(shell, guest)
    assert panes.ask("debugInfo")["breakpoints"] == [{"source": path, "breakpoints": [{"line": 1}, {"line": 2}]}]
    dd = subprocess.Popen(
        [os.environ["KLAB"], "run", guest, "--", "sh", "-c", "dd if=/dev/zero of=/tmp/dd bs=5000 count=2 2>/dev/null"]
    )
    stopped = panes.event("stopped")
    assert stopped["threadId"] == 1 and stopped["reason"] == "function breakpoint", stopped
    assert panes.ask("debugInfo")["stoppedThreads"] == [1]

    threads = panes.ask("threads")["threads"]
    assert threads[0]["id"] == 1 and threads[0]["name"].endswith(" dd"), threads[0]
    init = next(one for one in threads if one["name"].startswith("1 "))
    frames = panes.ask("stackTrace", threadId=1)["stackFrames"]
    names = [frame["name"].split("+")[0] for frame in frames]
    assert names[:2] == ["vfs_write", "ksys_write"], names
    theirs = panes.ask("stackTrace", threadId=init["id"])["stackFrames"]
    assert any(frame["name"].startswith("schedule") for frame in theirs), theirs
    # The text of a frame: its instructions, the caller at its call.
    source = panes.ask("source", source={"path": frames[1]["source"]["path"]}, sourceReference=0)
    line = source["content"].splitlines()[frames[1]["line"] - 1]
    assert "call" in line and "vfs_write" in line, line

    scopes = {one["name"]: one for one in panes.ask("scopes", frameId=frames[0]["id"])["scopes"]}
    assert list(scopes) == ["Arguments", "Task", "Registers"], scopes
    of = lambda reference: {
        one["name"]: one for one in panes.ask("variables", variablesReference=reference)["variables"]
    }
    arguments = of(scopes["Arguments"]["variablesReference"])
    assert arguments["count"]["value"] == "5000" and arguments["count"]["variablesReference"] == 0, arguments
    file = of(arguments["file"]["variablesReference"])
    inode = of(file["f_inode"]["variablesReference"])
    assert "i_mode" in inode, list(inode)
    registers = of(scopes["Registers"]["variablesReference"])
    assert int(registers["rdx"]["value"], 16) == 5000, registers
    task = of(scopes["Task"]["variablesReference"])["current"]
    assert "dd" in of(task["variablesReference"])["comm"]["value"]
    assert panes.ask("evaluate", expression="count + 1", frameId=frames[0]["id"])["result"] == "5001"
    assert "no_such" in panes.ask("evaluate", ok=False, expression="no_such")

    # Steps: in, over, out.
    panes.ask("next", threadId=1)
    assert panes.event("stopped")["reason"] == "step"
    panes.ask("stepIn", threadId=1)
    panes.event("stopped")
    panes.ask("stepOut", threadId=1)
    panes.event("stopped")
    frames = panes.ask("stackTrace", threadId=1)["stackFrames"]
    # A breakpoint in the text of a frame.
    here = frames[0]
    at = panes.ask(
        "setBreakpoints", source={"path": here["source"]["path"]}, breakpoints=[{"line": here["line"] + 1}]
    )["breakpoints"]
    assert at[0]["verified"], at
    panes.ask("setBreakpoints", source={"path": here["source"]["path"]}, breakpoints=[])
    panes.ask("continue", threadId=1)
    panes.event("continued")
    assert panes.event("stopped")["reason"] == "function breakpoint"
    # The cells' own words are about the same stop.
    assert "count = 5000" in text(kernel, "%args") or "5000" in text(kernel, "%args")
    panes.ask("disconnect", restart=False, terminateDebuggee=True)
    runs(shell, guest)
    assert dd.wait(timeout=60) == 0
    assert panes.ask("debugInfo")["stoppedThreads"] == []
    assert "keeps no guest stopped" in panes.ask("threads", ok=False)


def test_a_pause_and_a_reset(kernel, shell, guest):
    panes = Debugger(kernel)
    panes.ask("initialize")
    panes.ask("attach")
    panes.ask("pause", threadId=1)
    assert panes.event("stopped")["reason"] == "pause"
    assert panes.ask("stackTrace", threadId=1)["stackFrames"] is not None
    assert shell("reset", guest).returncode == 0
    assert panes.ask("stackTrace", threadId=1, ok=False)
    runs(shell, guest)
    set_ = panes.ask("setFunctionBreakpoints", breakpoints=[{"name": "no_such_function"}, {"name": "vfs_read"}])
    assert [one["verified"] for one in set_["breakpoints"]] == [False, True], set_
    panes.event("stopped")
    panes.ask("setFunctionBreakpoints", breakpoints=[])
    panes.ask("continue", threadId=1)
    runs(shell, guest)

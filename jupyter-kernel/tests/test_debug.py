"""`klab break` and `klab who-writes`: in a shell, as `%` lines, as the cells that `--code` prints, and interrupted."""

import json
import os
import signal
import subprocess
import time

import pytest

from conftest import Kernel

DD = ["sh", "-c", "dd if=/dev/zero of=/tmp/dd bs=5000 count=2 2>/dev/null"]
BREAK = ["break", "vfs_write", "--if", 'current->comm == "dd" && count == 5000', "--within", "100"]
WHO = ["who-writes", "total_forks", "--within", "100"]


def test_calls_and_writes_are_shown(shell):
    said = shell(*BREAK, "--json", "--", *DD)
    assert said.returncode == 0, said.stderr
    calls = json.loads(said.stdout)
    assert calls["ended"] == "command" and len(calls["calls"]) == 2, calls
    for call in calls["calls"]:
        values = {one["name"]: one["value"] for one in call["args"]}
        assert (call["comm"], values["count"], call["returned"]) == ("dd", 5000, {"value": 5000})
    said = shell(*BREAK, "--", *DD)
    assert "count" in said.stdout and "2 calls of vfs_write" in said.stdout, said
    said = shell(*WHO, "--json", "--", "ls")
    write = json.loads(said.stdout)
    assert write["new"] == write["old"] + 1 and write["place"]["name"] == "copy_process", write
    assert "copy_process+" in shell(*WHO, "--", "ls").stdout


def test_what_is_not_there_is_one_sentence(shell):
    for words, says in [
        (["break", "no_such_function"], "put into all its callers"),
        (["break", "init_task"], "is no code"),
        (["who-writes", "init_task"], "watch a member of it"),
        (["who-writes", "1 + 1"], "computed value"),
        (["who-writes", "init_task.pid", "--within", "1"], "nothing wrote"),
    ]:
        said = shell(*words)
        assert said.returncode == 1 and says in said.stderr and said.stderr.count("\n") == 1, said


def test_ctrl_c_shows_the_calls_and_lets_the_guest_run(klab, guest, shell):
    env = {**os.environ, "KLAB_GUEST": guest}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    loop = ["sh", "-c", "while true; do dd if=/dev/zero of=/tmp/dd bs=5000 count=1 2>/dev/null; done"]
    for sent, code in [(signal.SIGINT, 130), (signal.SIGKILL, -9)]:
        with subprocess.Popen([klab, *BREAK, "--count", "1000", "--", *loop], env=env, **pipes) as watch:
            time.sleep(6)
            watch.send_signal(sent)
            out, err = watch.communicate(timeout=60)
        assert watch.returncode == code, err
        assert code < 0 or "vfs_write" in out and "interrupted" in out, out
        for _ in range(200):
            if json.loads(shell("status", guest, "--json").stdout)[0]["state"] == "running":
                break
            time.sleep(0.1)
        assert shell("run", guest, "--", "sh", "-c", "killall dd; echo on").stdout == "on\n"


def test_lines_and_codes_are_the_same_in_a_notebook(shell, guest):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    try:
        for words, says in [([*BREAK, "--", *DD], "2 calls of vfs_write"), ([*WHO, "--", "ls"], "copy_process+")]:
            code = shell(words[0], "--code", *words[1:])
            assert code.returncode == 0, code.stderr
            line = "%" + " ".join(f"'{word}'" if set(word) & set(" ;'\"&") else word for word in words)
            for source in (code.stdout, line):
                cell = kernel.run(source)
                assert cell.error is None, (source, cell.error)
                assert says in cell.value["text/plain"], cell.value
    finally:
        kernel.stop()

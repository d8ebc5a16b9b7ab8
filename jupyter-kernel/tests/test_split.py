"""The kernel without the program of the Rust cells, while that is built, and when it dies."""

import fcntl
import os
import signal
import time

import pytest
from conftest import Kernel, gone


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A kernel that has no such program."""
    kernel = Kernel(env={"KLAB_CELLS": str(tmp_path_factory.mktemp("none") / "klab-cells")})
    yield kernel
    kernel.stop()


def test_without_the_program_all_but_rust_works(small):
    assert "%tasks" in small.run("%help").value["text/plain"]
    assert "init" in small.run("%ps").value["text/plain"]
    cell = small.run("%%sh\nuname")
    assert cell.stream() == "Linux\n" and cell.reply["status"] == "ok"
    assert small.client.complete("%ta", reply=True, timeout=10)["content"]["matches"]
    assert small.client.complete("String::fr", reply=True, timeout=10)["content"]["matches"] == []
    # What is wrong with it is said all the same.
    assert small.run("let x = ;").reply["status"] == "error"


def test_a_rust_cell_says_what_to_do(small):
    for _ in range(2):
        cell = small.run("1 + 1")
        assert cell.reply["status"] == "error"
        said = cell.reply["evalue"]
        assert "klab-cells" in said and "`cargo xtask lab`" in said and "\n" not in said, said


@pytest.fixture
def build(tmp_path, klab):
    """A build that goes on until it is unlocked, in a cache of its own; the rest of the cache is the usual one."""
    usual = os.environ.get("KLAB_CACHE") or os.path.expanduser("~/.cache/klab")
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    for entry in os.listdir(usual):
        if entry not in ("sessions", "cells-build"):
            (cache / entry).symlink_to(os.path.join(usual, entry))
    file = open(cache / "cells-build", "w")
    fcntl.flock(file, fcntl.LOCK_EX)

    def say(text):
        file.truncate(0)
        file.seek(0)
        print(text, file=file, flush=True)

    say("it begins")
    kernel = Kernel(env={"KLAB_CACHE": str(cache)})
    yield kernel, say, file
    file.close()
    kernel.stop()


def test_a_rust_cell_waits_for_the_build_and_says_how_far_it_is(build):
    kernel, say, file = build
    request = kernel.client.execute("1 + 1")
    first = kernel.until(request, lambda m: m["msg_type"] == "display_data")["content"]
    assert "it begins" in first["data"]["text/plain"]
    say("103/206 crates (salsa)")
    update = kernel.until(request, lambda m: m["msg_type"] == "update_display_data")["content"]
    assert update["transient"] == first["transient"]
    assert "###" in update["data"]["text/plain"] and "<progress" in update["data"]["text/html"]
    file.close()
    assert kernel.finish(request).value["text/plain"] == "2"


def test_a_cell_that_waits_for_the_build_is_stopped(build):
    kernel, _, _ = build
    request = kernel.client.execute("1 + 1")
    kernel.until(request, lambda m: m["msg_type"] == "display_data")
    kernel.manager.interrupt_kernel()
    assert kernel.finish(request).reply["ename"] == "Interrupted"
    assert "init" in kernel.run("%ps").value["text/plain"]


def test_a_cell_that_waits_for_the_start_is_stopped_and_the_next_one_runs():
    kernel = Kernel()
    request = kernel.client.execute("1 + 1")
    # Where the start is quicker than this, the cell has run.
    time.sleep(0.5)
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(request)
    assert cell.reply["status"] == "ok" or cell.reply["ename"] == "Interrupted"
    assert kernel.run("2 + 2").value["text/plain"] == "4"
    kernel.stop()


def test_a_program_that_is_killed_is_an_error_and_the_next_cell_starts_another(kernel):
    kernel.run("let lost = 1;")
    session = kernel.cells()
    request = kernel.client.execute('println!("running"); loop { check_interrupt(); }')
    kernel.until(request, lambda m: m["msg_type"] == "stream")
    os.kill(session, signal.SIGKILL)
    cell = kernel.finish(request)
    assert cell.reply["ename"] == "ProcessDied" and "next cell" in cell.reply["evalue"], cell.reply
    assert kernel.run("1 + 1").value["text/plain"] == "2"
    assert kernel.run("lost").reply["ename"] == "E0425"
    # Between cells too.
    session = kernel.cells()
    os.kill(session, signal.SIGKILL)
    assert gone(session)
    cell = kernel.run("2 + 2")
    assert cell.error is None and cell.value["text/plain"] == "4", cell.error


def test_both_kinds_of_cells_share_one_drgn(kernel):
    assert kernel.run("%%drgn\nanswer = 42").reply["status"] == "ok"
    assert kernel.run('guest.drgn()?.eval("answer")?').value["text/plain"] == "Number(42)"

"""Interrupt, restart, and a process that dies: the kernel lives on."""

import os
import signal
import time

from conftest import Kernel


def interrupt(kernel, code):
    """Runs a cell that says when it runs, interrupts it, and says how long that took."""
    request = kernel.client.execute('println!("running");\n' + code)
    kernel.until(request, lambda m: m["msg_type"] == "stream" and "running" in m["content"]["text"])
    start = time.monotonic()
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(request)
    return cell, time.monotonic() - start


def test_a_loop_of_the_library_stops_and_variables_are_kept(kernel):
    kernel.run("let kept = 41;")
    cell, took = interrupt(kernel, "loop { check_interrupt(); }")
    assert cell.reply["ename"] == "Interrupted" and "kept" in cell.reply["evalue"]
    assert took < 0.5
    assert kernel.run("kept + 1").value["text/plain"] == "42"


def test_a_runaway_loop_is_killed_within_a_second(kernel):
    kernel.run("let lost = 1; fn double(x: i32) -> i32 { 2 * x }")
    cell, took = interrupt(kernel, "loop { std::hint::spin_loop(); }")
    assert cell.reply["ename"] == "Interrupted" and "lost" in cell.reply["evalue"]
    assert took < 1.0
    assert kernel.run("lost").reply["ename"] == "E0425"
    assert kernel.run("double(21)").value["text/plain"] == "42"
    # The prelude is in place again: panics are errors, loops can be interrupted.
    assert kernel.run('panic!("seen")').reply["ename"] == "Panic"


def test_an_interrupt_between_cells_stops_nothing(kernel):
    kernel.run("1")
    kernel.manager.interrupt_kernel()
    time.sleep(0.2)
    assert kernel.run("check_interrupt(); 2").value["text/plain"] == "2"


def test_a_process_that_dies_is_said_in_one_sentence(kernel):
    cell = kernel.run("std::process::abort()")
    assert cell.reply["ename"] == "ProcessDied" and "SIGABRT" in cell.reply["evalue"]
    assert kernel.run("1 + 1").value["text/plain"] == "2"
    cell = kernel.run("unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) }")
    assert cell.reply["ename"] == "ProcessDied" and "segmentation fault" in cell.reply["evalue"]
    assert kernel.run("2 + 2").value["text/plain"] == "4"


def child(kernel):
    return int(kernel.run("std::process::id()").value["text/plain"])


def test_a_process_that_is_killed_comes_back(kernel):
    for _ in range(3):
        request = kernel.client.execute('println!("running"); loop { std::thread::yield_now(); }')
        pid = None
        kernel.until(request, lambda m: m["msg_type"] == "stream")
        pid = pid_of_cells(kernel)
        os.kill(pid, signal.SIGKILL)
        assert kernel.finish(request).reply["ename"] == "ProcessDied"
        assert kernel.run("1 + 1").value["text/plain"] == "2"


def pid_of_cells(kernel):
    """The child of the kernel that runs the cells: the one that was started with KLAB_CELL."""
    parent = kernel.manager.provisioner.pid
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = open(f"/proc/{pid}/stat").read()
            if int(stat.rsplit(")", 1)[1].split()[1]) == parent and b"KLAB_CELL=" in open(f"/proc/{pid}/environ", "rb").read():
                return int(pid)
        except OSError:
            pass
    raise AssertionError("the kernel has no process for cells")


def gone(pid, within=5):
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_restart_begins_anew(kernel):
    kernel.run("let before = 1;")
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=60)
    assert kernel.run("before").reply["ename"] == "E0425"
    assert kernel.run("1 + 1").value["text/plain"] == "2"


def test_nothing_outlives_a_killed_kernel():
    kernel = Kernel()
    kernel.run("1")
    request = kernel.client.execute('println!("running"); loop {}')
    kernel.until(request, lambda m: m["msg_type"] == "stream")
    cells = pid_of_cells(kernel)
    os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)
    assert gone(cells)
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def test_shutdown_ends_a_running_cell_and_leaves_no_folder():
    kernel = Kernel()
    kernel.run("1")
    sessions = os.path.join(os.environ.get("KLAB_CACHE") or os.path.expanduser("~/.cache/klab"), "sessions")
    folder = dict(
        entry.split(b"=", 1)
        for entry in open(f"/proc/{kernel.manager.provisioner.pid}/environ", "rb").read().split(b"\0")
        if b"=" in entry
    )[b"KLAB_SESSION"].decode()
    assert os.path.isdir(folder) and folder.startswith(sessions)
    kernel.client.execute("loop {}")
    time.sleep(1)
    cells = pid_of_cells(kernel)
    kernel.stop()
    assert gone(cells)
    assert not os.path.exists(folder)

"""Interrupt, restart, and a process that dies: the kernel lives on."""

import os
import random
import signal
import subprocess
import time

from conftest import KERNEL, Kernel, gone, session_of
from jupyter_client.manager import KernelManager

#: Rounds of the tests that kill at random points: more than a few take a quarter of an hour.
ROUNDS = int(os.environ.get("KLAB_TEST_KILLS", "3"))


def interrupt(kernel, code):
    """Runs a cell that says when it runs and then for ever, and interrupts it."""
    request = kernel.client.execute('println!("running");\n' + code)
    kernel.until(request, lambda m: m["msg_type"] == "stream" and "running" in m["content"]["text"])
    kernel.manager.interrupt_kernel()
    return kernel.finish(request)


def test_a_loop_of_the_library_stops_and_variables_are_kept(kernel):
    kernel.run("let kept = 41;")
    cell = interrupt(kernel, "loop { check_interrupt(); }")
    assert cell.reply["ename"] == "Interrupted" and "kept" in cell.reply["evalue"]
    assert kernel.run("kept + 1").value["text/plain"] == "42"


def test_a_wait_for_the_agent_stops_and_variables_are_kept(kernel):
    kernel.run("let kept = 41;")
    for wait in ['guest.agent()?.shell("sleep 100")?.text()', 'guest.agent()?.shell("sleep 100").unwrap().text()']:
        cell = interrupt(kernel, wait)
        assert cell.reply["ename"] == "Interrupted" and "kept" in cell.reply["evalue"], cell.error
    assert kernel.run("kept + 1").value["text/plain"] == "42"
    # What waited in the guest is gone with it.
    time.sleep(0.5)
    assert kernel.run('guest.tasks()?.iter().filter(|task| task.comm == "sleep").count()').value["text/plain"] == "0"


#: Ways for a cell to end its process, or to need that, and what is said.
ENDS = {
    "loop { std::hint::spin_loop(); }": "Interrupted",
    'loop { println!("running"); std::thread::sleep(std::time::Duration::from_millis(1)); }': "Interrupted",
    "loop { std::hint::black_box(vec![0_u8; 1 << 16]); }": "Interrupted",
    "let mut more = kept.clone(); loop { more.push(1); more.truncate(100); }": "Interrupted",
    "unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) }": "segmentation fault",
    "std::process::abort()": "ProcessDied",
    "std::process::exit(3)": "ProcessDied",
    "fn deep(n: u64) -> u64 { std::hint::black_box([n; 512]); 1 + deep(n + 1) } deep(kept[0] as u64)": "ProcessDied",
}


def test_what_ends_the_process_leaves_the_variables(kernel):
    kernel.run("let mut kept = vec![40, 1]; fn double(x: i32) -> i32 { 2 * x }")
    before = child(kernel)
    for code, said in ENDS.items():
        kernel.run("kept[1] += 1; // counted")
        cell = interrupt(kernel, code) if said == "Interrupted" else kernel.run(code)
        told = cell.reply["ename"] + cell.reply["evalue"]
        assert said in told and "kept as they were" in told, (code, cell.error)
        assert cell.stream().count("counted") == 0
    # Each of the cells before it has counted, in whichever process.
    assert kernel.run("double(kept[0] + kept[1])").value["text/plain"] == str(2 * (41 + len(ENDS)))
    assert child(kernel) != before
    # The copy has all that the prelude set up: panics are errors, loops can be interrupted, its stdin is the user's.
    assert kernel.run('panic!("seen")').reply["ename"] == "Panic"
    assert "kept" in interrupt(kernel, "loop { check_interrupt(); }").reply["evalue"]
    assert kernel.run("guest.task(1)?.comm").value["text/plain"] == '"init"'
    kernel.run("let added = kept.len();")
    assert kernel.run("added + 1").value["text/plain"] == "3"
    assert len([pid for pid, environ in everyone(kernel) if b"KLAB_CELL" in environ]) == 1


def parent(pid):
    return int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])


def test_how_the_process_died_is_said():
    for code, said in {"std::process::abort()": "SIGABRT", "std::process::exit(3)": "exit status: 3"}.items():
        kernel = Kernel()
        kernel.run("let kept = 41;")
        told = kernel.run(code).reply["evalue"]
        assert said in told and "kept as they were" in told
        # A gentle stop is one in the copy, too.
        cell = interrupt(kernel, "loop { check_interrupt(); }")
        assert cell.reply["evalue"] == "the cell was stopped; its variables are kept"
        assert kernel.run("kept + 1").value["text/plain"] == "42"
        kernel.stop()


def everyone(kernel):
    """All processes of the kernel's session, with their environment."""
    folder = session_of(kernel.manager.provisioner.pid)[1][b"KLAB_SESSION"].decode()
    for pid in of_session(folder):
        try:
            if "Z" not in open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]:
                yield pid, open(f"/proc/{pid}/environ", "rb").read()
        except OSError:
            pass


def test_with_threads_of_its_own_the_process_ends_with_its_variables(kernel):
    kernel.run("let lost = 1; fn double(x: i32) -> i32 { 2 * x }")
    kernel.run("std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(1000)));")
    cell = interrupt(kernel, "loop { std::hint::spin_loop(); }")
    assert cell.reply["ename"] == "Interrupted" and "lost" in cell.reply["evalue"]
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
    for _ in range(ROUNDS):
        request = kernel.client.execute('println!("running"); loop { std::thread::yield_now(); }')
        kernel.until(request, lambda m: m["msg_type"] == "stream")
        time.sleep(random.uniform(0, 0.3))
        pid = pid_of_cells(kernel)
        os.kill(pid, signal.SIGKILL)
        assert kernel.finish(request).reply["ename"] == "ProcessDied"
        assert kernel.run("1 + 1").value["text/plain"] == "2"


def pid_of_cells(kernel):
    """The process that runs the cells: of those that were started with KLAB_CELL the one that is no copy of another."""
    cells = [pid for pid, environ in everyone(kernel) if b"KLAB_CELL" in environ]
    runs = [pid for pid in cells if parent(pid) not in cells]
    assert len(runs) == 1, f"the kernel has {cells} for cells"
    return runs[0]


def test_restart_begins_anew(kernel):
    kernel.run("let before = 1;")
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=60)
    assert kernel.run("before").reply["ename"] == "E0425"
    assert kernel.run("1 + 1").value["text/plain"] == "2"


def test_nothing_outlives_a_killed_kernel():
    kernel = Kernel()
    # Behind the first cell that was compiled a rustc waits for the next one.
    kernel.run("let compiled = std::process::id();")
    request = kernel.client.execute('println!("running"); loop {}')
    kernel.until(request, lambda m: m["msg_type"] == "stream")
    cells = pid_of_cells(kernel)
    session, environ = session_of(kernel.manager.provisioner.pid)
    folder = environ[b"KLAB_SESSION"].decode()
    os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)
    assert gone(cells) and gone(session) and not os.path.exists(folder)
    deadline = time.monotonic() + 5
    while left := of_session(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def of_session(folder):
    """The processes that were started with the folder of a session."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if f"KLAB_SESSION={folder}".encode() in open(f"/proc/{pid}/environ", "rb").read().split(b"\0"):
                found.append(int(pid))
        except OSError:
            pass
    return found


def test_a_kernel_killed_while_it_starts_leaves_nothing_and_the_next_one_works(klab):
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        manager = KernelManager(kernel_name=KERNEL)
        manager.start_kernel()
        pid = manager.provisioner.pid
        folder = session_of(pid)[1][b"KLAB_SESSION"].decode()
        time.sleep(chance.uniform(0, 12))
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5
        # The manager has not yet waited for the kernel itself.
        while set(of_session(folder)) - {pid} and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not set(of_session(folder)) - {pid}
        manager.shutdown_kernel(now=True)
        subprocess.run([klab, "ps", "--json"], check=True, stdout=subprocess.DEVNULL)
    kernel = Kernel()
    assert kernel.run("guest.task(1)?.comm").value["text/plain"] == '"init"'
    assert not os.path.exists(folder)
    kernel.stop()


def test_shutdown_ends_a_running_cell_and_leaves_no_folder():
    kernel = Kernel()
    kernel.run("1")
    sessions = os.path.join(os.environ.get("KLAB_CACHE") or os.path.expanduser("~/.cache/klab"), "sessions")
    folder = session_of(kernel.manager.provisioner.pid)[1][b"KLAB_SESSION"].decode()
    assert os.path.isdir(folder) and folder.startswith(sessions)
    sockets = os.readlink(f"{folder}/sockets")
    kernel.client.execute("loop {}")
    time.sleep(1)
    cells = pid_of_cells(kernel)
    kernel.stop()
    assert gone(cells)
    assert not os.path.exists(folder) and not os.path.exists(sockets)

"""Modules of cells that misbehave, and their interrupts; what goes into a guest and comes out of it."""

import hashlib
import os
import stat
import subprocess
import time

import pytest

from conftest import Kernel

MODULE = """use kernel::prelude::*;
module! {{ type: M, name: "{name}", authors: ["t"], description: "d", license: "GPL"{more} }}
struct M;
impl kernel::Module for M {{
    fn init(_module: &'static ThisModule) -> Result<Self> {{
        {init}
    }}
}}
impl Drop for M {{
    fn drop(&mut self) {{
        {drop}
    }}
}}
"""


def module(name, init="Ok(M)", drop="", line="", more=""):
    return f"%%kmod {line}\n" + MODULE.format(name=name, init=init, drop=drop, more=more)


@pytest.fixture(scope="module")
def guest(klab):
    name = f"kmod-{os.getpid()}"
    subprocess.run([klab, "up", name], check=True)
    # So that no test's patience is spent on the compilers.
    subprocess.run([klab, "kmod", "build", "--guest", name], check=True)
    yield name
    subprocess.run([klab, "down", name], check=True)


@pytest.fixture(scope="module")
def kernel(guest):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    yield kernel
    kernel.stop()


@pytest.fixture
def shell(klab, guest):
    def run(*words, **options):
        options.setdefault("stdin", subprocess.DEVNULL)
        env = {**os.environ, "KLAB_GUEST": guest}
        return subprocess.run([klab, *words], capture_output=True, env=env, timeout=120, **options)

    return run


def loaded(shell, guest):
    """Names and states, by the guest itself."""
    lines = shell("run", guest, "--", "cat", "/proc/modules").stdout.decode().splitlines()
    return {line.split()[0]: line.split()[4] for line in lines}


def step(text):
    return lambda m: m["msg_type"] == "stream" and text in m["content"]["text"]


def text_of(cell):
    shown = cell.value or (cell.of("display_data") or [{"data": {}}])[0]["data"]
    return shown.get("text/plain", "")


def test_the_log_and_the_warnings_of_a_module_are_shown(kernel, shell, guest):
    more = ', params: { answer: i64 { default: 7, description: "x", }, }'
    init = 'let unused = 5; pr_info!("answer {}\\n", module_parameters::answer.value()); Ok(M)'
    cell = kernel.run(module("gcwarn", init, 'pr_info!("goodbye\\n");', "answer=-9", more))
    assert cell.error is None, cell.error
    assert "gcwarn: answer -9" in text_of(cell)
    assert "unused variable" in cell.stream("stderr") and "--> cell:" in cell.stream("stderr")
    assert "goodbye" in text_of(kernel.run("%kmod unload gcwarn"))
    assert "gcwarn" not in loaded(shell, guest)
    # The kernel's own parser sees one parameter, and says what is wrong with it.
    cell = kernel.run(module("gcwarn", init, "", 'answer="9 8"', more))
    assert "9 8' invalid for parameter `answer'" in cell.stream("stderr") and "EINVAL" in cell.error["evalue"]
    cell = kernel.run(module("gcwarn", line=guest))
    assert f"--guest {guest}" in cell.error["evalue"]


def test_a_log_longer_than_the_ring_says_what_is_gone(kernel):
    init = 'for i in 0..30000 { pr_info!("line number {}\\n", i); } Ok(M)'
    text = text_of(kernel.run(module("gclong", init)))
    assert "were overwritten before they could be read" in text and "more records before these 100" in text
    assert "line number 29999" in text


def test_an_interrupt_while_it_is_built_loads_nothing(kernel, shell, guest):
    request = kernel.client.execute(module("gcstopped"))
    kernel.until(request, step("building the module gcstopped"))
    time.sleep(1)
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(request)
    assert cell.error["ename"] == "Interrupted" and "was stopped" in cell.error["evalue"]
    time.sleep(3)
    assert "gcstopped" not in loaded(shell, guest)


def test_a_command_of_the_guest_is_ended_by_an_interrupt(kernel):
    request = kernel.client.execute("%%sh\necho begun; sleep 100")
    kernel.until(request, step("begun"))
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(request)
    assert cell.error["ename"] == "Interrupted" and "ended in the guest" in cell.error["evalue"]


def test_who_uses_a_module_is_said(shell, guest, klab):
    shell("run", guest, "--", "modprobe", "tun")
    holder = subprocess.Popen(
        [klab, "run", guest, "--", "sh", "-c", "exec 3<>/dev/net/tun; echo open; exec sleep 100"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"open\n"
    said = shell("kmod", "unload", "tun").stderr.decode()
    holder.kill()
    holder.wait()
    assert "tun is in use" in said and "uses " in said and "sleep (" in said and "/dev/net/tun open" in said


def test_the_status_of_a_paused_guest_is_not_that_none_is_up(shell):
    shell("pause")
    said = shell("kmod", "status").stdout.decode()
    shell("resume")
    assert "the module is not loaded" in said


def test_a_panic_of_an_init_is_said_at_once_and_all_goes_on(kernel, shell, guest):
    cell = kernel.run(module("gcpanic", "let v = KVec::<u8>::new(); let x = *v.first().unwrap(); pr_info!(\"{x}\"); Ok(M)"))
    said = cell.error["evalue"]
    assert "it panicked at cell:7:" in said and "`None` value" in said and "stuck in the state Loading" in said, said
    assert loaded(shell, guest)["gcpanic"] == "Loading"
    cell = kernel.run(module("gcpdrop", drop="let v = KVec::<u8>::new(); let x = v[3]; pr_info!(\"{x}\");"))
    assert cell.error is None, cell.error
    said = kernel.run("%kmod unload gcpdrop").error["evalue"]
    assert "it panicked at" in said and "stuck in the state Unloading" in said, said


def test_an_init_without_end_is_named_when_it_is_left(kernel, shell, guest):
    init = "let mut n = 0_u64; loop { n = core::hint::black_box(n) + 1; if n == 0 { break; } } Ok(M)"
    request = kernel.client.execute(module("gcloop", init))
    kernel.until(request, step("init of gcloop has not returned yet"))
    assert shell("run", guest, "--", "echo", "meanwhile").stdout == b"meanwhile\n"
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(request)
    assert cell.error["ename"] == "Interrupted" and "init of gcloop still runs" in cell.error["evalue"]
    assert loaded(shell, guest)["gcloop"] == "Loading"
    assert shell("status", guest).stdout.decode().count("running") == 1
    assert shell("reset", guest).returncode == 0
    assert "gcloop" not in loaded(shell, guest)


def test_the_input_of_a_command_comes_from_a_file_a_pipe_and_a_terminal(shell, guest, klab, tmp_path):
    data = os.urandom(50 << 20)
    path = tmp_path / "data"
    path.write_bytes(data)
    wanted = hashlib.sha256(data).hexdigest()
    with path.open("rb") as file:
        assert shell("run", guest, "--", "sha256sum", stdin=file).stdout.decode() == f"{wanted}  -\n"
    cat = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
    assert shell("run", guest, "--", "sha256sum", stdin=cat.stdout).stdout.decode() == f"{wanted}  -\n"
    cat.stdout.close()
    cat.wait()
    # One that ends early, of an input without end.
    with open("/dev/zero", "rb") as zero:
        ran = shell("run", guest, "--", "sh", "-c", "head -c 3 | wc -c; exit 5", stdin=zero)
    assert (ran.returncode, ran.stdout.strip()) == (5, b"3")
    assert shell("run", guest, "--", "cat").stdout == b""
    ours, theirs = os.openpty()
    ran = subprocess.Popen([klab, "run", guest, "--", "cat"], stdin=theirs, stdout=subprocess.PIPE, start_new_session=True)
    os.write(ours, b"typed\n\x04")
    assert ran.communicate(timeout=60)[0] == b"typed\n"
    os.close(ours)
    os.close(theirs)


def test_files_are_copied_in_and_out(shell, guest, tmp_path):
    data = os.urandom(3 << 20)
    path, back = tmp_path / "data", tmp_path / "back"
    path.write_bytes(data)
    path.chmod(0o750)
    assert shell("cp", str(path), f"{guest}:/root/").returncode == 0
    said = shell("run", guest, "--", "sh", "-c", "sha256sum < /root/data; stat -c %a /root/data; ls -A /root").stdout.decode()
    assert said == f"{hashlib.sha256(data).hexdigest()}  -\n750\ndata\n"
    assert shell("cp", f"{guest}:/root/data", str(back)).returncode == 0
    assert back.read_bytes() == data and stat.S_IMODE(back.stat().st_mode) == 0o750
    # A link in the guest stays one; a file of the kernel's is written in place.
    shell("run", guest, "--", "ln", "-s", "data", "/root/link")
    shell("cp", "-", f"{guest}:/root/link", stdin=None, input=b"short\n")
    said = shell("run", guest, "--", "sh", "-c", "cat /root/data; readlink /root/link").stdout
    assert said == b"short\ndata\n"
    assert shell("cp", "-", f"{guest}:/proc/sys/kernel/hostname", stdin=None, input=b"copied\n").returncode == 0
    assert shell("cp", f"{guest}:/proc/sys/kernel/hostname", "-").stdout == b"copied\n"
    # A FIFO here is written as one.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE)
    assert shell("cp", f"{guest}:/proc/version", str(fifo)).returncode == 0
    assert reader.communicate(timeout=30)[0].startswith(b"Linux version") and stat.S_ISFIFO(fifo.stat().st_mode)
    # What is no copy leaves nothing behind.
    for words, says in [
        ((f"{guest}:/no/such", str(back)), "there is no"),
        ((f"{guest}:/root", str(back)), "is a folder"),
        ((str(tmp_path), f"{guest}:/root"), "is a folder"),
        ((f"{guest}:/proc/version", "/dev/full"), "No space left"),
        ((str(path), str(back)), "GUEST:PATH"),
        ((str(path), f"{guest}:relative"), "from the root on"),
    ]:
        ran = shell("cp", *words)
        assert ran.returncode == 1 and says in ran.stderr.decode(), (words, ran)
    assert back.read_bytes() == data and sorted(p.name for p in tmp_path.iterdir()) == ["back", "data", "fifo"]
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)

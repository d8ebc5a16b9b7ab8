"""Commands that are ended from outside leave a guest that runs and no parts of files; what stands still is said."""

import os
import signal
import stat
import subprocess
import time

import pytest

from conftest import Kernel


@pytest.fixture(scope="module")
def guest(klab):
    name = f"ended-{os.getpid()}"
    subprocess.run([klab, "up", name], check=True)
    yield name
    subprocess.run([klab, "down", name], check=True)


@pytest.fixture
def run(klab):
    return lambda *words: subprocess.run([klab, *words], capture_output=True, text=True)


def goes_on(run, guest):
    """Its programs run: not by what klab says of it."""
    ran = run("run", guest, "--", "cat", "/proc/uptime")
    assert ran.returncode == 0, ran
    before = float(ran.stdout.split()[0])
    return float(run("run", guest, "--", "cat", "/proc/uptime").stdout.split()[0]) >= before


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_dump_that_is_ended_leaves_nothing(klab, run, guest, tmp_path, sent):
    core = tmp_path / "core"
    (tmp_path / "core.part").write_text("another's")
    ended = 0
    for wait in 0.02, 0.05, 0.1, 0.2, 0.3:
        core.write_text("before")
        dump = subprocess.Popen([klab, "dump", guest, core], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(wait)
        dump.send_signal(sent)
        _, said = dump.communicate()
        assert goes_on(run, guest)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["core", "core.part"]
        assert (tmp_path / "core.part").read_text() == "another's"
        if dump.returncode:
            ended += 1
            # The signal may come when the whole dump is in its place already.
            if core.read_bytes() != b"before":
                looked = subprocess.run([klab, "tasks", "--core", core], capture_output=True, text=True)
                assert looked.returncode == 0 and "init" in looked.stdout, looked
            # The very first moment is before it catches anything.
            if sent != signal.SIGKILL and dump.returncode > 0:
                assert dump.returncode == 128 + sent and said.count("\n") == 1 and "klab: " in said, said
    assert ended


def test_a_killed_cell_leaves_a_guest_that_goes_on(run, guest):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    try:
        assert not kernel.run("use probes::prelude::*;\nlet guest = Guest::attach(&std::env::var(\"KLAB_GUEST\")?)?;").error
        ended = kernel.run("guest.paused(|_| -> probes::Result<()> { std::process::exit(3) })?;")
        assert ended.error
        assert goes_on(run, guest)
    finally:
        kernel.stop()


def test_what_a_user_has_paused_is_said_at_once(klab, run, guest):
    running = subprocess.Popen([klab, "run", guest, "--", "sleep", "60"], stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    assert run("pause", guest).returncode == 0
    try:
        _, said = running.communicate(timeout=20)
        for said in said, run("run", guest, "--", "true").stderr, run("kmod", "load", "--guest", guest).stderr:
            assert f"`klab resume {guest}`" in said and f"`klab pause {guest}`" in said and said.count("\n") == 1, said
        assert f"`klab pause {guest}`" in run("status", guest).stdout
        # A dump of it leaves it as it is.
        assert run("dump", guest, "/dev/null").returncode == 1
        assert run("run", guest, "--", "true").returncode == 1
    finally:
        run("resume", guest)
    assert goes_on(run, guest)


def test_a_dump_replaces_nothing_but_a_plain_file(run, guest, tmp_path):
    fifo, link, target, folder = (tmp_path / name for name in ("fifo", "link", "target", "folder"))
    os.mkfifo(fifo)
    folder.mkdir()
    link.symlink_to("target")
    places = [fifo, folder]
    if os.geteuid() == 0:
        os.mknod(tmp_path / "full", 0o600 | stat.S_IFCHR, os.makedev(1, 7))
        places.append(tmp_path / "full")
    for place in places:
        before = os.lstat(place)
        ran = run("dump", guest, str(place))
        assert ran.returncode == 1 and str(place) in ran.stderr and ran.stderr.count("\n") == 1, ran
        assert (os.lstat(place).st_ino, os.lstat(place).st_mode) == (before.st_ino, before.st_mode)
    assert run("dump", guest, str(link)).returncode == 0
    assert link.is_symlink() and target.stat().st_size > 100 << 20 and target.stat().st_mode & 0o777 == 0o600
    assert goes_on(run, guest)


def test_a_panic_ends_what_waits(klab, run, guest):
    ran = run("run", guest, "--", "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 100")
    for said in ran.stderr, run("run", guest, "--", "true").stderr, run("resume", guest).stderr:
        assert "panicked" in said and f"`klab reset {guest}`" in said and said.count("\n") == 1, said
    assert run("reset", guest).returncode == 0
    assert goes_on(run, guest)

"""Every reading command gives the same on each source of one guest that stands still."""

import json
import os
import socket
import subprocess

import pytest

from test_commands import looks


class Qmp:
    """A client of QEMU's control socket that shares no code with klab's."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.run("qmp_capabilities")

    def run(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]


@pytest.fixture(scope="module")
def run(klab):
    def run(*words, ok=True):
        ran = subprocess.run([klab, *words], capture_output=True, text=True)
        assert not ok or ran.returncode == 0, (words, ran.stderr)
        return ran

    return run


@pytest.fixture(scope="module")
def guest(run):
    name = f"sources-{os.getpid()}"
    run("up", name)
    run("run", name, "--", "modprobe", "veth")
    run("pause", name)
    yield name
    run("down", name)


@pytest.fixture(scope="module")
def folder(run, guest):
    return json.loads(run("status", guest, "--json").stdout)[0]["run_dir"]


@pytest.fixture(scope="module")
def truth(run, guest, klab):
    """Each command with its words, and what it shows of the guest itself."""
    return [(words, run(words[0], "--json", "--guest", guest, *words[1:]).stdout) for words in looks(klab)]


def check(run, truth, *source):
    for words, expected in truth:
        said = run(words[0], "--json", *source, *words[1:]).stdout
        if words[:2] == ["search", "--physical"]:
            # QEMU's own dumps have the firmware's memory too.
            said, expected = json.loads(said)["hits"], json.loads(expected)["hits"]
        assert said == expected, words


@pytest.fixture
def attached(run, folder):
    names = []

    def attach(*words):
        names.append(f"attached-{os.getpid()}-{len(names)}")
        said = run("attach", names[-1], "--qmp", f"{folder}/qmp2", *words).stdout
        assert "is attached and paused: linux " in said, said
        return names[-1]

    yield attach
    for name in names:
        run("detach", name)


def test_a_guest_that_was_attached(run, truth, attached):
    check(run, truth, "--guest", attached())


def test_by_the_gdbstub(run, guest, truth, attached, folder):
    check(run, truth, "--guest", attached("--gdb", f"{folder}/gdb"))
    assert json.loads(run("status", guest, "--json").stdout)[0]["state"] == "paused"


def test_a_dump_of_klab(run, guest, truth, tmp_path):
    core = tmp_path / "core"
    assert json.loads(run("dump", guest, str(core), "--json").stdout)["cpus"] == 2
    assert core.stat().st_mode & 0o777 == 0o600
    check(run, truth, "--core", str(core))


@pytest.mark.parametrize("kind", ["elf", "kdump-zlib"])
def test_a_dump_of_qemu(run, truth, folder, tmp_path, kind):
    core = tmp_path / "core"
    Qmp(f"{folder}/qmp2").run("dump-guest-memory", paging=False, protocol=f"file:{core}", format=kind)
    check(run, truth, "--core", str(core))


def test_what_needs_more_than_memory_says_so(run, guest, attached, folder, tmp_path):
    name = attached()
    for words, says in [
        (["run", name, "--", "true"], "no agent of klab's runs in it"),
        (["reset", name], "there is no ready state"),
        (["skb", "--guest", name, "true"], "klab did not start the guest"),
        (["ftrace", "vfs_read", "--guest", name, "--", "true"], "klab did not start the guest"),
        (["kmod", "load", "--guest", name], "klab did not start the guest"),
        (["detach", guest], f"`klab down {guest}` stops it"),
        (["attach", name, "--qmp", f"{folder}/qmp2"], f"`klab detach {name}`"),
        (["attach", "other", "--qmp", "/dev/null"], "/dev/null"),
        (["dump", name, str(tmp_path)], "it is a folder"),
    ]:
        ran = run(*words, ok=False)
        assert ran.returncode != 0 and says in ran.stderr and ran.stderr.count("\n") == 1, ran
    # `down` forgets it and nothing more.
    assert run("down", name).stdout == f"{name} is detached\n"
    run("attach", name, "--qmp", f"{folder}/qmp2")


def test_qemu_s_own_spellings(run, guest, folder):
    name = f"spelt-{os.getpid()}"
    for spelling in [f"unix:{folder}/qmp2", f"unix:{folder}/qmp2,server=on,wait=off"]:
        assert "is attached and paused" in run("attach", name, "--qmp", spelling).stdout
        run("detach", name)
    said = run("attach", name, "--qmp", "tcp:127.0.0.1:4444", ok=False).stderr
    assert "-qmp unix:PATH" in said, said
    # The cause is said once.
    said = run("attach", name, "--qmp", "unix:/none/such", ok=False).stderr
    assert said.count("os error 2") == 1, said
    said = run("attach", name, "--qmp", f"{folder}/qmp2", "--gdb", "unix:/none/such", ok=False).stderr
    assert said.count("os error 2") == 1, said


def test_a_socket_that_is_held_names_its_holder(run, attached, folder):
    name = attached()
    held = Qmp(f"{folder}/qmp2")
    # What needs no QMP goes on, and the two ways to the state agree.
    run("ps", "--guest", name)
    [one] = json.loads(run("status", name, "--json").stdout)
    [same] = [each for each in json.loads(run("status", "--json").stdout) if each["name"] == name]
    assert one["state"] == same["state"] == "unreachable" and one["detail"] == same["detail"]
    said = run("pause", name, ok=False).stderr
    for part in ["busy with another client", f"(process {os.getpid()})", "-qmp unix:PATH"]:
        assert part in said, said
    held.socket.close()


@pytest.mark.parametrize("kind", ["elf", "kdump-zlib"])
def test_of_a_dump_that_was_cut_off_the_rest_is_read(run, folder, tmp_path, kind):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    qmp = Qmp(f"{folder}/qmp2")
    qmp.run("dump-guest-memory", paging=False, protocol=f"file:{whole}", format=kind)
    qmp.file.close()
    qmp.socket.close()
    size = whole.stat().st_size
    for percent in [5, 30, 60, 90, 99]:
        subprocess.run(["cp", "--sparse=always", whole, cut], check=True)
        os.truncate(cut, size * percent // 100)
        ran = run("ps", "--core", str(cut), ok=False)
        # Whatever comes of it, the file is at fault, and no kernel. What is there is shown.
        said = ran.stdout + ran.stderr
        assert "cut off" in said, (percent, ran)
        assert "another boot" not in said and "is broken" not in said, (percent, ran)


def test_what_is_no_dump_is_one_sentence(run, guest, tmp_path):
    core = tmp_path / "core"
    run("dump", guest, str(core))
    whole = core.read_bytes()[: 1 << 20]
    for bad in [b"", b"hello", whole[:100], whole, b"KDUMP   " + bytes(5000), b"makedumpfile\0" + bytes(5000)]:
        core.write_bytes(bad)
        ran = run("ps", "--core", str(core), ok=False)
        assert ran.returncode != 0 and ran.stderr.startswith("klab: ") and ran.stderr.count("\n") == 1, ran

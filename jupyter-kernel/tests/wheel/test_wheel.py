"""The wheel, as a user without Rust has it: pip installs it into a new environment, and `klab lab` leads to answers.

The session runs where neither the repository nor what was built of it is there, no Rust, and nothing of klab's cache but the packages
of the guest, which are large. KLAB_WHEEL is the folder of the wheel.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

import pytest

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
LOCK = REPOSITORY / "xtask/python/requirements.txt"
CACHE = pathlib.Path(sys.prefix).parent
# What klab has fetched for its guests.
FETCHED = ["kernels", "debs"]
RELEASE = "print(prog['init_uts_ns'].name.release.string_().decode())"
CELLS = ["%ps", "%%sh\nuname -r; cat /proc/1/comm", f"%%drgn\n{RELEASE}", "%task-tree", "let x = 1 + 1;\nx"]


@pytest.fixture(scope="module")
def wheel():
    (wheel,) = pathlib.Path(os.environ["KLAB_WHEEL"]).glob("*.whl")
    return wheel


def installed(scratch, wheel):
    """An environment with the wheel and what it depends on, at the versions of the lab's own."""
    environment = scratch / "klab"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pinned = re.findall(r"^[\w.-]+==[\w.]+", LOCK.read_text(), re.MULTILINE)
    constraints = scratch / "constraints.txt"
    constraints.write_text("\n".join(pinned))
    pip = [environment / "bin/python", "-m", "pip", "--retries", "10", "--cache-dir", CACHE / "pip"]
    subprocess.run([*pip, "install", "--quiet", "--constraint", constraints, wheel], check=True)
    return environment


def hidden():
    """Commands that take away what a user of the wheel does not have."""
    home = pathlib.Path.home()
    folders = [REPOSITORY, pathlib.Path(os.environ["KLAB"]).parent, CACHE, home / ".cargo", home / ".rustup"]
    # One of them may lie in another, and be hidden with it.
    for folder in map(shlex.quote, map(str, folders)):
        yield f"if [ -d {folder} ]; then mount -t tmpfs none {folder}; fi"
    for name in ["cargo", "rustc", "rustup"]:
        program = pathlib.Path(shutil.which(name, path="/usr/local/bin:/usr/bin:/bin") or "")
        if program.is_file():
            yield f"mount --bind /dev/null {shlex.quote(str(program))}"


@pytest.fixture(scope="module")
def session(wheel):
    with tempfile.TemporaryDirectory(prefix="klab-wheel-") as folder:
        scratch = pathlib.Path(folder)
        environment = installed(scratch, wheel)
        names = {"HOME": "home", "KLAB_CACHE": "cache", "KLAB_RUN": "run"}
        for name in names.values():
            (scratch / name).mkdir(mode=0o700)
        # A process namespace, so that nothing is left of it, however it ends.
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
        unshare += [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        can = subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", scratch], capture_output=True, text=True)
        if can.returncode != 0:
            pytest.skip(f"nothing can be hidden from the wheel here, so it is not tried: {can.stderr}")
        script = ["set -e", "mount -t proc proc /proc"]
        for name in FETCHED:
            to = scratch / "cache" / name
            to.mkdir()
            script.append(f"mount --bind {shlex.quote(str(CACHE / name))} {shlex.quote(str(to))}")
        shutil.copy(HERE / "session.py", scratch)
        script += hidden()
        script.append(f"exec {environment}/bin/python {scratch}/session.py")
        ran = subprocess.run(
            [*unshare, "sh", "-c", "\n".join(script)],
            cwd=scratch,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"}
            | {variable: str(scratch / name) for variable, name in names.items()},
            input=json.dumps(CELLS),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert ran.returncode == 0
        found = json.loads(ran.stdout)
        print(f"first answer after {found['seconds to the first answer']:.1f} s")
        found["lessons"] = sorted(path.name for path in (scratch / "home/klab-lessons").glob("*.md"))
        yield found


def test_the_tag_names_the_glibc_of_this_machine(wheel):
    glibc = os.confstr("CS_GNU_LIBC_VERSION").split()[1].replace(".", "_")
    assert wheel.name.endswith(f"-cp311-abi3-manylinux_{glibc}_x86_64.whl")


def test_jupyterlab_opens_on_the_lessons(session):
    assert session["lessons"] == sorted(path.name for path in REPOSITORY.glob("notebooks/*.md"))
    assert session["page"] == session["lessons"][0]
    assert session["kernel of the lesson"] == "klab" and "klab" in session["kernels"]
    assert "# Lesson 0" in session["cells of the lesson"][0]
    assert session["viewers"]["markdown"] == "Jupytext Notebook"


def test_commands_the_guest_drgn_and_pictures_answer(session):
    tasks, shell, drgn, tree, _ = session["cells"]
    assert [cell["status"] for cell in (tasks, shell, drgn, tree)] == ["ok"] * 4
    release, first = shell["stdout"].split()
    assert drgn["stdout"].split() == [release]
    (line,) = [line for line in tasks["data"]["text/plain"].splitlines() if line.split()[:2] == ["1", "0"]]
    assert line.endswith(first)
    assert tree["data"]["image/svg+xml"].startswith("<svg")


def test_a_rust_cell_says_what_to_install(session):
    cell = session["cells"][-1]
    assert cell["status"] == "error" and "install Rust" in cell["error"]
    assert "\n" not in cell["error"]


def test_nothing_is_missing_but_what_rust_cells_need(session):
    assert session["missing"] == []

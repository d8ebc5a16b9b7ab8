"""drgn's own tests of the kernel, which its sdist holds, on klab's program. KLAB names the klab program."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import drgn
import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]


@pytest.fixture(scope="session")
def klab():
    program = os.environ.get("KLAB")
    assert program and os.access(program, os.X_OK), "KLAB must name the klab program"
    return lambda *words: subprocess.run([program, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """A folder with drgn's tests, without its package: the one that is installed is tested."""
    folder = tmp_path_factory.mktemp("drgn")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", "drgn"]
    subprocess.run([*pip, "--require-hashes", "--dest", folder, "-r", HERE / "requirements.txt"], check=True)
    name = f"drgn-{drgn.__version__}"
    with tarfile.open(folder / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    for kept in ("tests", "util.py", "pytest.ini", "tools"):
        shutil.move(folder / name / kept, folder / kept)
    shutil.rmtree(folder / name)
    return folder


@pytest.fixture(scope="session")
def guest(klab):
    name = f"suite-{os.getpid()}"
    klab("up", name)
    yield name
    klab("down", name)


@pytest.fixture(scope="session")
def module(guest, sources):
    """drgn's module for its tests, built for the guest and loaded: the file, with its DWARF."""
    kmod = sources / "tests/linux_kernel/kmod"
    (kmod / "Makefile").rename(kmod / "Kbuild")
    cargo = [os.environ.get("CARGO", "cargo"), "run", "--quiet", "--locked", "--package", "vm", "--example", "load_module", "--"]
    done = subprocess.run([*cargo, guest, "drgn_test", kmod], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="session")
def suite(sources, module, tmp_path_factory):
    """Runs drgn's tests with a program of a guest or a dump; the outcome of each, and why."""

    def run(files=(), **which):
        out = tmp_path_factory.mktemp("outcomes") / "outcomes.json"
        env = {**os.environ, "PYTHONPATH": str(HERE), "DRGN_TEST_KMOD": module, "KLAB_SUITE_OUT": str(out)}
        env |= {f"KLAB_SUITE_{name.upper()}": str(value) for name, value in which.items()}
        env["KLAB_SUITE_FILES"] = ":".join([*files, module])
        words = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", "-p", "plugin"]
        left_out = [word for name in listed("elsewhere.txt") for word in ("--deselect", name)]
        subprocess.run([*words, *left_out, "tests/linux_kernel"], cwd=sources, env=env, check=False)
        return json.loads(out.read_text())

    return run


def listed(name):
    """The tests that a list names."""
    lines = (HERE / name).read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]

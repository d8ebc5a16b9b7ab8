"""klab's reader of BTF, and drgn's of DWARF, on the same kernel. KLAB names the klab program, KLAB_TEST_KERNEL the kernel."""

import os
import subprocess

import drgn
import pytest

import klab as package


@pytest.fixture(scope="session")
def run():
    program = os.environ.get("KLAB")
    assert program and os.access(program, os.X_OK), "KLAB must name the klab program"
    return lambda *words: subprocess.run([program, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture(scope="session")
def kernel():
    return os.environ.get("KLAB_TEST_KERNEL", "default")


@pytest.fixture(scope="session")
def by_btf(run, kernel):
    name = f"layouts-{os.getpid()}"
    run("up", name, "--kernel", kernel)
    yield package.program(name)
    run("down", name)


@pytest.fixture(scope="session")
def by_dwarf(run, kernel, by_btf):
    vmlinux = run("vmlinux", "--kernel", kernel).strip()
    assert by_btf["UTS_RELEASE"].string_().decode() in vmlinux
    prog = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    # A file of no program: drgn takes it as it is.
    prog.extra_module("vmlinux", create=True).try_file(vmlinux, force=True)
    return prog

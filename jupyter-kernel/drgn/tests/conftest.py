"""A guest for each file of tests, so that none finds what another one has loaded, mounted or started. KLAB names the klab program under test."""

import json
import os
import subprocess

import pytest

import klab as package


@pytest.fixture(scope="session")
def klab():
    program = os.environ.get("KLAB")
    assert program and os.access(program, os.X_OK), "KLAB must name the klab program"
    return program


@pytest.fixture(scope="module")
def guest(klab, request):
    name = f"{request.module.__name__.replace('_', '-')}-{os.getpid()}"
    subprocess.run([klab, "up", name], check=True)
    yield name
    subprocess.run([klab, "down", name], check=True)


@pytest.fixture(scope="module")
def prog(guest):
    return package.program(guest)


@pytest.fixture(scope="module")
def run(klab, guest):
    """Runs klab on the guest."""

    def run(*words):
        env = {**os.environ, "KLAB_GUEST": guest}
        return subprocess.run([klab, *words], check=True, capture_output=True, text=True, env=env).stdout

    return run


@pytest.fixture(scope="module")
def sh(run, guest):
    """Runs a script in the guest."""
    return lambda script: run("run", guest, "--", "sh", "-c", script)


@pytest.fixture(scope="module")
def klab_says(run):
    """What a command of klab's says of the guest."""
    return lambda *words: json.loads(run(*words, "--json"))


@pytest.fixture
def still(run):
    """The guest with its processors held."""
    run("pause")
    yield
    run("resume")

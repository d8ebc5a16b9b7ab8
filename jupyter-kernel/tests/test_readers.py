"""Cells that are one reader's call: answered without a compiler, and shown byte for byte as the compiled cell shows them."""

import json
import os
import subprocess

import pytest
from conftest import Kernel, session_of


@pytest.fixture(scope="module")
def guest(klab):
    """A guest that is held still."""
    name = f"readers-{os.getpid()}"
    subprocess.run([klab, "up", name], check=True)
    subprocess.run([klab, "pause", name], check=True)
    yield name
    subprocess.run([klab, "down", name], check=True)


@pytest.fixture(scope="module")
def kernel(guest):
    kernel = Kernel(env={"KLAB_GUEST": guest})
    yield kernel
    kernel.stop()


def cells(klab):
    """What `--code` prints for each way that the readers are tried, of those that need no compiler."""
    readers = json.loads(subprocess.check_output([klab, "readers", "--json"]))
    for reader in readers:
        for sample in reader["samples"]:
            code = subprocess.check_output([klab, reader["command"], *sample, "--code"], text=True).strip()
            # The place of a symbol is asked of the guest; what reads all memory must be stopped, as a cell is.
            if ".place(" not in code and reader["on_dumps"]:
                yield code


def is_compiled(kernel):
    """The text that was compiled last."""
    _, environ = session_of(kernel.manager.provisioner.pid)
    return open(f"{environ[b'EVCXR_TMPDIR'].decode()}/src/lib.rs").read()


def test_what_is_shown_is_what_the_compiled_cell_shows(klab, kernel):
    kernel.run("let kept = 3;")
    shown = {}
    for code in cells(klab):
        compiled = is_compiled(kernel)
        cell = kernel.run(code)
        # One that fails fails as a compiled cell does: a guest need not have all that there is.
        if cell.error is None:
            assert is_compiled(kernel) == compiled, code
            shown[code] = cell.value
    assert len(shown) > 60
    differ = [code for code, value in shown.items() if kernel.run(f"{{ {code} }}").value != value]
    assert not differ
    assert kernel.run("kept").value["text/plain"] == "3"


def test_another_guest_of_that_name_is_asked_and_not_the_kernels(kernel, guest):
    before = is_compiled(kernel)
    value = kernel.run("guest.tasks()?").value
    assert value["text/plain"] and is_compiled(kernel) == before
    kernel.run(f'let guest = Guest::attach("{guest}")?;')
    before = is_compiled(kernel)
    assert kernel.run("guest.tasks()?").value == value
    assert is_compiled(kernel) != before


def test_a_watched_view_is_updated_in_place_until_it_is_stopped(kernel):
    kernel.run("let kept = 4;")
    request = kernel.client.execute("watch(Duration::from_millis(50), || guest.tasks())?")
    first = kernel.until(request, lambda message: message["msg_type"] == "display_data")
    later = kernel.until(request, lambda message: message["msg_type"] == "update_display_data")
    assert later["content"]["transient"] == first["content"]["transient"]
    kernel.manager.interrupt_kernel()
    assert kernel.finish(request).reply["ename"] == "Interrupted"
    assert kernel.run("kept").value["text/plain"] == "4"


def test_a_difference_shows_what_changed(kernel):
    cell = kernel.run("let all = guest.tasks()?;\ndiff(&all, &guest.tasks()?)")
    assert "the same" in cell.value["text/plain"] and "+" not in cell.value["text/plain"]
    assert "text/html" in cell.value

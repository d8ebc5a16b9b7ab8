"""A recorded guest: `klab last-write`, `history`, `replay`, in a shell and in cells."""

import json
import os
import subprocess

import pytest

from conftest import Kernel

WORD = "*(int *)&vm_swappiness"


@pytest.fixture(scope="module")
def guest(klab):
    name = f"rewind-{os.getpid()}"
    subprocess.run([klab, "up", name, "--record", "--memory", "256M"], check=True)
    yield name
    subprocess.run([klab, "down", name], check=True)


def test_who_wrote_it_and_when_it_began_to_hold(shell, guest):
    # More than a socket of QEMU's holds, so that a record that loses a byte is met.
    listing = shell("run", guest, "--", "sh", "-c", "ls -R /sys/class /sys/bus /sys/module; echo 17 > /proc/sys/vm/swappiness")
    assert listing.returncode == 0 and len(listing.stdout) > 4_000, listing
    last = shell("last-write", WORD, "--guest", guest, "--json")
    assert last.returncode == 0, last.stderr
    last = json.loads(last.stdout)
    assert (last["comm"], last["new"]) == ("sh", 17), last
    history = json.loads(shell("history", WORD, "--guest", guest, "--json").stdout)
    assert [one["instruction"] for one in history["writes"]] == [last["instruction"]], history
    began = shell("replay", guest, "--when", f"{WORD} == 17", "--json")
    assert began.returncode == 0, began.stderr
    assert json.loads(began.stdout)["instruction"] == last["instruction"]
    never = shell("replay", guest, "--when", f"{WORD} == 18")
    assert never.returncode == 1 and "does not hold at the end of the record" in never.stderr, never

    kernel = Kernel(env={"KLAB_GUEST": guest})
    try:
        back = kernel.run(f"%guest replay {guest} --at {last['instruction'] - 1}")
        assert back.error is None, back.published
        assert "17" not in kernel.run(f"%p {WORD}").value["text/plain"]
        cell = kernel.run(f"guest.seek({last['instruction']})?.instruction")
        assert cell.error is None and cell.value["text/plain"] == str(last["instruction"]), cell.published
        assert "17" in kernel.run(f"%p {WORD}").value["text/plain"]
    finally:
        kernel.stop()

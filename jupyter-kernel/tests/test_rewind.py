"""A recorded guest: `klab last-write`, `history`, `replay`, in a shell and in cells."""

import json
import os
import subprocess

import pytest

from conftest import Kernel, said

WORD = "*(int *)&vm_swappiness"


@pytest.fixture(scope="module")
def guest(klab):
    name = f"rewind-{os.getpid()}"
    subprocess.run([klab, "up", name, "--record", "--memory", "256M"], check=True)
    yield name
    subprocess.run([klab, "down", name], check=True)


def test_who_wrote_it_and_when_it_began_to_hold(shell, guest):
    # A slider of a record before this one does not end it, and views stay as they are.
    kernel = Kernel(env={"KLAB_GUEST": guest})
    try:
        said(kernel, "comm_open", {"comm_id": "old", "target_name": "klab", "data": {}})
        for to in [1, 10**15]:
            old = said(kernel, "comm_msg", {"comm_id": "old", "data": {"record": guest, "seek": to}})[-1]["content"]["data"]
            assert "runs and is recorded" in old["error"], old
        assert kernel.run("%tasks").value and not kernel.run("1 + 1").of("update_display_data")
    finally:
        kernel.stop()
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

    views_follow(guest, last["instruction"])


def views_follow(guest, written):
    """A view of a recorded guest follows where it stands, whatever moves it."""
    kernel = Kernel(env={"KLAB_GUEST": guest})

    def updates(cell):
        return {one["transient"]["display_id"]: one["data"]["text/plain"] for one in cell.of("update_display_data")}

    try:
        back = kernel.run(f"%guest replay {guest} --at {written - 1}")
        assert back.error is None, back.published
        slider = back.value["text/html"]
        assert f"instruction&quot;:{written - 1}," in slider and "<progress" in slider, slider
        # A line, a reader's cell, and one that is compiled, which stays as it was.
        (value,) = kernel.run(f"%p {WORD}").of("display_data")
        (tasks,) = kernel.run("guest.tasks()?").of("display_data")
        compiled = kernel.run(f'guest.eval("{WORD}")?.u64()?')
        assert compiled.value and not compiled.of("display_data")
        assert "17" not in value["data"]["text/plain"]
        value, tasks = (one["transient"]["display_id"] for one in (value, tasks))
        cell = kernel.run(f"guest.seek({written})?.instruction")
        assert cell.error is None and cell.value["text/plain"] == str(written), cell.published
        updated = updates(cell)
        assert set(updated) == {value, tasks} and "17" in updated[value], updated
        # Nothing moves: nothing is shown anew.
        assert not kernel.run("1 + 1").of("update_display_data")
        # The slider's way: a comm, beside the cells.
        said(kernel, "comm_open", {"comm_id": "slider", "target_name": "klab", "data": {}})
        went = said(kernel, "comm_msg", {"comm_id": "slider", "data": {"record": guest, "seek": written - 1, "id": 4}})
        updated = {one["content"]["transient"]["display_id"] for one in went if one["msg_type"] == "update_display_data"}
        assert updated == {value, tasks}
        answer = went[-1]["content"]["data"]
        assert (answer["id"], answer["record"]["name"], answer["record"]["instruction"]) == (4, guest, written - 1)
        nowhere = said(kernel, "comm_msg", {"comm_id": "slider", "data": {"record": guest, "seek": 1}})[-1]["content"]["data"]
        assert "not 1" in nowhere["error"] and nowhere["record"] == answer["record"], nowhere
        assert "17" not in kernel.run(f"%p {WORD}").of("display_data")[0]["data"]["text/plain"]
    finally:
        kernel.stop()

"""`klab snapshot`, `restore`, `--snapshot`, `--since`: in a shell, as `%` lines, as the cells that `--code` prints."""

import json

from conftest import Kernel

SLEEP = ["sh", "-c", "sleep 4321 >/dev/null 2>&1 </dev/null & while [ \"$(cat /proc/$!/comm)\" != sleep ]; do :; done; echo $!"]


def sleepers(said):
    assert said.returncode == 0, said.stderr
    return [one["pid"] for one in json.loads(said.stdout) if one["comm"] == "sleep"]


def test_a_snapshot_is_read_compared_and_gone_back_to(shell, guest):
    said = shell("snapshots", guest)
    assert said.returncode == 0 and len(said.stdout.splitlines()) == 2, said
    said = shell("snapshot", "before", "--guest", guest)
    assert said.returncode == 0 and "is the snapshot before" in said.stdout, said
    pid = int(shell("run", guest, "--", *SLEEP).stdout)
    assert sleepers(shell("tasks", "--snapshot", "before", "--json")) == []
    assert sleepers(shell("tasks", "--json")) == [pid]
    since = shell("tasks", "--since", "before").stdout
    assert any(str(pid) in line and line.startswith("+") for line in since.splitlines()), since

    kernel = Kernel(env={"KLAB_GUEST": guest})
    try:
        line = kernel.run("%tasks --since before")
        assert line.error is None and str(pid) in line.value["text/plain"], line.published
        code = shell("tasks", "--since", "before", "--code").stdout
        assert code.strip() == 'diff(&guest.in_snapshot("before")?.tasks()?, &guest.tasks()?)'
        cell = kernel.run(code)
        assert cell.error is None and str(pid) in cell.value["text/plain"], cell.published
        back = kernel.run(f"%guest restore before --guest {guest}")
        assert back.error is None, back.published
        assert kernel.run("%tasks --since before").error is None
        # The session's own guest follows.
        assert kernel.run(f"guest.find_task({pid}).is_err()").value["text/plain"] == "true"
    finally:
        kernel.stop()
    assert sleepers(shell("tasks", "--json")) == []
    assert "before" in shell("snapshots", guest).stdout
    said = shell("restore", "after", "--guest", guest)
    assert said.returncode == 1 and "there are before" in said.stderr, said
    assert shell("snapshot", "before", "--forget", "--guest", guest).returncode == 0
    said = shell("tasks", "--snapshot", "before")
    assert said.returncode == 1 and "has no snapshot `before`" in said.stderr, said
    assert shell("reset", guest).returncode == 0

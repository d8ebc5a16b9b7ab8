"""A kernel for each module, started through its installed spec.

KLAB names the program under test, JUPYTER_PATH holds the spec that it installed.
"""

import os
import queue
import subprocess
import time

import pytest
from jupyter_client.manager import start_new_kernel

KERNEL = "klab"
START = 60
REPLY = 60


@pytest.fixture(scope="session")
def klab():
    program = os.environ.get("KLAB")
    assert program and os.access(program, os.X_OK), "KLAB must name the klab program"
    return program


@pytest.fixture(scope="module")
def guest(klab, request):
    """A guest of the module's own."""
    name = f"{request.module.__name__.removeprefix('test_')}-{os.getpid()}"
    subprocess.run([klab, "up", name], check=True)
    yield name
    subprocess.run([klab, "down", name], check=True)


@pytest.fixture
def shell(klab, guest):
    """klab in a shell, on that guest."""

    def run(*words):
        env = {**os.environ, "KLAB_GUEST": guest}
        return subprocess.run([klab, *words], capture_output=True, text=True, env=env)

    return run


class Cell:
    """What one cell led to: its reply, and what it published, in order."""

    def __init__(self, reply, published):
        self.reply = reply
        self.published = published

    def of(self, kind):
        return [message["content"] for message in self.published if message["msg_type"] == kind]

    def stream(self, name="stdout"):
        return "".join(part["text"] for part in self.of("stream") if part["name"] == name)

    @property
    def value(self):
        results = self.of("execute_result")
        return results[0]["data"] if results else None

    @property
    def error(self):
        errors = self.of("error")
        return errors[0] if errors else None


class Kernel:
    """A kernel, and its client."""

    def __init__(self, cwd=None, env=None):
        self.manager, self.client = start_new_kernel(
            START, kernel_name=KERNEL, cwd=cwd, env={**os.environ, **(env or {})}
        )

    def run(self, code, **options):
        return self.finish(self.client.execute(code, **options))

    def finish(self, request):
        """Collects the cell of a request that was sent."""
        published = []
        deadline = time.monotonic() + REPLY
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != request:
                continue
            published.append(message)
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        while True:
            reply = self.client.get_shell_msg(timeout=REPLY)
            if reply["parent_header"].get("msg_id") == request:
                return Cell(reply["content"], published)

    def until(self, request, wanted):
        """Waits for something that the cell of a request publishes, while it runs."""
        while True:
            message = self.client.get_iopub_msg(timeout=REPLY)
            if message["parent_header"].get("msg_id") == request and wanted(message):
                return message

    def cells(self):
        """The process of klab-cells, the kernel's session."""
        return session_of(self.manager.provisioner.pid)[0]

    def no_more(self):
        with pytest.raises(queue.Empty):
            self.client.get_iopub_msg(timeout=0.3)

    def stop(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=False)


def said(kernel, kind, content):
    """What is published for a message on the shell channel that has no reply."""
    message = kernel.client.session.msg(kind, content)
    kernel.client.shell_channel.send(message)
    published = []
    while True:
        got = kernel.client.get_iopub_msg(timeout=REPLY)
        if got["parent_header"].get("msg_id") != message["header"]["msg_id"]:
            continue
        published.append(got)
        if got["msg_type"] == "status" and got["content"]["execution_state"] == "idle":
            return [got for got in published if got["msg_type"] != "status"]


def children(parent):
    """The child processes of one, each with its environment."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = open(f"/proc/{pid}/stat").read()
            if int(stat.rsplit(")", 1)[1].split()[1]) == parent:
                words = open(f"/proc/{pid}/environ", "rb").read().split(b"\0")
                yield int(pid), dict(word.split(b"=", 1) for word in words if b"=" in word)
        except OSError:
            pass


def gone(pid, within=5):
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def session_of(kernel):
    """The process of a kernel's session, and its environment, once it has a folder."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for pid, environ in children(kernel):
            if b"KLAB_SESSION" in environ:
                return pid, environ
        time.sleep(0.05)
    raise AssertionError("the kernel has no session")


@pytest.fixture(scope="module")
def kernel():
    kernel = Kernel()
    yield kernel
    kernel.stop()

"""The library in front ends that are not klab's: evcxr's own REPL and its own Jupyter kernel.

EVCXR and EVCXR_JUPYTER name the programs; the guest `default` is up.
"""

import json
import os
import re
from pathlib import Path

import pexpect
import pytest
from jupyter_client.manager import start_new_kernel

PROBES = Path(__file__).resolve().parents[2] / "probes"
LINES = [f':dep probes = {{ path = "{PROBES}" }}', "use probes::prelude::*;"]
ATTACH = 'let guest = Guest::attach("default")?;'
BUILD = 900
PROMPT = ">> "


@pytest.fixture(scope="module")
def repl():
    child = pexpect.spawn(os.environ["EVCXR"], ["--disable-readline"], encoding="utf-8", timeout=BUILD)
    child.expect(PROMPT)
    yield child
    child.close(force=True)


def line(repl, code, timeout=BUILD):
    repl.sendline(code)
    repl.expect(PROMPT, timeout=timeout)
    return repl.before


def test_the_repl_reads_the_guest(repl):
    for code in [*LINES, ATTACH]:
        assert not re.search(r"(?<![a-z])[Ee]rror", line(repl, code))
    assert re.search(r"\d\d+ tasks", line(repl, "println!(\"{} tasks\", for_each_process(&guest.kernel()?)?.count());"))


def test_stock_evcxr_jupyter_shows_views_as_html(tmp_path):
    spec = tmp_path / "kernels" / "stock"
    spec.mkdir(parents=True)
    argv = [os.environ["EVCXR_JUPYTER"], "--control_file", "{connection_file}"]
    spec.joinpath("kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": "stock", "language": "rust", "interrupt_mode": "message"})
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("JUPYTER_PATH", "")])
    old = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = path
    try:
        manager, client = start_new_kernel(120, kernel_name="stock")
    finally:
        os.environ.pop("JUPYTER_PATH") if old is None else os.environ.update(JUPYTER_PATH=old)
    shown = []

    def keep(message):
        if message["msg_type"] in ("execute_result", "display_data"):
            shown.append(message["content"]["data"])

    try:
        for code in [*LINES, ATTACH, "1 + 1"]:
            reply = client.execute_interactive(code, output_hook=keep, timeout=BUILD)
            assert reply["content"]["status"] == "ok", reply
        assert shown[-1]["text/plain"] == "2"
        client.execute_interactive(
            "#[derive(Debug)] struct V; impl View for V { fn text(&self) -> String { \"a view\".to_owned() }"
            " fn html(&self) -> Option<String> { Some(\"<b>a view</b>\".to_owned()) } }"
            " impl V { pub fn evcxr_display(&self) { probes::cell::show_view(self) } }",
            timeout=BUILD,
        )
        client.execute_interactive("V", output_hook=keep, timeout=BUILD)
        assert shown[-1] == {"text/plain": "a view", "text/html": "<b>a view</b>"}
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)

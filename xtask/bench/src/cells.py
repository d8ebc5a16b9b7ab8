"""The client of `cargo xtask bench cell`: one Jupyter client, the same cells, any kernel.

argv: KERNEL-JSON, then cells as JSON: {"first": code, "timed": [[name, code, times]]}; one of no times is run once, to set something up.
`{n}` in a cell is a number that no cell has had before, in any run; `{k}` counts its turns.
stdout: JSON {"ready_ms", "first_ms", "timed": {name: [ms, ..]}}
"""

import json
import os
import sys
import tempfile
import time

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager


def run(client, code):
    """Milliseconds from the request to the idle status, and what the cell showed."""
    start = time.perf_counter()
    shown = []

    def hook(message):
        if message["msg_type"] in ("execute_result", "display_data", "stream"):
            content = message["content"]
            shown.append(content.get("text") or content.get("data", {}).get("text/plain", ""))

    reply = client.execute_interactive(code, timeout=300, output_hook=hook, allow_stdin=False)
    took = (time.perf_counter() - start) * 1000
    if reply["content"]["status"] != "ok":
        raise SystemExit(f"the cell `{code}` failed: {reply['content'].get('evalue', reply['content'])}")
    return took, "".join(shown)


def main():
    spec, cells = sys.argv[1], json.loads(sys.argv[2])
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "bench")
        os.mkdir(name)
        with open(spec) as source, open(os.path.join(name, "kernel.json"), "w") as copy:
            copy.write(source.read())
        specs = KernelSpecManager(kernel_dirs=[folder])
        manager = KernelManager(kernel_name="bench", kernel_spec_manager=specs)
        start = time.perf_counter()
        manager.start_kernel(stdout=2, stderr=2)
        client = manager.client()
        try:
            client.start_channels()
            client.wait_for_ready(timeout=300)
            ready = (time.perf_counter() - start) * 1000
            _, shown = run(client, cells["first"])
            first = (time.perf_counter() - start) * 1000
            timed = {}
            number = time.time_ns() // 1000
            for what, code, times in cells["timed"]:
                for turn in range(times + 1):
                    number += 1
                    took = run(client, code.replace("{n}", str(number)).replace("{k}", str(turn)))[0]
                    if turn > 0:
                        timed.setdefault(what, []).append(took)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
    json.dump({"ready_ms": ready, "first_ms": first, "first": shown, "timed": timed}, sys.stdout)


main()

"""What a user does first with an installed klab: `klab lab`, a lesson, a kernel, some cells. The Python of its environment runs this.

Standard input has the cells, a JSON list; what came of it goes to standard output, as JSON. KLAB_CACHE must be set.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import time
import urllib.request

from jupyter_client import BlockingKernelClient

PATIENCE = 300
PREFIX = pathlib.Path(sys.prefix)


class Server:
    """A JupyterLab, by the address that `klab lab` has printed."""

    def __init__(self, line):
        self.base, self.page, self.token = re.match(r"open (http://[^/]+)/lab/tree/(\S+)\?token=(\S+)", line).groups()
        until = time.monotonic() + PATIENCE
        while True:
            try:
                self.ask("api/status")
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def ask(self, path, data=None):
        request = urllib.request.Request(f"{self.base}/{path}", headers={"Authorization": f"token {self.token}"})
        request.data = None if data is None else json.dumps(data).encode()
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


def run(client, code):
    """A cell's outputs by kind, and whether it was well."""
    said = {"stdout": "", "stderr": "", "data": {}, "error": None}

    def hear(message):
        content = message["content"]
        match message["msg_type"]:
            case "stream":
                said[content["name"]] += content["text"]
            case "execute_result" | "display_data":
                said["data"] |= content["data"]
            case "error":
                said["error"] = content["evalue"]

    reply = client.execute_interactive(code, timeout=PATIENCE, output_hook=hear)
    return said | {"status": reply["content"]["status"]}


def main():
    began = time.monotonic()
    lab = subprocess.Popen([PREFIX / "bin/klab", "lab", "--no-browser"], stdout=subprocess.PIPE, text=True)
    try:
        server = Server(lab.stdout.readline())
        lesson = server.ask(f"api/contents/{server.page}?type=notebook")
        viewers = server.ask("lab/api/settings/@jupyterlab/docmanager-extension:plugin")
        found = {
            "page": server.page,
            "cells of the lesson": [cell["source"] for cell in lesson["content"]["cells"]],
            "kernel of the lesson": lesson["content"]["metadata"]["kernelspec"]["name"],
            "viewers": viewers["schema"]["properties"]["defaultViewers"]["default"],
            "kernels": list(server.ask("api/kernelspecs")["kernelspecs"]),
        }
        kernel = server.ask("api/kernels", {"name": "klab"})["id"]
        doctor = subprocess.run([PREFIX / "bin/klab", "doctor", "--json"], stdout=subprocess.PIPE)
        found["missing"] = [check["name"] for check in json.loads(doctor.stdout) if check["state"] == "missing"]
        connection = pathlib.Path(os.environ["KLAB_CACHE"], f"jupyter/runtime/kernel-{kernel}.json")
        client = BlockingKernelClient(connection_file=str(connection))
        client.load_connection_file()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        found["cells"] = []
        for code in json.load(sys.stdin):
            found["cells"].append(run(client, code))
            found.setdefault("seconds to the first answer", time.monotonic() - began)
        client.stop_channels()
        json.dump(found, sys.stdout)
    finally:
        lab.terminate()
        lab.wait()
        subprocess.run([PREFIX / "bin/klab", "down", "--all"], stdout=sys.stderr)


if __name__ == "__main__":
    main()

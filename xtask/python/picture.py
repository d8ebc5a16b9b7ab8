"""Take the README's picture: `KLAB=.. JUPYTER_PATH=.. python xtask/python/picture.py LESSON.md OUT.png`.

JupyterLab opens the lesson in Chromium, runs every cell of it on the live guest, and the first drawn picture is brought into view.
Nothing is prepared: a cell that fails is in the picture, and the exit code says so.
"""

import base64
import json
import pathlib
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import websocket

LESSONS = pathlib.Path(__file__).resolve().parents[2] / "notebooks"
PATIENCE = 300

RUN_ALL = """
(async () => {
  const app = window.jupyterapp;
  const panel = app.shell.currentWidget;
  await panel.context.ready;
  await panel.sessionContext.ready;
  await app.commands.execute('notebook:run-all-cells');
  const cells = panel.content.model.cells;
  let failed = 0;
  for (let i = 0; i < cells.length; i++) {
    const outputs = cells.get(i).type === 'code' ? cells.get(i).outputs : [];
    for (let j = 0; j < outputs.length; j++) failed += outputs.get(j).type === 'error';
  }
  return failed;
})()
"""

SHOW = """
(async () => {
  window.jupyterapp.shell.collapseLeft();
  const drawn = document.querySelector('.jp-RenderedSVG') || document.querySelector('.jp-OutputArea-output');
  drawn.scrollIntoView({block: 'end'});
  await new Promise(done => setTimeout(done, 2000));
  return true;
})()
"""


class Browser:
    """Headless Chromium, driven by its DevTools protocol."""

    def __init__(self, folder):
        program = shutil.which("chromium") or sys.exit("there is no chromium: apt-get install chromium")
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet, "--remote-debugging-port=0"]
            + ["--remote-allow-origins=*", f"--user-data-dir={folder}", "--window-size=1360,1080", "about:blank"],
            stderr=subprocess.PIPE,
            text=True,
        )
        place = next(found for line in self.process.stderr if (found := re.search(r"listening on ws://([^/]+)/", line)))
        tabs = json.load(urllib.request.urlopen(f"http://{place[1]}/json"))
        tab = next(tab for tab in tabs if tab["type"] == "page")
        self.socket = websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=PATIENCE)
        self.calls = 0

    def call(self, method, **arguments):
        self.calls += 1
        self.socket.send(json.dumps({"id": self.calls, "method": method, "params": arguments}))
        while (answer := json.loads(self.socket.recv())).get("id") != self.calls:
            pass
        return answer.get("result", {})

    def evaluate(self, script):
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait_for(self, script):
        end = time.monotonic() + PATIENCE
        while not self.evaluate(script):
            if time.monotonic() > end:
                sys.exit(f"waited {PATIENCE} s in vain for: {script}")
            time.sleep(0.5)


def main():
    lesson, out = sys.argv[1:3]
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port, token = free.getsockname()[1], secrets.token_hex(16)
        free.close()
        lessons = pathlib.Path(folder, "lessons")
        shutil.copytree(LESSONS, lessons)
        lab = subprocess.Popen(
            [pathlib.Path(sys.executable).parent / "jupyter-lab", "--allow-root", "--no-browser", f"--ServerApp.port={port}"]
            + ["--ServerApp.ip=127.0.0.1", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={lessons}"]
            + ["--LabApp.expose_app_in_browser=True", "--Application.log_level=ERROR"]
        )
        browser = Browser(pathlib.Path(folder, "chromium"))
        try:
            base = f"http://127.0.0.1:{port}"
            while True:
                try:
                    urllib.request.urlopen(f"{base}/api?token={token}")
                    break
                except OSError:
                    time.sleep(0.3)
            browser.call("Page.enable")
            browser.call("Page.navigate", url=f"{base}/lab/tree/{lesson}?token={token}")
            browser.wait_for("!!(window.jupyterapp && window.jupyterapp.shell.currentWidget?.context?.isReady)")
            failed = browser.evaluate(RUN_ALL)
            browser.evaluate(SHOW)
            picture = browser.call("Page.captureScreenshot", format="png")["data"]
            pathlib.Path(out).write_bytes(base64.b64decode(picture))
        finally:
            browser.process.terminate()
            lab.terminate()
            lab.wait()
    print(f"{out}: {failed} outputs are errors")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Make the README's pictures: open lessons in JupyterLab in a real browser, run them on a live guest, photograph them.

Needs what `cargo xtask lab` needs, Chromium (`apt install chromium`) and playwright (`pip install playwright`, in a virtual
environment; it downloads nothing here).

    python docs/picture.py                    # every picture below
    python docs/picture.py packet.png         # one of them
"""

import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

from playwright.sync_api import sync_playwright

DOCS = pathlib.Path(__file__).resolve().parent
# File: the lesson, text that the cell has whose output is to be seen, and the size of the window.
PICTURES = {
    "lesson.png": ("04-address-space.md", "let mm = guest.mm(pid)?", (1300, 1000)),
    "packet.png": ("08-packet-path.md", "let path = paths.one(&sent[0])?", (1300, 1300)),
}
# A slow machine starts a kernel and runs a lesson in minutes.
PATIENCE = 300
BROWSER = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PANEL = ".jp-NotebookPanel:not(.lm-mod-hidden)"


def answers(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False


def lab():
    """JupyterLab, and its address with the token."""
    command = ["cargo", "xtask", "lab", "--no-browser"]
    process = subprocess.Popen(command, cwd=DOCS.parent, stdout=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stdout:
        if found := re.search(r"(http://\S+?/lab)/tree/\S+\?token=(\S+)", line):
            base, token = found[1], found[2]
            wait("JupyterLab does not answer", lambda: answers(f"{base}?token={token}"))
            return process, base, token
    sys.exit("`cargo xtask lab` ended without an address: see what it said")


def wait(what, done):
    until = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > until:
            sys.exit(f"{what}: not within {PATIENCE} s")
        time.sleep(0.5)


def photograph(page, base, token, name):
    lesson, text, (width, height) = PICTURES[name]
    page.set_viewport_size({"width": width, "height": height})
    page.goto(f"{base}/workspaces/{name.split('.')[0]}/tree/{lesson}?reset&token={token}")
    cell = page.locator(f"{PANEL} .jp-CodeCell", has_text=text).first
    cell.wait_for(state="attached", timeout=PATIENCE * 1000)
    # From the first cell on, without the files beside the lesson.
    page.wait_for_timeout(3000)
    page.keyboard.press("Control+b")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    wait(f"{lesson} does not run", lambda: page.locator(f"{PANEL} .jp-InputPrompt", has_text="[*]").count() > 0)
    wait(f"{lesson} does not end", lambda: page.locator(f"{PANEL} .jp-InputPrompt", has_text="[*]").count() == 0)
    if page.locator(f"{PANEL} .jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count():
        print(f"{lesson}: something was written to stderr")
    cell.evaluate("cell => cell.scrollIntoView({block: 'start'})")
    page.wait_for_timeout(2000)
    page.screenshot(path=DOCS / name)
    print(f"{name}: {lesson}")


def main():
    names = sys.argv[1:] or list(PICTURES)
    if unknown := set(names) - set(PICTURES):
        sys.exit(f"there is no picture {', '.join(sorted(unknown))}: there are {', '.join(PICTURES)}")
    process, base, token = lab()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=BROWSER)
            for name in names:
                page = browser.new_page(device_scale_factor=1)
                photograph(page, base, token, name)
                page.close()
            browser.close()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


main()

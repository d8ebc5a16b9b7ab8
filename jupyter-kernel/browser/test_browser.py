"""JupyterLab in Chromium, as a person uses it: `klab lab`, a lesson, completion, Shift-Tab, Stop, restart, an input field, a live view, the debugger.

KLAB names the program under test, JUPYTER_PATH holds the spec that it installed. KLAB_BROWSER_SHOTS names a folder for pictures of what was seen.
"""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import time

import pytest
from playwright.sync_api import expect, sync_playwright

# The machine may be busy, and a guest emulated.
PATIENCE = 120_000
KLAB = os.environ["KLAB"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LESSONS = pathlib.Path(__file__).parents[2] / "notebooks"
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def guest():
    name = f"browser-{os.getpid()}"
    subprocess.run([KLAB, "up", name], check=True)
    yield name
    subprocess.run([KLAB, "down", name], check=True)


@pytest.fixture(scope="module")
def lab(guest, tmp_path_factory):
    """The address of JupyterLab in a folder with a lesson."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(LESSONS / "00-tour.md", folder)
    env = {**os.environ, "KLAB_GUEST": guest}
    server = subprocess.Popen(
        [KLAB, "lab", str(folder), "--no-browser"], env=env, stdout=subprocess.PIPE, text=True, cwd=folder
    )
    try:
        address = re.search(r"http://\S+", server.stdout.readline()).group()
        host, port = re.match(r"http://([^:]+):(\d+)", address).groups()
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=5).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < deadline, "JupyterLab does not start"
                time.sleep(0.2)
        yield folder, address
    finally:
        server.terminate()
        server.wait(timeout=60)


@pytest.fixture(scope="module")
def browser():
    assert CHROMIUM, "Chromium is missing: `apt-get install chromium`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Notebook:
    """A notebook in JupyterLab."""

    def __init__(self, browser, lab, cells):
        folder, address = lab
        self.name = f"n{time.monotonic_ns()}.ipynb"
        spec = {"name": "klab", "display_name": "klab", "language": "rust"}
        notebook = {
            "cells": [
                {"cell_type": "code", "id": f"c{at}", "execution_count": None, "metadata": {}, "outputs": [], "source": text}
                for at, text in enumerate(cells)
            ],
            "metadata": {"kernelspec": spec},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        (folder / self.name).write_text(json.dumps(notebook))
        self.open(browser, address, self.name)

    def open(self, browser, address, name):
        self.page = browser.new_page(viewport={"width": 1500, "height": 1000})
        self.page.set_default_timeout(PATIENCE)
        # `reset` keeps what an earlier page had open out of this one.
        before, token = re.match(r"(http://[^/]+)/.*token=(\w+)", address).groups()
        self.page.goto(f"{before}/lab/tree/{name}?reset&token={token}")
        self.idle()

    def idle(self):
        """The kernel is there, and runs nothing."""
        expect(self.page.locator(".jp-NotebookPanel-toolbar .jp-Notebook-ExecutionIndicator")).to_have_attribute(
            "data-status", "idle"
        )
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text("| Idle")

    def cell(self, at):
        return self.page.locator(".jp-Notebook-cell").nth(at)

    def editor(self, at):
        return self.cell(at).locator(".cm-content")

    def output(self, at):
        return self.cell(at).locator(".jp-OutputArea-output")

    def run(self, at):
        prompt = self.cell(at).locator(".jp-InputPrompt").first
        before = prompt.inner_text()
        for _ in range(5):
            self.editor(at).click()
            self.page.keyboard.press("Control+Enter")
            try:
                # A kernel that is only just there may miss it.
                expect(prompt).to_have_text(re.compile(r"\[[*\d]+\]"), timeout=10_000)
                expect(prompt).not_to_have_text(before, timeout=10_000)
                return
            except AssertionError:
                pass
        raise AssertionError(f"cell {at} does not run")

    def done(self, at):
        expect(self.cell(at).locator(".jp-InputPrompt").first).to_have_text(re.compile(r"\[\d+\]"))

    def type(self, at, text):
        self.editor(at).click()
        self.page.keyboard.press("Control+End")
        self.page.keyboard.type(text)

    def toolbar(self, name):
        self.page.locator(f'.jp-NotebookPanel-toolbar [data-jp-item-name="{name}"]').locator("button, jp-button").first.click()

    def shot(self, what):
        shots = os.environ.get("KLAB_BROWSER_SHOTS")
        if shots:
            name = os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split()[0]
            pathlib.Path(shots).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{shots}/{name}-{what}.png")

    def close(self):
        self.shot("end")
        self.page.close()


@pytest.fixture
def notebook(browser, lab):
    made = []

    def make(*cells):
        made.append(Notebook(browser, lab, cells))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_lesson_opens_and_its_first_cells_run(browser, lab):
    lesson = Notebook.__new__(Notebook)
    lesson.open(browser, lab[1], "00-tour.md")
    code = lesson.page.locator(".jp-CodeCell")
    assert code.count() > 3
    code.nth(0).locator(".cm-content").click()
    lesson.page.keyboard.press("Control+Enter")
    expect(code.nth(0).locator(".jp-OutputArea-output").first).to_be_visible()
    lesson.idle()
    assert lesson.page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    lesson.close()


def test_completion_and_shift_tab_know_the_kernel(notebook):
    page = notebook("%p init_task.", "%tasks")
    page.type(0, "pi")
    page.page.keyboard.press("Tab")
    expect(page.page.locator(".jp-Completer")).to_contain_text("pid")
    page.page.keyboard.press("Escape")
    page.editor(1).click()
    page.page.keyboard.press("End")
    page.page.keyboard.press("Shift+Tab")
    expect(page.page.locator(".jp-Tooltip")).to_contain_text("task")
    page.page.keyboard.press("Escape")


def test_a_long_table_is_searched_and_a_picture_is_drawn(notebook):
    page = notebook("%symbols vfs_read", "%task-tree")
    page.run(0)
    expect(page.output(0).first).to_contain_text("vfs_read")
    page.run(1)
    expect(page.output(1).locator("svg, img, table, pre").first).to_be_visible()


def test_stop_keeps_variables_and_restart_does_not(notebook):
    page = notebook("let kept = 6 * 7;", "loop { std::thread::sleep(std::time::Duration::from_millis(10)); }", "kept")
    page.run(0)
    page.done(0)
    page.run(1)
    page.page.wait_for_timeout(3000)
    page.toolbar("interrupt")
    expect(page.output(1).first).to_contain_text("Interrupted")
    page.run(2)
    expect(page.output(2).first).to_have_text(re.compile("42"))
    page.toolbar("restart")
    page.page.locator(".jp-Dialog-button.jp-mod-warn, .jp-Dialog-button.jp-mod-accept").last.click()
    page.idle()
    page.run(2)
    expect(page.output(2).first).to_contain_text("cannot find value")


def test_a_cell_asks_and_a_view_lives(notebook):
    page = notebook(
        "let mut line = String::new();\nstd::io::stdin().read_line(&mut line)?;\nprintln!(\"got {}\", line.trim());",
        "watch(std::time::Duration::from_millis(300), || guest.eval(\"jiffies_64\"))?",
    )
    page.run(0)
    field = page.page.locator(".jp-Stdin-input")
    field.fill("an answer")
    field.press("Enter")
    expect(page.output(0).last).to_contain_text("got an answer")
    page.run(1)
    expect(page.output(1).first).to_contain_text(re.compile(r"\d+"))
    first = page.output(1).first.inner_text()
    expect(page.output(1).first).not_to_have_text(first)
    page.toolbar("interrupt")
    page.idle()


def test_an_address_is_a_link_also_while_a_cell_runs(notebook):
    page = notebook("%symbols init_task", "watch(std::time::Duration::from_millis(300), || guest.eval(\"jiffies_64\"))?")
    page.run(0)
    expect(page.output(0).first).to_contain_text("init_task")
    page.run(1)
    expect(page.output(1).first).to_contain_text(re.compile(r"\d+"))
    row = page.output(0).first.get_by_text(re.compile("0xffff")).first
    row.hover()
    link = page.output(0).first.locator(".klab-address").first
    address = link.inner_text()
    link.click()
    answer = page.page.locator(".klab-what")
    expect(answer).to_contain_text("init_task")
    expect(answer.locator("footer")).to_contain_text(address)
    page.shot("answer")
    # An address of the answer leads on, in the same place.
    further = answer.locator(".klab-address").filter(has_not_text=address).first
    wanted = further.inner_text()
    further.click()
    expect(answer.locator("footer")).to_contain_text(wanted)
    before = page.output(1).first.inner_text()
    expect(page.output(1).first).not_to_have_text(before)
    page.page.keyboard.press("Escape")
    expect(answer).to_have_count(0)
    page.toolbar("interrupt")
    page.idle()


@pytest.fixture
def recorded():
    name = f"recorded-{os.getpid()}"
    subprocess.run([KLAB, "up", name, "--record", "--memory", "256M"], check=True)
    yield name
    subprocess.run([KLAB, "down", name], check=True)


def test_a_slider_moves_a_recorded_guest_and_its_views(notebook, recorded):
    subprocess.run([KLAB, "run", recorded, "--", "true"], check=True)
    page = notebook(f"%p jiffies_64 --guest {recorded}", f"%guest replay {recorded}")
    page.run(1)
    slider = page.output(1).first.locator("input[type=range]")
    expect(slider).to_be_visible()
    page.run(0)
    view = page.output(0).first
    expect(view).to_contain_text("(u64)")
    at_the_end = view.inner_text()
    page.shot("at-the-end")
    moment = page.output(1).first.locator("input[type=number]")
    last = moment.input_value()
    first = slider.get_attribute("min")
    moment.fill(first)
    moment.press("Enter")
    expect(view).not_to_have_text(at_the_end)
    expect(slider).to_have_value(first)
    page.shot("at-the-beginning")
    slider.focus()
    page.page.keyboard.press("End")
    expect(view).to_have_text(at_the_end)
    expect(moment).to_have_value(last)
    moment.fill("1")
    moment.press("Enter")
    expect(page.output(1).first.locator("output")).to_contain_text("record")


def test_the_debuggers_panes_show_the_kernel(notebook, guest):
    page = notebook(
        "%break vfs_write --stay --if 'count == 5000' --within 100 -- sh -c 'dd if=/dev/zero of=/tmp/dd bs=5000 count=2 2>/dev/null'",
        "%where",
        "%resume",
    )
    for _ in range(5):
        page.toolbar("debugger-icon")
        try:
            expect(page.page.locator(".jp-DebuggerCallstack")).to_be_visible(timeout=10_000)
            break
        except AssertionError:
            # The button is there before what it does.
            pass
    page.run(0)
    expect(page.output(0).first).to_contain_text("vfs_write+")
    frames = page.page.locator(".jp-DebuggerCallstack-body li")
    expect(frames.first).to_contain_text("vfs_write")
    expect(frames.nth(1)).to_contain_text("ksys_write")
    variables = page.page.locator(".jp-DebuggerVariables")
    expect(variables).to_contain_text("count")
    expect(variables).to_contain_text("5000")
    # The instructions of the frame, as its source.
    expect(page.page.locator(".jp-DebuggerSources")).to_contain_text("+0x0009  push")
    button = lambda name: page.page.locator(f"[data-jp-item-name='{name}'] >> visible=true").first
    before = frames.first.inner_text()
    button("step-over").click()
    expect(frames.first).not_to_have_text(before)
    button("continue").click()
    expect(frames.first).to_contain_text("vfs_write+0x4")
    page.shot("stopped")
    page.run(1)
    expect(page.output(1).first).to_contain_text("ksys_write")
    page.run(2)
    expect(page.output(2).first).to_contain_text("is running")
    assert subprocess.run([KLAB, "run", guest, "--", "true"]).returncode == 0

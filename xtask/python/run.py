"""Execute lessons without a browser: `python xtask/python/run.py [--show] [--first N] [--save FOLDER] [LESSON.md ..]`.

Every lesson is a text file (MyST Markdown, read by jupytext) and is executed from top to bottom in a fresh kernel. A lesson
passes when no cell ends in an error; the cells that failed are shown, with the last lines of the guest's kernel log.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

LESSONS = pathlib.Path(__file__).resolve().parents[2] / "notebooks"
# The first start of a kernel waits for a compiler and for the guest, the first capture for the compilers of the module.
START_UP = 180
A_CELL = 600


def log_tail(lines=15):
    """The last lines of the guest's kernel log: the other half of most failures."""
    klab = os.environ.get("KLAB")
    if not klab:
        return "(KLAB does not name the klab program)"
    shown = subprocess.run([klab, "log"], capture_output=True, text=True, timeout=30, check=False)
    text = shown.stdout or shown.stderr
    return "\n".join(text.splitlines()[-lines:])


def texts(cell):
    """What a cell shows, as text."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            yield output.text
        elif output.output_type == "error":
            yield re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
        else:
            yield output.data.get("text/plain", "(" + ", ".join(output.data) + ")")


def show(cell):
    print("\n".join("    " + line for line in cell.source.splitlines()))
    for text in texts(cell):
        print(text.rstrip("\n"))
    print(flush=True)


def run(path, save, showing):
    """Execute one lesson; return the number of its code cells and the cell that failed."""
    notebook = jupytext.read(path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    client = NotebookClient(
        notebook,
        startup_timeout=START_UP,
        timeout=A_CELL,
        resources={"metadata": {"path": str(LESSONS)}},
        on_cell_executed=lambda cell, **_: show(cell) if showing else None,
    )
    problem = None
    try:
        client.execute()
    except CellExecutionError:
        pass  # its cell says so below
    except Exception as error:  # a kernel that died or never answered: say it, go on with the next lesson
        problem = f"{type(error).__name__}: {error}"
    failed = [cell for cell in cells if any(output.output_type == "error" for output in cell.outputs)]
    if not cells:
        problem = "no code cell"
    if save:
        save.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, save / f"{path.stem}.ipynb")
    return len(cells), failed, problem


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--show", action="store_true", help="print what every cell shows")
    parser.add_argument("--first", type=int, help="only the first so many lessons")
    parser.add_argument("--save", type=pathlib.Path, help="write the executed notebooks here")
    parser.add_argument("lessons", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    lessons = arguments.lessons or sorted(LESSONS.glob("[0-9]*.md"))[: arguments.first]
    passed = 0
    for path in lessons:
        began = time.monotonic()
        count, failed, problem = run(path, arguments.save, arguments.show)
        good = not failed and not problem
        passed += good
        print(f"{path.name:<40} {'ok' if good else 'FAILED':<8} {count} cells  {time.monotonic() - began:.1f} s", flush=True)
        if not good:
            for cell in [] if arguments.show else failed:
                show(cell)
            print(problem or "", "The guest's kernel log ends with:", log_tail(), "", sep="\n", flush=True)
    print(f"{passed} passed, {len(lessons) - passed} failed")
    return 0 if lessons and passed == len(lessons) else 1


if __name__ == "__main__":
    sys.exit(main())

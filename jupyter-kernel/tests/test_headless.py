"""A notebook that runs without a reader: its failures make `jupyter execute` fail."""

import os
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook


def execute(folder, *cells):
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "klab", "display_name": "klab", "language": "rust"}
    path = folder / "lesson.ipynb"
    nbformat.write(notebook, path)
    jupyter = os.path.join(os.path.dirname(sys.executable), "jupyter")
    done = subprocess.run(
        [jupyter, "execute", "--inplace", "--timeout=60", str(path)], capture_output=True, text=True
    )
    return done, nbformat.read(path, 4)


def test_a_notebook_that_holds_passes(tmp_path):
    done, notebook = execute(tmp_path, "let x = 20;", "assert_eq!(x, 20);\nx * 2 + 2")
    assert done.returncode == 0, done.stderr
    assert notebook.cells[1].outputs[0].data["text/plain"] == "42"


@pytest.mark.parametrize(
    "cell",
    [
        "assert_eq!(x, 21);",
        'panic!("no");',
        '"x".parse::<i32>()?;',
        '"x".parse::<i32>()',
        "let y: u8 = x;",
        "std::process::abort();",
        "%no_such_command",
    ],
)
def test_a_notebook_that_fails_fails(tmp_path, cell):
    done, _ = execute(tmp_path, "let x = 20;", cell, "1")
    assert done.returncode != 0

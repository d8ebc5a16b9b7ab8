"""The namespace of the `%%drgn` cells, and how code runs in it."""

import ast
import io
import linecache
import rlcompleter
import sys
import traceback

import drgn
import drgn.cli

import klab
from klab.program import kernel_of
from klab.values import shown

#: How much text without a newline is kept back.
LONGEST = 8192


class Stream(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of the cells: hands on whole lines as they are written."""

    def __init__(self, cells, name):
        self.cells = cells
        self.name = name
        self.rest = ""

    def writable(self):
        return True

    def write(self, text):
        self.rest += text
        if "\n" in text or len(self.rest) > LONGEST:
            self.flush()
        return len(text)

    def flush(self):
        text, self.rest = self.rest, ""
        if text:
            self.cells.say(stream=self.name, text=text)


class Cells:
    """The namespace, on the program of the guest that was asked for last."""

    def __init__(self):
        self.say = lambda **event: None
        self.namespace = {}
        self.programs = {}
        self.count = 0
        sys.stdout = Stream(self, "stdout")
        sys.stderr = Stream(self, "stderr")

    def flush(self):
        sys.stdout.flush()
        sys.stderr.flush()

    def enter(self, guest, core):
        """Makes `prog` the program of a guest, anew where the guest was reset since."""
        key = ("core", core) if core else ("guest", guest)
        prog = self.programs.get(key)
        if prog is not None and not core and not kernel_of(prog).current():
            print(f"guest `{guest}` was reset or started anew: `prog` is new, objects made before belong to the old one", file=sys.stderr)
            prog = None
        if prog is None:
            prog = self.programs[key] = klab.program(guest, core=core)
        if self.namespace.get("prog") is not prog:
            made = drgn.cli.default_globals(prog)
            # What the user has named stays; helpers do not change.
            for name, value in made.items():
                self.namespace.setdefault(name, value)
            self.namespace["prog"] = prog
            self.namespace["display"] = self.display
            self.namespace.setdefault("klab", klab)
            drgn.set_default_prog(prog)

    def display(self, value):
        """Shows a value while the cell runs."""
        self.flush()
        self.say(display=shown(value))

    def compile(self, code):
        """The cell's statements, and its last expression apart."""
        self.count += 1
        name = f"<drgn cell {self.count}>"
        try:
            tree = ast.parse(code, name)
        except SyntaxError:
            changed = commands(code)
            if changed == code:
                raise
            tree = ast.parse(changed, name)
            code = changed
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr) and not code.rstrip().endswith(";"):
            last = compile(ast.Expression(tree.body.pop().value), name, "eval")
        return compile(tree, name, "exec"), last

    def run(self, code):
        """Runs a cell; its value by mime type, or none."""
        body, last = self.compile(code)
        exec(body, self.namespace)
        value = eval(last, self.namespace) if last else None
        if value is None:
            return None
        self.namespace["_"] = value
        return shown(value)

    def evaluate(self, code):
        """The value of an expression; statements may stand before it."""
        body, last = self.compile(code)
        exec(body, self.namespace)
        if last is None:
            raise SyntaxError("this is a statement, not an expression")
        return eval(last, self.namespace)

    def set(self, name, ty, address):
        """Makes `name` the object of a type at an address."""
        if not name.isidentifier():
            raise NameError(f"`{name}` is not a name")
        self.namespace[name] = drgn.Object(self.namespace["prog"], ty, address=address)

    def complete(self, code):
        """What may follow the name at the end of `code`: whole names, and how many characters they replace."""
        start = len(code)
        while start and (code[start - 1].isalnum() or code[start - 1] in "_."):
            start -= 1
        word = code[start:]
        completer = rlcompleter.Completer(self.namespace)
        found = []
        while word and len(found) < 500 and (match := completer.complete(word, len(found))):
            found.append(match.rstrip("("))
        return {"matches": sorted(set(found)), "replaces": len(word)}


def commands(code):
    """The code with drgn's own `%` lines as calls: `%crash ps`."""
    lines = code.split("\n")
    call = "__import__('drgn.commands').commands.run_command(prog, {!r})"
    return "\n".join(call.format(line[1:].strip()) if line.startswith("%") else line for line in lines)


def failure(error):
    """An error of a cell as Jupyter has it, from the cell's own first frame on."""
    trace = error.__traceback__
    while trace and not trace.tb_frame.f_code.co_filename.startswith("<drgn cell"):
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace)
    name = "Interrupted" if isinstance(error, KeyboardInterrupt) else type(error).__name__
    value = "the cell was stopped; its variables are kept" if isinstance(error, KeyboardInterrupt) else str(error)
    return {"ename": name, "evalue": value, "traceback": "".join(lines).rstrip("\n").split("\n")}

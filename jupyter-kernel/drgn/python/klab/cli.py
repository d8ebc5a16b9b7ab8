"""`python -m klab.cli`: drgn's own command line on klab's program."""

import argparse
import os
import runpy
import sys

import drgn
import drgn.cli

import klab


def main():
    parser = argparse.ArgumentParser(prog="klab drgn", description="drgn on a guest of klab's")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--guest", metavar="NAME", help="the guest [default: $KLAB_GUEST, else `default`]")
    where.add_argument("--core", metavar="FILE", help="an ELF dump of a guest's memory instead")
    parser.add_argument("-e", dest="code", metavar="CODE", help="an expression or statements instead of the prompt")
    parser.add_argument("script", nargs="?", help="a drgn script instead of the prompt")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="the script's arguments")
    options = parser.parse_args()
    try:
        prog = klab.program(options.guest, core=options.core)
    except OSError as error:
        sys.exit(f"klab drgn: {error}")
    drgn.set_default_prog(prog)
    if options.code is not None:
        run_code(prog, options.code)
    elif options.script:
        sys.argv = [options.script, *options.args]
        sys.path.insert(0, os.path.dirname(os.path.abspath(options.script)))
        runpy.run_path(options.script, init_globals={"prog": prog}, run_name="__main__")
    else:
        print(drgn.cli.version_header(), file=sys.stderr)
        drgn.cli.run_interactive(prog)


def run_code(prog, code):
    """Runs code; an expression's value is printed."""
    namespace = drgn.cli.default_globals(prog)
    try:
        compiled = compile(code, "<-e>", "eval")
    except SyntaxError:
        exec(compile(code, "<-e>", "exec"), namespace)
        return
    drgn.cli._displayhook(eval(compiled, namespace))


if __name__ == "__main__":
    main()

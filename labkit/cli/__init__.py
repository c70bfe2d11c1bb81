"""The command ``labkit``: one module per subcommand, each with ``HELP``, ``add_arguments(parser)`` and ``run(args, out)``.

Exit codes: 0 success, 1 failure (with one line on stderr), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from labkit.cli import about
from labkit.cli.output import Output, prepare_streams
from labkit.errors import LabkitError, LabkitWarning

__all__ = ["main"]

COMMANDS = (
    "tour", "lab", "explore", "models", "info", "memory", "bench", "tune", "quantize", "perplexity", "milestone", "serve",
    "device", "check", "release", "grade", "selftest-course", "doctor",
)  # fmt: skip

_EPILOG = """\
first steps:
  labkit tour                  meet the bundled model: tokens, text, a chat, speed and memory (under 30 s)
  labkit lab                   open the course in JupyterLab
  labkit doctor                check the installation: what is missing and how to fix it

exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    prepare_streams()
    parser = _parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if given[:1] == ["lab"] and "--" in given else len(given)
    args = parser.parse_args(given[:end])
    args.rest = given[end + 1 :]  # for Jupyter
    if args.command is None:
        parser.print_help()
        return 2
    out = Output(as_json=getattr(args, "json", False))
    try:
        with _print_warnings(out):
            return int(args.run(args, out))
    except LabkitError as error:
        out.fail(str(error))
        return 1
    except KeyboardInterrupt:
        out.fail("interrupted")
        return 130
    except BrokenPipeError:  # the reader, such as `head`, closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


@contextlib.contextmanager
def _print_warnings(out: Output) -> Iterator[None]:
    """Print labkit's warnings in one line as they occur; leave others to Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", LabkitWarning)
        show = warnings.showwarning

        def print_warning(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
            if issubclass(category, LabkitWarning):
                out.warn(str(message))
            else:
                show(message, category, *rest, **options)

        warnings.showwarning = print_warning
        yield


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="labkit",
        description="Run, size, quantize and tune language models on this machine with llama.cpp.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    about.add_arguments(parser)
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    for name in COMMANDS:
        module = importlib.import_module(f"labkit.cli.{name.replace('-', '_')}")
        command = commands.add_parser(
            name, help=module.HELP, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser

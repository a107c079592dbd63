"""The `gmae-tools` command: a group whose sub-commands are the modules of this package.

A module `gmae_tools/cli/<name>.py` with a click command called `command` is the sub-command `<name>`, with
dashes for underscores. Modules whose name begins with an underscore are not commands. A command is imported
when it is asked for.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

import click

from gmae_tools.cli._version import print_versions
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.processes import is_first_to_fail

INTERRUPTED = "gmae_tools.interrupted"  # where a context has what is said after Ctrl-C
EXIT_INTERRUPTED = 130  # what shells use for a program ended by Ctrl-C (128 + SIGINT)
_OVER = 0.05  # seconds after which a callback of compiled code has returned


def print_error(problem: object) -> None:
    """Print `error: <problem>` as one line on stderr, without what a terminal would obey: files have any name."""
    line = " ".join(str(problem).splitlines())
    click.echo(f"error: {''.join(char if char.isprintable() else '?' for char in line)}", err=True)


class ModuleGroup(click.Group):
    """Sub-commands from the modules of this package; the user's mistakes end in one line, not in a traceback.

    Exit codes: 0 done, 1 something failed, 2 wrong usage (click's), 130 interrupted.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = (module.name for module in pkgutil.iter_modules(__path__))
        return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            with _no_interruption_lost():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of our output left (`| head`): click ends quietly
        except (GmaeToolsError, OSError) as error:  # OSError: no such folder, no permission, disk full, ...
            if is_first_to_fail():
                print_error(error)
            ctx.exit(1)
        except KeyboardInterrupt as interruption:
            if is_first_to_fail():
                print_error(str(interruption) or ctx.meta.get(INTERRUPTED, "interrupted"))
            ctx.exit(EXIT_INTERRUPTED)


@contextmanager
def _no_interruption_lost() -> Iterator[None]:
    """Have Ctrl-C come again where it came in a callback of compiled code (numba), which drops or disguises it."""
    usual = sys.unraisablehook

    def raise_again(lost: sys.UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            usual(lost)
            return
        timer = Timer(_OVER, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = raise_again
    try:
        yield
    except SystemError as disguise:  # "returned a result with an exception set"
        if isinstance(disguise.__cause__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        sys.unraisablehook = usual


@click.command(cls=ModuleGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=print_versions,
    help="Show the versions of this package, of torch and of the embedded checkpoint.",
)  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr what was chosen, and why.")
def main(verbose: bool) -> None:
    """Gaussian masked autoencoders on photographs: layers, pretraining, analyses.

    Results go to stdout and into files, progress to stderr.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names are printed as they are, whatever their bytes
    log = logging.getLogger("gmae_tools")
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.handlers = [LinesOnStderr()]


class LinesOnStderr(logging.Handler):
    """Log records as lines on what is stderr at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{record.levelname.lower()}: {record.getMessage()}", err=True)

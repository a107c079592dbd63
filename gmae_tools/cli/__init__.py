"""The `gmae-tools` command, a group whose sub-commands are the modules of this package.

A module `gmae_tools/cli/<name>.py` contains a click command `command`, which is the sub-command `<name>`, with dashes
for underscores. Modules whose names begin with an underscore are not commands. A module is imported when its command is
used.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import logging
import os
import pkgutil
import sys

import click

from gmae_tools.cli._version import print_versions
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.memory import imports_not_collected
from gmae_tools.system.processes import is_first_to_fail
from gmae_tools.system.untrusted import no_interruption_lost, protected, stderr_in_use

INTERRUPTED = "gmae_tools.interrupted"  # key of the message after Ctrl-C in the meta data of a click context
EXIT_INTERRUPTED = 130  # what shells use for a program ended by Ctrl-C (128 + SIGINT)

# The matrices of NumPy and SciPy are small here, and further threads for them only spin: segment took half as much
# processor time again. To be set before NumPy is imported. OMP_NUM_THREADS is for torch, which has threads of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
atexit.register(gc.freeze)  # a process that ends need not search what it leaves behind for cycles: that took a second


def print_error(problem: object) -> None:
    """Print `error: <problem>` as one line on stderr, without the control characters that file names may contain."""
    line = " ".join(str(problem).splitlines())
    with stderr_in_use:
        click.echo(f"error: {''.join(char if char.isprintable() else '?' for char in line)}", err=True)


class ModuleGroup(click.Group):
    """The sub-commands in the modules of this package. Errors that users can fix are one line, not a traceback.

    Exit codes: 0 for success, 1 for a failure, 2 for wrong usage (click's), 130 for an interruption.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = (module.name for module in pkgutil.iter_modules(__path__))
        return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        with imports_not_collected():
            module = importlib.import_module(f"{__name__}.{cmd_name.replace('-', '_')}")
        return module.command

    def invoke(self, ctx: click.Context) -> object:
        try:
            with protected(), no_interruption_lost():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of the output has ended (`| head`), and click exits silently
        except (GmaeToolsError, OSError) as error:  # OSError: no such folder, no permission, disk full, ...
            if is_first_to_fail():
                print_error(error)
            ctx.exit(1)
        except KeyboardInterrupt as interruption:
            if is_first_to_fail():
                print_error(str(interruption) or ctx.meta.get(INTERRUPTED, "interrupted"))
            ctx.exit(EXIT_INTERRUPTED)


@click.command(cls=ModuleGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=print_versions,
    help="Show the versions of this package, of torch and of the embedded checkpoint.",
)
@click.option("-v", "--verbose", is_flag=True, help="Report on stderr what is chosen automatically, and why.")
def main(verbose: bool) -> None:
    """Gaussian masked autoencoders on photographs: layers, pretraining, analyses.

    Results are printed on stdout and written to files. Progress is shown on stderr.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # prints names of any bytes
    log = logging.getLogger("gmae_tools")
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.handlers = [LinesOnStderr()]


class LinesOnStderr(logging.Handler):
    """Prints log records as lines on the current stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        with stderr_in_use:
            click.echo(f"{record.levelname.lower()}: {record.getMessage()}", err=True)

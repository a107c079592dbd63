"""The `gmae-tools` command: a group whose sub-commands are the modules of this package.

A module `gmae_tools/cli/<name>.py` with a click command called `command` is the sub-command `<name>`, with
dashes for underscores. Modules whose name begins with an underscore are not commands. A command is imported
when it is asked for.
"""

from __future__ import annotations

import importlib
import io
import logging
import pkgutil
import sys

import click

from gmae_tools.cli._version import print_versions
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.processes import is_first_to_fail
from gmae_tools.system.untrusted import no_interruption_lost, protected

INTERRUPTED = "gmae_tools.interrupted"  # key of the message after Ctrl-C in the meta data of a click context
EXIT_INTERRUPTED = 130  # what shells use for a program ended by Ctrl-C (128 + SIGINT)


def print_error(problem: object) -> None:
    """Print `error: <problem>` as one line on stderr, without the control characters that file names may hold."""
    line = " ".join(str(problem).splitlines())
    click.echo(f"error: {''.join(char if char.isprintable() else '?' for char in line)}", err=True)


class ModuleGroup(click.Group):
    """Sub-commands from the modules of this package. Mistakes of the user end in one line, not in a traceback.

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
            with protected(), no_interruption_lost():
                return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of the output has left (`| head`): click ends quietly
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
@click.option("-v", "--verbose", is_flag=True, help="Report on stderr what was chosen automatically, and why.")
def main(verbose: bool) -> None:
    """Gaussian masked autoencoders on photographs: layers, pretraining, analyses.

    Results go to stdout and into files, progress to stderr.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # prints names of any bytes
    log = logging.getLogger("gmae_tools")
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.handlers = [LinesOnStderr()]


class LinesOnStderr(logging.Handler):
    """Prints log records as lines on the current stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{record.levelname.lower()}: {record.getMessage()}", err=True)

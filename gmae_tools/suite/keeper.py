"""Runs a command, and kills it and all processes that it has started as soon as the pipe on stdin is closed.

The pipe is also closed when the process at its other end is killed, so that even `kill -9` leaves nothing running.

    python keeper.py COMMAND ARGUMENT...        # exits with the code of the command, or 128 + N if signal N ended it
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

SIGNALLED = 128  # exit code of a command that signal N ended, less N


def main(command: list[str]) -> None:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_kill_when_closed, args=(child.pid,), daemon=True).start()
    code = child.wait()
    _kill(child.pid)  # processes that the command has left running
    os._exit(code if code >= 0 else SIGNALLED - code)  # because the thread is still waiting


def _kill_when_closed(group: int) -> None:
    os.read(sys.stdin.fileno(), 1)
    _kill(group)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, of a group that has ended
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])

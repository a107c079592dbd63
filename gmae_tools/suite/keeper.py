"""Runs a command, and ends it with everything that it has started when the end of a pipe on stdin is closed.

Whoever holds the other end (and nobody else does) need not live to close it: `kill -9` leaves nothing running.

    python keeper.py COMMAND ARGUMENT...        # its exit code is the command's; 128 + N if signal N ended it
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

SIGNALLED = 128  # added to the number of a signal in exit codes


def main(command: list[str]) -> None:
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_kill_when_closed, args=(child.pid,), daemon=True).start()
    code = child.wait()
    _kill(child.pid)  # what it has left behind
    os._exit(code if code >= 0 else SIGNALLED - code)  # not by way of the thread, which is still waiting


def _kill_when_closed(group: int) -> None:
    os.read(sys.stdin.fileno(), 1)
    _kill(group)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # PermissionError: macOS, of a group that has ended
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])

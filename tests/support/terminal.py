"""A terminal of a given width that runs a program and keeps its screen: what a person would see."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Sequence
from contextlib import suppress

import pyte

_LINES = 60


def run_on_terminal(argv: Sequence[str], columns: int, timeout: float = 120) -> tuple[int, list[str], list[str]]:
    """Run a program with stderr and stdout on a terminal.

    Returns its exit code, the lines of every screen that was seen while it ran, each line once, and those of the last.
    """
    screen = pyte.Screen(columns, _LINES)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm-256color"}
    )
    os.close(theirs)
    seen: dict[str, None] = {}
    with suppress(OSError):  # the terminal is closed when the program ends
        while block := os.read(ours, 1 << 16):
            stream.feed(block)
            seen |= dict.fromkeys(_lines(screen))
    os.close(ours)
    return process.wait(timeout), list(seen), _lines(screen)


def _lines(screen: pyte.Screen) -> list[str]:
    return [line.rstrip() for line in screen.display if line.strip()]

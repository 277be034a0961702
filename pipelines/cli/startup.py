"""What `idxtrain` does before it imports anything else. Only in that program does importing this module do it.

Imports take up to a second on a busy machine, and a Ctrl-C during them must end in one line, too.
"""

import os
import signal
import sys
from types import FrameType

_MODULE = "pipelines.cli"
INTERRUPTED = 75  # jobs.errors.ResumableError.exit_code, which is not imported yet


def interrupted(number: int, frame: FrameType | None) -> None:
    """End at once: nothing has begun."""
    os.write(2, b"idxtrain: interrupted\n")
    os._exit(INTERRUPTED)


def own_packages() -> None:
    """Restart without PYTHONPATH, whose folders would come before those of this environment."""
    if os.environ.get("PYTHONPATH") and not sys.flags.ignore_environment:
        os.execv(sys.executable, (sys.executable, "-I", "-m", _MODULE, *sys.argv[1:]))  # noqa: S606


def hold_streams() -> None:
    """Open those of stdin, stdout and stderr that are closed, or the next opened file would get their number.

    Writing to a closed stdout keeps failing, because the result would be lost. What is written to a closed stderr is
    dropped.
    """
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            os.open(os.devnull, flags)  # gets this number, the lowest free one
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


_SPEC = getattr(sys.modules["__main__"], "__spec__", None)
_IS_SCRIPT = _SPEC is None and os.path.basename(sys.argv[0]) == "idxtrain"  # noqa: PTH119

if _IS_SCRIPT or (_SPEC and _SPEC.name == f"{_MODULE}.__main__"):
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell ignores it for background jobs
        signal.signal(signal.SIGINT, interrupted)
    if _IS_SCRIPT:  # whoever runs the module chooses the path it comes from
        own_packages()
    hold_streams()

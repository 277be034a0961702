"""What the program `idxtrain` sees to before it imports anything else; importing this does it, in no other program.

Imports take most of a second on a busy machine, and a Ctrl-C in it is to end in one line, too.
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
    """Start again without PYTHONPATH, whose folders come before those of this environment."""
    if os.environ.get("PYTHONPATH") and not sys.flags.ignore_environment:
        os.execv(sys.executable, (sys.executable, "-I", "-m", _MODULE, *sys.argv[1:]))  # noqa: S606


def hold_streams() -> None:
    """Open what is closed of stdin, stdout and stderr, or the next file that is opened would be taken for it.

    Writing to a stdout that was closed goes on failing, as the result would be lost; to stderr it is for nobody.
    """
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            os.open(os.devnull, flags)  # gets this number, which is the lowest that is free
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


_SPEC = getattr(sys.modules["__main__"], "__spec__", None)
_IS_SCRIPT = _SPEC is None and os.path.basename(sys.argv[0]) == "idxtrain"  # noqa: PTH119

if _IS_SCRIPT or (_SPEC and _SPEC.name == f"{_MODULE}.__main__"):
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell ignores it in the background
        signal.signal(signal.SIGINT, interrupted)
    if _IS_SCRIPT:  # who runs the module says where it comes from
        own_packages()
    hold_streams()

"""How our own Python processes start, as values: only the environment they are installed in decides what they import.

`python -m` alone puts the current folder first on the import path, and Python puts the folders of PYTHONPATH before its
own library: a `models.py` or a `random.py` there would run instead of ours.
"""

import sys
from collections.abc import Mapping

# -I does both in one: no folder of the caller on the import path, and no PYTHON* variable is read.
_ISOLATED = "-I"
# The same for a Python that others start and that takes no option of ours, such as Spark's workers.
SAFE_PATH = {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}

# What tells a process which rank it is, and where the others are. It is the launcher's to say: in a shell it is left
# from another job, whose ranks a process would wait for.
_RANK = (
    *(f"HOROVOD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")),
    *(f"HOROVOD_{name}" for name in ("HOSTNAME", "CONTROLLER", "CPU_OPERATIONS", "ELASTIC")),
    *(f"HOROVOD_{name}" for name in ("GLOO_RENDEZVOUS_ADDR", "GLOO_RENDEZVOUS_PORT", "GLOO_IFACE")),
    *("PMI_RANK", "PMI_SIZE", "PMI_FD", "PMIX_RANK", "PMIX_NAMESPACE"),
)
_FOREIGN = ("PYTHON", "OMPI_COMM_WORLD_", "PMIX_SERVER_")  # the begin of further names


def module_command(module: str, *arguments: str, python: str = sys.executable) -> tuple[str, ...]:
    """Return the argv that runs one of our modules as a program. `python`: the interpreter, ours by default."""
    return (python, _ISOLATED, "-m", module, *arguments)


def clean_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return a shell's environment without what would make another run of the same command.

    Left out are Python's own variables and those by which a launcher names a rank. Settings of how ranks exchange
    (HOROVOD_CYCLE_TIME, HOROVOD_LOG_LEVEL, NCCL_*) are the user's, and stay.
    """
    kept = {name: value for name, value in inherited.items() if name not in _RANK and not name.startswith(_FOREIGN)}
    return kept | SAFE_PATH

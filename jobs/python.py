"""How the project starts its Python processes: only their own environment decides what they import.

`python -m` alone puts the current folder first on the import path. Python also puts the folders of PYTHONPATH before
its own library. A `models.py` or a `random.py` there would run instead of ours.
"""

import sys
from collections.abc import Mapping

# Python ignores the caller's folder and every PYTHON* variable.
_ISOLATED = "-I"
# The same for a Python that others start and that takes no option of ours, such as Spark's workers.
SAFE_PATH = {"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1"}

# Variables that give a process its rank and the address of the others. Only the launcher sets them: those of a shell
# belong to another job, and a process would wait for that job's ranks.
_RANK = (
    *(f"HOROVOD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")),
    *(f"HOROVOD_{name}" for name in ("HOSTNAME", "CONTROLLER", "CPU_OPERATIONS", "ELASTIC")),
    *(f"HOROVOD_{name}" for name in ("GLOO_RENDEZVOUS_ADDR", "GLOO_RENDEZVOUS_PORT", "GLOO_IFACE")),
    *("PMI_RANK", "PMI_SIZE", "PMI_FD", "PMIX_RANK", "PMIX_NAMESPACE"),
)
_FOREIGN_PREFIXES = ("PYTHON", "OMPI_COMM_WORLD_", "PMIX_SERVER_")


def module_command(module: str, *arguments: str, python: str = sys.executable) -> tuple[str, ...]:
    """Return the argv that runs one of our modules as a program. `python`: the interpreter, by default this one."""
    return (python, _ISOLATED, "-m", module, *arguments)


def clean_environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return a shell's environment without the variables that would change what a command of ours does.

    Drops Python's own variables and those that give a process its rank. Settings of how ranks communicate
    (HOROVOD_CYCLE_TIME, HOROVOD_LOG_LEVEL, NCCL_*) are the user's, and stay.
    """
    environment = {
        name: value for name, value in inherited.items() if name not in _RANK and not name.startswith(_FOREIGN_PREFIXES)
    }
    return environment | SAFE_PATH

"""What ranks do together; that it is right is tested where they train."""

import os
import subprocess
import sys

import pytest

SHOW = "from jobs.train.collective import Collective; import os; Collective(); print(os.environ['HOROVOD_CYCLE_TIME'])"


@pytest.mark.parametrize(("given", "found"), [({}, "3"), ({"HOROVOD_CYCLE_TIME": "0.5"}, "0.5")])
def test_horovod_looks_less_often_on_cpus_but_as_often_as_the_user_says(given: dict[str, str], found: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SHOW], env={**os.environ, **given}, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split()[-1] == found

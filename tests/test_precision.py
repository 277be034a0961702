"""Which arithmetic a training takes where it may choose."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.train.compute import precision
from jobs.train.compute.collective import Collective
from jobs.train.config import TrainConfig

WITH, WITHOUT = "flags\t\t: fpu avx512_bf16\n", "flags\t\t: fpu avx2\n"
SLOW, QUICK = (f"vendor_id\t: GenuineIntel\n{flags}" for flags in (WITH, "flags\t\t: avx512_bf16 amx_bf16\n"))


class Ranks(Collective):
    """This rank and others, who say what they are told to."""

    def __init__(self, *others: int) -> None:
        self._others = others

    def gather(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([values, *(np.full_like(values, other) for other in self._others)])


def tensorflow(capability: tuple[int, int] | None = None) -> Any:
    """TensorFlow as it looks on a machine with such a GPU; None: without."""
    return SimpleNamespace(
        config=SimpleNamespace(
            get_visible_devices=lambda kind: ["GPU:0"] if capability else [],
            experimental=SimpleNamespace(get_device_details=lambda gpu: {"compute_capability": capability}),
        )
    )


@pytest.mark.parametrize(
    ("cpuinfo", "capability", "others", "found"),
    [
        (WITH, None, (), "bfloat16"),
        (WITH, None, (1, 1), "bfloat16"),
        (WITH, None, (1, 0), "float32"),  # one node of another kind
        (WITHOUT, None, (), "float32"),
        (SLOW, None, (), "float32"),
        (QUICK, None, (), "bfloat16"),
        (WITHOUT, None, (1,), "float32"),
        (WITHOUT, (8, 0), (), "bfloat16"),
        (WITHOUT, (9, 0), (1,), "bfloat16"),
        (WITH, (7, 5), (), "float32"),  # the CPU has the units, but the GPU computes
    ],
)
def test_auto(
    cpuinfo: str,
    capability: tuple[int, int] | None,
    others: tuple[int, ...],
    found: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(cpuinfo)
    monkeypatch.setattr(precision, "_CPUINFO", file)
    asked = TrainConfig(epochs=1, precision="auto")
    assert precision.chosen(tensorflow(capability), asked, Ranks(*others)) == found


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
def test_what_is_named_is_taken(asked: Any) -> None:
    config = TrainConfig(epochs=1, precision=asked)
    assert precision.chosen(tensorflow(), config, Ranks()) == asked


def test_a_deterministic_training_does_not_depend_on_the_device() -> None:
    config = TrainConfig(epochs=1, precision="auto", deterministic=True)
    assert precision.chosen(tensorflow((9, 0)), config, Ranks()) == "float32"

"""The precision that a training chooses."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.train.compute import devices, precision
from jobs.train.compute.collective import Collective
from jobs.train.config import TrainConfig
from jobs.train.worker import configure_tensorflow

WITH, WITHOUT = "flags\t\t: fpu avx512_bf16\n", "flags\t\t: fpu avx2\n"
SLOW, FAST = (f"vendor_id\t: GenuineIntel\n{flags}" for flags in (WITH, "flags\t\t: avx512_bf16 amx_bf16\n"))


class Ranks(Collective):
    """This rank and others, which send the given values."""

    def __init__(self, *others: int) -> None:
        self._others = others

    def gather(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([values, *(np.full_like(values, other) for other in self._others)])


def tensorflow(capability: tuple[int, int] | None = None) -> Any:
    """Return TensorFlow as on a machine with a GPU of this capability; None: without a GPU."""
    return SimpleNamespace(
        config=SimpleNamespace(
            get_visible_devices=lambda kind: ["GPU:0"] if capability else [],
            experimental=SimpleNamespace(get_device_details=lambda gpu: {"compute_capability": capability}),
        )
    )


@pytest.mark.parametrize(
    ("cpuinfo", "capability", "others", "expected"),
    [
        (WITH, None, (), "bfloat16"),
        (WITH, None, (1, 1), "bfloat16"),
        (WITH, None, (1, 0), "float32"),  # a node without fast bfloat16
        (WITHOUT, None, (), "float32"),
        (SLOW, None, (), "float32"),
        (FAST, None, (), "bfloat16"),
        (WITHOUT, None, (1,), "float32"),
        (WITHOUT, (8, 0), (), "bfloat16"),
        (WITHOUT, (9, 0), (1,), "bfloat16"),
        (WITH, (7, 5), (), "float32"),  # the CPU has the units, but the GPU computes
    ],
)
def test_auto_is_bfloat16_if_all_devices_compute_it_fast(
    cpuinfo: str,
    capability: tuple[int, int] | None,
    others: tuple[int, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(cpuinfo)
    monkeypatch.setattr(precision, "_CPUINFO", file)
    config = TrainConfig(epochs=1, precision="auto")
    assert precision.choose_precision(tensorflow(capability), config, Ranks(*others)) == expected


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_configured_precision_is_used(name: Any) -> None:
    config = TrainConfig(epochs=1, precision=name)
    assert precision.choose_precision(tensorflow(), config, Ranks()) == name


def test_a_deterministic_training_does_not_depend_on_the_device() -> None:
    config = TrainConfig(epochs=1, precision="auto", deterministic=True)
    assert precision.choose_precision(tensorflow((9, 0)), config, Ranks()) == "float32"


@pytest.mark.parametrize(("optimizer", "expected"), [("adam", True), ("muon", False)])
def test_muon_alone_turns_tf32_off(optimizer: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    monkeypatch.setattr(devices, "configure", lambda *_: "a GPU")
    tf.config.experimental.enable_tensor_float_32_execution(True)  # an evaluation in this process has turned it off
    config = TrainConfig.model_validate({"epochs": 1, "optimizer": optimizer, "precision": "float32"})
    ranks = SimpleNamespace(local_rank=0, local_size=1)
    try:
        assert configure_tensorflow(config, ranks) == ("float32", "a GPU")  # type: ignore[arg-type]
        assert tf.config.experimental.tensor_float_32_execution_enabled() == expected
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(True)

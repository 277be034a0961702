"""The names of checkpoint files, as the training writes them and others read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.checkpoint_names import checkpoint_name, step_of


@given(st.integers(0, 10**12))
def test_a_name_gives_back_its_step(step: int) -> None:
    assert step_of(checkpoint_name(step)) == step


def test_names_are_a_contract() -> None:
    assert checkpoint_name(42) == "step-00000042.safetensors"


@pytest.mark.parametrize(
    "name",
    [
        "step-42.safetensors", "step-000000042.safetensors", "step-00000042.json", "step-.safetensors", "best.json",
        "step-0000004x.safetensors", ".0a1b2c3d.tmp-step-00000042.safetensors", "step-00000042.safetensors\n",
        "step-٠٠٠٠٠٠٤٢.safetensors", "step--0000042.safetensors", "",
    ],
)  # fmt: skip
def test_any_other_name_has_no_step(name: str) -> None:
    assert step_of(name) is None

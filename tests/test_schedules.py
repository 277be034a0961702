"""The learning rate of every step."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.training.schedules import Rates

NAMES = ["constant", "step", "cosine", "linear", "one-cycle"]
FALLING = ["step", "cosine", "linear", "one-cycle"]


def rates(name: str, steps: int, peak: float, warmup: float, final: float) -> NDArray[Any]:
    """Return the rates of all steps: float32 [steps]."""
    return Rates(name, steps, peak, warmup, final)[:]


@given(st.sampled_from(NAMES), st.integers(1, 300), st.floats(0, 0.99), st.data())
def test_a_step_has_the_same_rate_in_any_slice(name: str, steps: int, warmup: float, data: st.DataObject) -> None:
    first, last = sorted(data.draw(st.tuples(st.integers(0, steps), st.integers(0, steps))))
    some = Rates(name, steps, 0.3, warmup, 0.01)[first:last]
    assert some.tobytes() == rates(name, steps, 0.3, warmup, 0.01)[first:last].tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_long_training_takes_no_memory_for_its_rates(name: str) -> None:
    tracemalloc.start()
    each = Rates(name, 10_000_000, 0.5, 0.1, 0.0)
    assert len(each[999_000:1_001_000]) == 2000
    assert len(each) == 10_000_000
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@given(
    st.sampled_from(NAMES),
    st.integers(1, 500),
    st.floats(1e-5, 10),
    st.floats(0, 0.99),
    st.floats(0, 1),
)
def test_every_schedule_rises_to_the_peak_then_never_rises(
    name: str, steps: int, peak: float, warmup: float, final: float
) -> None:
    each = rates(name, steps, peak, warmup, final)
    assert each.dtype == np.float32
    assert each.shape == (steps,)
    rising = round(steps * warmup)
    top = np.float32(peak)
    assert each.max() == pytest.approx(top, rel=1e-6)
    assert (np.diff(each[:rising]) > 0).all()
    assert (np.diff(each[rising:]) <= 0).all()
    assert (each[rising:] >= top * np.float32(final) * np.float32(1 - 1e-6)).all()
    assert (each[:rising] > 0).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("warmup", [0.0, 0.9])
def test_a_single_step_is_at_the_peak(name: str, warmup: float) -> None:
    assert rates(name, 1, 0.5, warmup, 0.0).tolist() == [0.5]


@pytest.mark.parametrize("name", NAMES)
def test_a_training_of_zero_steps_has_no_rates(name: str) -> None:
    assert rates(name, 0, 0.5, 0.5, 0.0).shape == (0,)


@pytest.mark.parametrize("name", FALLING)
@pytest.mark.parametrize("final", [0.0, 0.01, 1.0])
def test_the_last_step_is_at_the_final_fraction_of_the_peak(name: str, final: float) -> None:
    each = rates(name, 100, 0.2, 0.3, final)
    assert each[30] == pytest.approx(0.2)
    assert each[-1] == pytest.approx(0.2 * final, abs=1e-7)


def test_constant_stays_at_the_peak_at_any_final_fraction() -> None:
    assert set(rates("constant", 50, 0.25, 0.0, 0.1).tolist()) == {0.25}


def test_warmup_is_linear_from_near_zero() -> None:
    each = rates("linear", 10, 1.0, 0.4, 0.0)
    assert each[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert each[4:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0])


def test_one_cycle_rises_from_a_25th_of_the_peak_and_falls_as_a_cosine() -> None:
    each = rates("one-cycle", 105, 1.0, 100 / 105, 0.0)
    assert each[0] == pytest.approx(1 / 25 + 24 / 25 / 100)
    assert each[49] == pytest.approx((1 / 25 + 1) / 2)
    assert each[100:] == pytest.approx([1.0, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4, 0.0], abs=1e-7)


def test_step_has_three_levels_of_equal_length() -> None:
    each = rates("step", 9, 1.0, 0.0, 0.01)
    assert each == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])


def test_cosine_is_halfway_in_the_middle() -> None:
    assert rates("cosine", 101, 1.0, 0.0, 0.2)[50] == pytest.approx(0.6)


def test_an_unknown_name_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        rates("exponential", 10, 0.1, 0.0, 0.0)

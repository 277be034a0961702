"""The forecast of `idxtrain plan`: an epoch's time on N ranks by the measured speed of a step."""

import json
import os
import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.doctor.measure import rank_counts
from jobs import step_speed
from jobs.errors import InputError
from jobs.run_dir import Work
from jobs.step_speed import StepSpeed, StepSpeeds
from jobs.train.config import TrainConfig
from jobs.words import counted
from pipelines.config import compose
from pipelines.forecast import EpochSize, best, forecast, key_of, lines, lines_of, step_seconds
from pipelines.plan import plan_training
from tests.conftest import Idxtrain

# 3.3 million weights and a batch of 50, as in `lecture`.
LECTURE = StepSpeed(
    ranks=2, rows=25, seconds=0.060, waited=0.020, fewer_rows=6, fewer_seconds=0.012, validation_row=1e-4,
    gradient_bytes=13_000_000, gradient_seconds=0.015, latency=0.003,
)  # fmt: skip
ALONE = StepSpeed(
    ranks=1, rows=50, seconds=0.080, waited=0.0, fewer_rows=12, fewer_seconds=0.022, validation_row=1e-4,
    gradient_bytes=13_000_000, gradient_seconds=0.0, latency=0.0,
)  # fmt: skip
SIZE = EpochSize(steps=1100, batch_size=50, validation_rows=5000)


def speeds(*steps: StepSpeed, site: str | None = None) -> StepSpeeds:
    return StepSpeeds(host=platform.node(), site=site, device="1 CPU thread, float32", batch_size=50, steps=steps)


def on_a_slow_network(step: StepSpeed, megabytes_per_second: float) -> StepSpeed:
    """Return a step whose allreduce sends this much."""
    sent = 2 * (step.ranks - 1) / step.ranks * step.gradient_bytes / (1e6 * megabytes_per_second) + step.latency
    seconds = step.seconds - step.waited + sent
    return step.model_copy(update={"waited": sent, "gradient_seconds": sent, "seconds": seconds})


def test_an_epoch_is_its_steps_and_its_validation() -> None:
    one, two = forecast(SIZE, speeds(ALONE, LECTURE))
    assert (one.ranks, two.ranks, one.is_measured) == (1, 2, True)
    assert one.seconds == pytest.approx(1100 * 0.080 + 0.5)
    assert two.seconds == pytest.approx(1100 * 0.060 + 0.25)
    half = forecast(EpochSize(steps=10, batch_size=50, validation_rows=5000, validations=0.5), speeds(ALONE))
    assert half[0].seconds == pytest.approx(0.8 + 0.25)


def test_the_faster_number_of_ranks_is_best_and_the_fewest_of_equal_ones() -> None:
    assert best(forecast(SIZE, speeds(ALONE, LECTURE))).ranks == 2
    as_slow = LECTURE.model_copy(update={"seconds": 0.0785})
    assert best(forecast(SIZE, speeds(ALONE, as_slow))).ranks == 1


def test_on_a_slow_network_one_rank_is_advised_with_the_reason() -> None:
    slow = speeds(ALONE, on_a_slow_network(LECTURE, 100), site="pond")
    text = "\n".join(lines_of(SIZE, slow, 2))
    assert "fewer ranks are faster: --np 1, as 77% of a step on 2 is allreduce" in text
    assert "an epoch takes 88.5 s on 1 rank, 191 s on 2 ranks of site pond" in text
    assert best(forecast(SIZE, slow, [1, 2, 4, 8, 16])).ranks == 1


def test_more_ranks_follow_from_those_measured_on_a_sites_nodes_but_not_on_this_machine() -> None:
    fast = speeds(ALONE, LECTURE, site="lake")
    four = next(each for each in forecast(SIZE, fast, [4]) if each.ranks == 4)
    # Compute: 0.040 s for 25 rows, 0.012 for 6, so 0.0218 for 13; the network: 6 messages of 0.0015 s and a quarter.
    assert four.seconds == pytest.approx(1100 * (0.0223 + 0.009 + 1.5 * 0.012), rel=0.01)
    assert not four.is_measured
    assert [each.ranks for each in forecast(SIZE, speeds(ALONE, LECTURE), [4])] == [1, 2]
    text = "\n".join(lines_of(SIZE, speeds(ALONE, LECTURE), 4))
    assert "best of these: 2 ranks; `idxtrain doctor --measure --np 4` measures it" in text


@given(st.integers(2, 4096))
def test_a_step_on_the_measured_ranks_is_the_measured_one_and_none_takes_less_than_its_latency(ranks: int) -> None:
    # The standalone allreduce here takes 15 ms, and 20 ms inside a step, which also waits for the slower rank.
    assert step_seconds(LECTURE, 2, 50) == pytest.approx(0.040 + 0.015)
    assert step_seconds(LECTURE, ranks, 8192) > 2 * (ranks - 1) * 0.0015


def test_measured_are_powers_of_two_and_the_limit() -> None:
    assert [rank_counts(limit) for limit in (1, 2, 3, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8, 12]]


def test_every_key_that_names_a_kind_of_step_is_one_of_train() -> None:
    assert set(step_speed._KEYS) <= set(TrainConfig.model_fields)
    config = TrainConfig(epochs=1)
    name = step_speed.key(config, 256, (28, 28), "float32")
    assert name == step_speed.key(
        config.model_copy(update={"epochs": 9, "learning_rate": 1.0}), 256, (28, 28, 1), "float32"
    )
    others = [config.model_copy(update=change) for change in ({"model": "lecture"}, {"precision": "bfloat16"})]
    assert len({name, *(step_speed.key(other, 256, (28, 28), "float32") for other in others)}) == 3
    assert name != step_speed.key(config, 128, (28, 28), "float32")
    assert name != step_speed.key(config, 256, (28, 28), "uint8")


def test_the_plan_shows_what_was_measured_here_then_on_sites_and_refuses_damaged_figures(
    tmp_path: Path, idxtrain: Idxtrain
) -> None:
    plan, work = plan_training(compose("lecture", {}), Work(tmp_path), 2), Work(tmp_path)
    assert lines(plan, work) == ["forecast    none: `idxtrain doctor --measure` with these options measures a step"]
    file = step_speed.write(work, key_of(plan), speeds(ALONE, LECTURE))
    step_speed.write(work, key_of(plan), speeds(on_a_slow_network(LECTURE, 10), site="a-pond"))
    done = idxtrain("plan", "--recipe", "lecture", "--np", "2", "--work", str(tmp_path))
    assert "an epoch takes 88.5 s on 1 rank, 66.2 s on 2 ranks of this machine (1 CPU thread, float32)" in done.stdout
    assert done.stdout.index("of this machine") < done.stdout.index("of site a-pond")
    assert "best: 2 ranks" in done.stdout
    file.write_text(json.dumps({"site": None}))
    with pytest.raises(InputError, match=r"fix: remove it, or measure again$"):
        lines(plan, work)


def test_options_of_the_measurement_are_refused_without_it(idxtrain: Idxtrain) -> None:
    done = idxtrain("doctor", "--recipe", "lecture")
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "idxtrain: --recipe: found without --measure, expected with it; fix: leave it out, or add --measure"
    )


@pytest.mark.long
def test_doctor_measures_a_step_that_the_plan_then_forecasts(tmp_path: Path, idxtrain: Idxtrain) -> None:
    options = ("--recipe", "softmax", "--np", "2", "--work", str(tmp_path))
    done = idxtrain("doctor", "--measure", *options)
    assert done.returncode == 0, done.stderr
    header, one, two = done.stdout.splitlines()
    assert header.split()[:1] == ["ranks"]
    assert (one.split()[:2], two.split()[:2]) == (["1", "100"], ["2", "50"])
    (file,) = (tmp_path / "speeds").iterdir()
    measured = StepSpeeds.model_validate_json(file.read_text())
    assert [step.gradient_bytes for step in measured.steps] == [4 * 7850] * 2
    assert measured.steps[1].latency > 0
    threads = len(os.sched_getaffinity(0))  # ranks share them, so they are those of one rank
    assert measured.device == f"{counted(threads, 'CPU thread')}, float32"
    assert "an epoch takes " in idxtrain("plan", *options).stdout

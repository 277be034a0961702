"""Words that no command, option, recipe or key has: one line that names what was probably meant."""

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config import Config

SUGGESTED = {
    "run --epochs 5": "--epochs: found no such option; did you mean --set train.epochs=5? fix: see `idxtrain run -",
    "run --epochs=5 --np 2": "did you mean --set train.epochs=5?",
    "run --epochs --np 2": "did you mean --set train.epochs=VALUE?",
    "run --batch-size 9": "did you mean --set train.batch_size=9?",
    "plan --batchsize 9": "did you mean --set train.batch_size=9?",
    "run --train.optimizer sgd": "did you mean --set train.optimizer=sgd?",
    "run --lr 0.1": "did you mean --set train.learning_rate=0.1?",
    "run --spark.master local[2]": "did you mean --set 'spark.master=local[2]'?",
    "run --recpe fast": "did you mean --recipe?",
    "run --seeds 3": "did you mean --seed?",
    "models list --nme x": "did you mean --name? fix: see `idxtrain models list --help`",
    "datasets --epochs 5": "--epochs: found no such option; fix: see `idxtrain datasets --help`",
    "rn": "no such command 'rn'. Did you mean 'run', 'runs'? fix: see `idxtrain --help`",
    "convert a": "missing argument 'target'; fix: see `idxtrain convert --help`",
    "run --recipe fsat": "--recipe fsat: found no such recipe; did you mean fast? expected one of best, cifar, ",
    "run --recipe xyz": "--recipe xyz: found no such recipe; expected one of best, cifar, ",
    "recipes show lectur": "did you mean lecture? expected one of best, cifar, ",
    "run --dataset fashion-mist": "did you mean fashion-mnist?",
    "submit --site perlmuter": "--site perlmuter: found no such site; did you mean perlmutter? expected one of ",
    "run --set train.epoch=3": "--set train.epoch: found an unknown key; did you mean epochs?\n",
    "run --set train.min_step=3": "did you mean min_steps or max_steps?\n",
    "run --set epochs=3": "--set epochs: found an unknown key; did you mean train.epochs?\n",
    "run --set trian.epochs=3": "--set trian: found an unknown key; did you mean train?\n",
    "run --set foo=3": "--set foo: found an unknown key; expected one of recipe, seed, fetch, ",
    "run --set train.xyzzy=3": "found an unknown key; expected one of its {train} keys, which `idxtrain config` ",
}  # fmt: skip


@pytest.mark.parametrize("words", SUGGESTED)
def test_an_unknown_word_is_one_line_with_what_was_probably_meant(words: str) -> None:
    done = CliRunner().invoke(app.app, words.split(), prog_name="idxtrain")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("idxtrain: ")
    train = len(Config.model_fields["train"].annotation.model_fields)  # type: ignore[union-attr]
    assert SUGGESTED[words].format(train=train) in done.stderr
    assert len(done.stderr) < 350


def test_a_group_without_a_command_shows_its_help() -> None:
    done = CliRunner().invoke(app.app, ["models"])
    assert "Commands:" in done.output

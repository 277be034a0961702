"""The reference: each key, command, variable, exit code and file has words, and the generated pages are fresh."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from deploy.slurm.site import Site
from jobs import errors
from jobs.config import Section
from jobs.errors import IdxtrainError, InputError
from jobs.run_dir import RunDir, Work
from pipelines import recipes
from pipelines.cli.app import app
from pipelines.cli.config import complete_key
from pipelines.config import Config, compose
from pipelines.reference import environment, files
from pipelines.reference.__main__ import main
from pipelines.reference.exit_codes import EXIT_CODES
from pipelines.reference.keys import Key, all_sections, find, names, recipes_that_set
from pipelines.reference.pages import ROOT, commands, pages, stale
from pipelines.reference.text import WIDTH
from pipelines.retraining.retrain_dir import RetrainDir
from pipelines.slurm.jobs import SlurmJobs
from tests.conftest import Idxtrain
from tests.test_architecture import HEAVY, loaded_by

PROGRAM: Any = typer.main.get_command(app)
COMMANDS = list(commands(PROGRAM))
KEYS = [key for section in all_sections() for key in section.keys]
BATCH_SIZE = """\
train.batch_size
  Images per step over all ranks together: the global batch.

  values     an integer from 1 to 2147483647
  default    256
  in fast    256 (the default recipe)
  elsewhere  best 128, keras 128, lecture 50, residual 128, softmax 100
  to set it  --set train.batch_size=256
"""


def is_text(words: str) -> bool:
    """Return whether words are sentences: a capital or `code` first, a full stop last."""
    return bool(re.match(r"[A-Z`]", words)) and words.endswith(".")


def leaves(kind: type[Section], prefix: str) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_each_key_has_a_description_in_sentences(key: Key) -> None:
    assert is_text(key.description)
    assert key.values


def test_the_reference_has_each_key_and_each_section_has_words() -> None:
    assert [key.name for key in KEYS] == [*sorted_by_section(leaves(Config, "")), *leaves_of_site()]
    assert all(is_text(section.description) for section in all_sections())


def sorted_by_section(keys: Iterator[str]) -> list[str]:
    """Return keys that belong to no section first, as the reference has them."""
    return sorted(keys, key=lambda name: "." in name)


def leaves_of_site() -> list[str]:
    return sorted(leaves(Site, "site."), key=lambda name: name.count(".") > 1)


def test_a_default_is_what_a_config_without_settings_has() -> None:
    config = compose("fast", {}).model_dump()
    defaults = {key.name: key.default for key in KEYS}
    assert (defaults["seed"], defaults["train.batch_size"], defaults["recipe"]) == ("0", "256", None)
    assert (defaults["train.dropout"], defaults["fetch.mirrors"], defaults["fetch.data"]) == ("none", "[]", '""')
    assert (defaults["gate.max_difference"], defaults["site.requeue"]) == ("1e-05", "true")
    assert set(config) <= {name.partition(".")[0] for name in defaults}


@pytest.mark.parametrize("key", [key for key in KEYS if key.default is not None], ids=lambda key: key.name)
def test_the_setting_that_is_shown_is_accepted(key: Key) -> None:
    if not key.is_of_site and key.name != "train.epochs":  # `none` for both bounds is no training
        name, _, value = key.setting.removeprefix("--set ").strip("'").partition("=")
        assert compose("fast", {}, [f"{name}={value}"])


def test_a_recipes_values_are_those_of_its_file() -> None:
    key = find("train.ema_decay")
    assert isinstance(key, Key)
    assert recipes_that_set(key) == {"best": "0.999", "cifar": "0.99", "fashion": "0.99", "residual": "0.99"}


def test_config_shows_a_keys_entry(idxtrain: Idxtrain) -> None:
    done = idxtrain("config", "train.batch_size")
    assert (done.returncode, done.stdout, done.stderr) == (0, BATCH_SIZE, "")


def test_config_shows_all_keys_in_80_columns(idxtrain: Idxtrain) -> None:
    shown = idxtrain("config").stdout
    assert all(len(line) <= WIDTH for line in shown.splitlines())
    for key in KEYS:
        assert key.is_of_site or re.search(rf"^  {key.last} ", shown, re.MULTILINE), key.name


@pytest.mark.parametrize("section", ["train", "site", "site.train", "gate"])
def test_config_shows_a_section_with_each_key_in_full(idxtrain: Idxtrain, section: str) -> None:
    shown = idxtrain("config", section).stdout.splitlines()
    assert all(len(line) <= WIDTH for line in shown)
    wanted = [key.name for key in KEYS if key.name.startswith(f"{section}.")]
    assert [line for line in shown if line in wanted] == wanted


def test_config_shows_a_recipes_values(idxtrain: Idxtrain) -> None:
    assert re.search(r"^  ema_decay +0\.999 ", idxtrain("config", "--recipe", "best").stdout, re.MULTILINE)
    shown = " ".join(idxtrain("config", "train", "--recipe", "best").stdout.split())
    assert "Default: none. In the recipe: 0.999. train.optimizer" in shown
    assert "in lecture  50" in idxtrain("config", "train.batch_size", "--recipe", "lecture").stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train.batchsize", "train.batchsize: found no such key or section; did you mean train.batch_size? fix: list "),
        ("ema_decay", "ema_decay: found no such key or section; did you mean train.ema_decay? fix: list all with "),
        ("site.train.node", "did you mean site.train.nodes?"),
        ("trian", "did you mean train?"),
        ("train.wire", "train.wire: renamed; expected train.compression"),
        ("", ": found no such key or section; fix: list all with `idxtrain config`"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        find(name)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_config_loads_nothing_heavy() -> None:
    code = """
import contextlib, io
from pipelines.cli.config import config
with contextlib.redirect_stdout(io.StringIO()):
    config("train.batch_size", None)
    config(None, "best")
"""
    assert not loaded_by(code) & HEAVY


def test_an_unknown_name_ends_config_with_exit_code_2(idxtrain: Idxtrain) -> None:
    done = idxtrain("config", "train.batchsize")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_the_shell_completes_keys_and_sections() -> None:
    assert complete_key("train.batch") == ["train.batch_size"]
    assert complete_key("la")[0] == "launch"
    assert len(names()) == len(set(names()))


@pytest.mark.parametrize(("name", "command"), [each[:2] for each in COMMANDS], ids=[name for name, *_ in COMMANDS])
def test_each_command_option_and_argument_has_help(name: str, command: Any) -> None:
    assert command.help, name
    assert not [parameter.name for parameter in command.params if not getattr(parameter, "help", None)], name


def test_the_generated_pages_are_fresh() -> None:
    assert not stale(pages(PROGRAM)), "fix: python -m pipelines.reference"


def test_check_names_a_stale_page_and_a_second_run_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("pages", "__main__"):
        monkeypatch.setattr(f"pipelines.reference.{module}.ROOT", tmp_path)
    for path in pages(PROGRAM):
        (tmp_path / path).parent.mkdir(exist_ok=True)
    assert main([]) == main(["--check"]) == 0
    (tmp_path / "pipelines/CONFIG.md").open("a", encoding="utf-8").write("by hand")
    (tmp_path / "deploy/SITES.md").unlink()
    capsys.readouterr()
    assert main(["--check"]) == 1
    shown = capsys.readouterr()
    assert [line.partition(":")[0] for line in shown.err.splitlines()] == ["pipelines/CONFIG.md", "deploy/SITES.md"]
    assert main([]) == main(["--check"]) == 0
    assert main(["--chekc"]) == 2


def test_the_page_of_commands_has_the_help_that_the_program_prints(idxtrain: Idxtrain) -> None:
    page = pages(PROGRAM)["pipelines/CLI.md"]
    for command in ("run", "config"):
        assert f"$ idxtrain {command} --help\n{idxtrain(command, '--help').stdout.rstrip()}\n```" in page


def test_the_pages_name_each_key_recipe_and_shipped_site() -> None:
    texts = pages(PROGRAM)
    for key in KEYS:
        assert f"| `{key.last}` |" in texts["deploy/SITES.md" if key.is_of_site else "pipelines/CONFIG.md"]
    assert f" {' | '.join(recipes.names())} |" in texts["pipelines/CONFIG.md"]
    assert re.findall(r"^### (.+)$", texts["deploy/SITES.md"], re.MULTILINE) == [
        "bridges2", "cpu", "local", "perlmutter"
    ]  # fmt: skip


def test_each_variable_of_the_project_is_described() -> None:
    sources = [path for room in ("pipelines", "deploy", "jobs", "models") for path in (ROOT / room).rglob("*.py")]
    code = "".join(p.read_text(encoding="utf-8") for p in sources if p != Path(environment.__file__))
    described = [each.name for each in (*environment.PUBLIC, *environment.INTERNAL, *environment.IGNORED)]
    ours = {name.removesuffix("*") for name in described if name.startswith("IDXTRAIN_")}
    assert set(re.findall(r"IDXTRAIN_[A-Z_]+", code)) == ours
    assert len(described) == len(set(described))


def test_each_exit_code_of_an_error_is_described() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, IdxtrainError)]
    codes = {kind.exit_code for kind in kinds if "exit_code" in vars(kind)}
    assert set(EXIT_CODES) == codes | {0, errors.UNEXPECTED}


def paths_of(value: Any, root: Path) -> list[str]:
    """Return the paths that an object's properties name below a folder, relative to it."""
    values = [getattr(value, name) for name, kind in vars(type(value)).items() if isinstance(kind, property)]
    return [str(path.relative_to(root)) for path in values if isinstance(path, Path) and root in path.parents]


def test_each_path_that_the_code_names_is_described() -> None:
    work = Work(Path("/work"))
    run = RunDir(work.runs / "ID")
    model = RetrainDir(work, "NAME")
    for root, entries, objects in (
        (work.path, files.WORK, [work]),
        (run.path, files.RUN, [run, SlurmJobs(run)]),
        (model.path, files.RETRAIN, [model]),
    ):
        for path in [path for each in objects for path in paths_of(each, root)]:
            assert any(entry == path or entry.startswith(f"{path}/") for entry in entries), path


def test_each_description_outside_the_sections_is_a_sentence() -> None:
    texts = [each.description for each in (*environment.PUBLIC, *environment.INTERNAL, *environment.IGNORED)]
    texts += EXIT_CODES.values()
    for entries in (files.WORK, files.DATASET, files.RUN, files.RETRAIN):
        texts += entries.values()
    assert [text for text in texts if not is_text(text)] == []

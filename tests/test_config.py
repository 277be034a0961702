"""Recipes and options make a config; runs are found by their ID."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import InputError
from jobs.run_dir import RunDir, Work
from jobs.train.config import TrainConfig
from pipelines import recipes, runs
from pipelines.config import assign, compose, data_set_name, differences
from pipelines.plan import plan_training
from tests.conftest import Idxtrain, MakeArchives


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_valid_and_states_its_command(name: str) -> None:
    recipe = recipes.load(name)
    assert compose(name, {}).recipe == name
    assert recipe.about.command.startswith("idxtrain run")
    # The table of models names every recipe, the README's every one that was measured.
    pages = ["models/README.md"] + ([] if recipe.about.expected == "not measured yet" else ["README.md"])
    for page in pages:
        assert f"| `{name}` |" in (Path(__file__).parent.parent / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_of_the_project_says_all_about_itself(name: str) -> None:
    about = recipes.load(name).about
    assert about.model_fields_set == recipes.About.model_fields.keys()
    assert all(about.model_dump().values())


def test_your_own_recipe_needs_no_about_table(tmp_path: Path) -> None:
    text = '[train]\nmodel = "softmax"\nepochs = 2\n'
    for number, about in enumerate(("", '[about]\nsummary = "mine"\n')):
        own = tmp_path / f"own{number}.toml"
        own.write_text(about + text)
        assert recipes.load(str(own)).about.summary == ("mine" if about else "")
        config = compose(str(own), {})
        assert (config.recipe, config.train.epochs) == (f"own{number}", 2)
    own.write_text('[about]\nabstract = "mine"\n' + text)
    with pytest.raises(InputError, match="abstract"):
        recipes.load(str(own))


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_states_the_images_it_trains_on(name: str) -> None:
    plan = plan_training(compose(name, {}), Work(Path("nowhere")), 1)
    assert recipes.load(name).about.images == plan.images


def test_recipe_lecture_has_the_settings_of_the_lecture() -> None:
    train = compose("lecture", {}).train
    assert (train.model, train.dropout, train.optimizer, train.learning_rate) == ("lecture", 0.5, "adam", 1e-4)
    assert (train.batch_size, train.max_steps, train.schedule, train.precision) == (50, 20_000, "constant", "float32")


@pytest.mark.parametrize(
    ("assignment", "key", "value"),
    [
        ("train.epochs=7", "epochs", 7),
        ("train.learning_rate = 3e-2", "learning_rate", 0.03),
        ("train.optimizer=sgd", "optimizer", "sgd"),
        ('train.optimizer="sgd"', "optimizer", "sgd"),
        ("train.audit=true", "audit", True),
        ("train.dropout=none", "dropout", None),
    ],
)
def test_an_assignment_sets_a_key_to_a_toml_value(assignment: str, key: str, value: object) -> None:
    assert getattr(compose("fast", {}, [assignment]).train, key) == value


def test_a_sections_own_error_is_blamed_on_an_option_only_if_it_names_the_options_key(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    text = (Path(recipes.__file__).with_name("recipes") / "fast.toml").read_text()
    recipe.write_text(text.replace("[train]\n", "[train]\nmicrobatches = 2\ndeterministic = true\n"))
    with pytest.raises(InputError, match=re.escape(f"{recipe}: train: found microbatches=2")):
        compose(str(recipe), {}, ["train.epochs=2"])
    with pytest.raises(InputError, match="--set train: found microbatches=2"):
        compose("fast", {}, ["train.epochs=2", "train.deterministic=true", "train.microbatches=2"])


@pytest.mark.parametrize("limit", ["00:30:00", "2026-11-27", "2026-11-27T00:30:00"])
def test_a_time_in_an_assignment_is_a_string_without_quotes(limit: str) -> None:
    values: dict[str, Any] = {}
    assign(values, [f"train.time={limit}"], "--site-set", "train.nodes=4")
    assert values == {"train": {"time": limit}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epoch=7", "train.epoch: found an unknown key; did you mean epochs?"),
        ("trian.epochs=7", "trian: found an unknown key; did you mean train?"),
        ("train.epochs=-1", "--set train.epochs: found -1, expected an integer of at least 1, or none"),
        ("train.optimizer=adamax", "train.optimizer: found 'adamax', expected one of sgd, momentum, "),
        ("train.audit=2", "train.audit: found 2, expected true or false"),
        ("train=3", "train: found 3, expected a table of keys"),
        ("seed.x=3", "--set seed: found {'x': 3}, expected an integer from 0 to 2147483647"),
        ("recipe.x=3", "--set recipe.x: found recipe, a key with a value, expected a section"),
        ("train.epochs", "found no '='"),
        ("train.learning_rate_scaling=linear", "found learning_rate_scaling=linear without base_batch_size"),
        (
            "fetch.mirrors=['http://example.org/']",
            "fetch.mirrors.0: found 'http://example.org/', which is not https://",
        ),
        ("fetch.mirrors=3", "fetch.mirrors: found 3, expected a list whose items are text"),
        ("fetch.data=archives", "fetch.data: found 'archives', expected an absolute path"),
        ("fetch.dataset='a b'", "fetch.dataset: found 'a b', expected text that matches ^[A-Za-z0-9]"),
        ("spark.properties={x=3}", "spark.properties.x: found 3, expected text"),
        ("gate.alpha=0.5", "gate.alpha: found 0.5, expected a number above 0 and below 0.5"),
        ("train.learning_rate=nan", "train.learning_rate: found nan, expected a number above 0"),
        (
            "train.batch_size=10000000000000000000",
            "train.batch_size: found 10000000000000000000, expected an integer from",
        ),
        (
            "train.microbatches=10000000000000000000",
            "train.microbatches: found 10000000000000000000, expected an integer",
        ),
        (
            "train.slices=10000000000000000000",
            "train.slices: found 10000000000000000000, expected an integer from 1 to",
        ),
    ],
)
def test_an_invalid_setting_is_one_line_with_key_value_and_expectation(assignment: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        compose("fast", {}, [assignment])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("old", "new"), sorted(TrainConfig.renamed.items()))
def test_an_old_key_is_refused_with_its_new_name(tmp_path: Path, old: str, new: str) -> None:
    message = f"train.{old}: renamed; expected train.{new}"
    with pytest.raises(InputError) as by_option:
        compose("fast", {}, [f"train.{old}=0.5"])
    assert str(by_option.value) == f"--set {message}"

    recipe = tmp_path / "own.toml"
    recipe.write_text(recipes.load("softmax").text + f"{old} = 0.5\n", encoding="utf-8")
    with pytest.raises(InputError) as by_recipe:
        compose(str(recipe), {})
    assert str(by_recipe.value) == f"{recipe}: {message}"

    run = RunDir(tmp_path / "runs/a")
    run.path.mkdir(parents=True)
    values = compose("softmax", {}).to_json()
    values["train"][old] = values["train"].pop(new)
    run.config_file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InputError) as by_run:
        runs.read_config(run)
    assert str(by_run.value) == f"{run.config_file}: {message}"


def test_an_old_key_ends_the_program_with_exit_code_2(idxtrain: Idxtrain) -> None:
    done = idxtrain("run", "--set", "train.average=0.9", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "idxtrain: --set train.average: renamed; expected train.ema_decay\n"


def test_every_new_key_exists_and_no_old_one_does() -> None:
    assert set(TrainConfig.renamed.values()) <= set(TrainConfig.model_fields)
    assert not set(TrainConfig.renamed) & set(TrainConfig.model_fields)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.microbatches=2", "found microbatches=2 with deterministic, expected 1"),
        ("train.precision=float16", "found precision=float16 with deterministic"),
        ("train.optimizer=muon", "found optimizer=muon with deterministic"),
        ("train.compression=bfloat16", "found compression=bfloat16 with deterministic, expected float32"),
    ],
)
def test_deterministic_refuses_a_setting_that_rounds_its_sums(assignment: str, message: str) -> None:
    with pytest.raises(InputError, match=f"--set train: {message}"):
        compose("fast", {}, ["train.deterministic=true", assignment])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spark.authenticate.secret", "hunter2"),
        ("spark.hadoop.fs.s3a.secret.key", "hunter2"),
        ("spark.hadoop.fs.s3a.access.key", "hunter2"),
        ("spark.hadoop.fs.azure.account.key.me.blob.core.windows.net", "hunter2"),
        ("spark.ssl.keyStorePassword", "hunter2"),
        ("spark.hadoop.fs.s3a.session.token", "hunter2"),
        ("spark.driver.extraJavaOptions", "-Xss1m -Djavax.net.ssl.keyStorePassword=hunter2"),
        ("spark.hadoop.http.proxy", "http://me:hunter2@proxy:3128"),
    ],
)
def test_a_secret_is_refused_and_not_repeated(name: str, value: str, tmp_path: Path) -> None:
    """A config is written to config.json, and sent to the model registry as parameters and as a file."""
    with pytest.raises(InputError) as error:
        compose("fast", {}, [f'spark.properties={{"{name}"="{value}"}}'])
    message = str(error.value)
    assert f"spark.properties: found a secret under {name}, expected none" in message
    assert message.count("spark.properties") == 1
    assert "spark-defaults.conf (mode 0600) in the folder that SPARK_CONF_DIR names" in message
    assert "hunter2" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("spark.executor.memory", "4g"),
        ("spark.authenticate", "true"),
        ("spark.hadoop.fs.s3a.aws.credentials.provider", "com.amazonaws.auth.InstanceProfileCredentialsProvider"),
        ("spark.network.crypto.keyLength", "128"),
        ("spark.kubernetes.authenticate.submission.oauthTokenFile", "/run/token"),
        ("spark.driver.extraJavaOptions", "-XX:+UseSerialGC -Dx=y"),
        ("spark.hadoop.http.proxy", "http://proxy:3128"),
    ],
)
def test_a_property_that_only_sounds_like_a_secret_is_accepted(name: str, value: str) -> None:
    assert compose("fast", {"spark.properties": {name: value}}).spark.properties == {name: value}


def test_a_training_without_epochs_or_max_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found neither epochs nor max_steps"):
        compose("fast", {}, ["train.epochs=none"])


@pytest.mark.parametrize(("scaling", "rate"), [("off", 0.01), ("linear", 0.04), ("sqrt", 0.02)])
def test_learning_rate_scales_with_the_batch_as_set(scaling: str, rate: float) -> None:
    options = ["train.batch_size=1024", "train.base_batch_size=256", f"train.learning_rate_scaling={scaling}"]
    assert compose("fast", {}, options).train.peak_rate(1024) == pytest.approx(rate)


def test_a_recipe_may_be_a_file_of_the_users_own(tmp_path: Path) -> None:
    text = recipes.load("fast").text.replace("epochs = 3", "epochs = 9")
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    config = compose(str(tmp_path / "own.toml"), {})
    assert (config.recipe, config.train.epochs) == ("own", 9)
    (tmp_path / "own.toml").write_text(text + "\n[trian]\n", encoding="utf-8")
    with pytest.raises(InputError, match="did you mean train"):
        compose(str(tmp_path / "own.toml"), {})


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("my best (v2)", "my-best--v2-"),
        (".hidden", "hidden"),
        ("ü漢", "recipe"),
        ("x" * 200, "x" * 60),
        ("a\nb", "a-b"),
    ],
)
def test_the_name_of_a_recipes_file_becomes_a_valid_part_of_a_run_id(tmp_path: Path, stem: str, name: str) -> None:
    own = tmp_path / f"{stem}.toml"
    own.write_text(recipes.load("softmax").text, encoding="utf-8")
    assert compose(str(own), {}).recipe == name
    assert runs.find(Work(tmp_path), runs.new_id(name)) is None  # a valid ID, of no run


@pytest.mark.parametrize("key", ['recipe = "x\\ntouch PWNED #"\n', 'recipe = "softmax"\n'])
def test_a_recipe_file_with_the_key_recipe_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "shared.toml").write_text(key + recipes.load("softmax").text, encoding="utf-8")
    with pytest.raises(InputError, match=r"shared\.toml: found the key recipe, expected none; fix: remove it"):
        compose(str(tmp_path / "shared.toml"), {})


def test_a_recipe_with_control_characters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shared.toml").write_text("# \x9b2J\n" + recipes.load("softmax").text, encoding="utf-8")
    with pytest.raises(InputError, match=r"found the control character '\\x9b'"):
        recipes.load(str(tmp_path / "shared.toml"))


@pytest.mark.parametrize("name", ["../../x", "a b", "-x", "", "x" * 61, "x\n", "$(id)"])
def test_a_recipe_name_that_cannot_be_part_of_a_run_id_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="recipe: found"):
        compose("fast", {"recipe": name})


@pytest.mark.parametrize("stem", ["my best (v2)", "a very long name " * 12])
def test_a_run_of_any_recipe_is_resumed_by_its_id(
    idxtrain: Idxtrain, tmp_path: Path, make_archives: MakeArchives, stem: str
) -> None:
    make_archives(tmp_path / "data", train=60, test=20)
    (tmp_path / f"{stem}.toml").write_text(recipes.load("softmax").text, encoding="utf-8")
    begun = idxtrain("fetch", "--data", "data", "--recipe", f"{stem}.toml")
    assert begun.returncode == 0, begun.stderr
    (made,) = (tmp_path / "work/runs").iterdir()
    again = idxtrain("fetch", "--run-id", made.name)
    assert (again.returncode, again.stderr.splitlines()[0]) == (0, "fetch: already done, skipped")


def test_a_run_named_by_an_earlier_version_is_resumed_after_a_rename(tmp_path: Path) -> None:
    work, old = Work(tmp_path), "20260131-142530-my best (v2)-3f9a"
    made = RunDir(work.runs / old)
    made.path.mkdir(parents=True)
    values = compose("fast", {}).to_json() | {"recipe": "my best (v2)"}
    made.config_file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InputError, match="found a run of an earlier version") as refused:
        runs.find(work, old)
    subprocess.run(["sh", "-c", str(refused.value).partition("fix: ")[2]], check=True)
    run = runs.find(work, "20260131-142530-my-best--v2--3f9a")
    assert run is not None
    assert runs.read_config(run).recipe == "my-best--v2-"


@pytest.mark.parametrize(("folder", "name"), [("digits", "digits"), ("mnist", "local-mnist"), ("my data!", "my-data-")])
def test_a_folder_never_gets_the_name_of_a_catalog_data_set(folder: str, name: str) -> None:
    assert data_set_name(Path("/x") / folder) == name
    assert compose("fast", {"fetch.dataset": data_set_name(Path("/x") / folder)})


def test_a_run_is_resumed_only_with_its_own_config(tmp_path: Path) -> None:
    work = Work(tmp_path)
    made = runs.make(work, "a")
    assert runs.find(work, "a") is None
    runs.freeze(made, compose("fast", {}))
    assert runs.find(work, "a") == made == RunDir(tmp_path / "runs/a")
    assert runs.find(work, "b") is None
    runs.require_same(made, compose("fast", {"launch.np": 3, "spark.master": "local[1]"}))
    with pytest.raises(
        InputError, match=r"train\.epochs: 3 in the run, 4 now; seed|seed: 0 in the run, 1 now; train\.epochs: 3"
    ):
        runs.require_same(made, compose("fast", {"seed": 1, "train.epochs": 4}))
    assert differences(compose("fast", {}), compose("fast", {})) == []
    assert made.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("run_id", ["", "../up", "a/b", ".hidden", "x" * 101, "a b"])
def test_a_run_id_that_leaves_the_work_directory_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(InputError, match="expected letters, digits"):
        runs.find(Work(tmp_path), run_id)

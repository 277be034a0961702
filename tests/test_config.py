"""Recipes, options and the config they make; runs that are found again."""

import json
import subprocess
from pathlib import Path

import pytest

from jobs.errors import InputError
from jobs.run_dir import RunDir, Work
from pipelines import recipes, runs
from pipelines.config import compose, data_set_name, differences
from pipelines.plan import lines, plan_training
from tests.conftest import Idxtrain, MakeArchives


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_is_valid_and_tells_what_it_costs(name: str) -> None:
    recipe = recipes.load(name)
    assert compose(name, {}).recipe == name
    assert recipe.about.command.startswith("idxtrain run")
    # The README's table names every recipe.
    assert f"| `{name}` |" in (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_states_the_images_it_trains_on(name: str) -> None:
    plan = plan_training(compose(name, {}), Work(Path("nowhere")), 1)
    assert recipes.load(name).about.images == plan.images


def test_the_lecture_is_the_lectures() -> None:
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
def test_assignments(assignment: str, key: str, value: object) -> None:
    assert getattr(compose("fast", {}, [assignment]).train, key) == value


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epoch=7", "train.epoch: found an unknown key; did you mean epochs? expected one of model, "),
        ("trian.epochs=7", "trian: found an unknown key; did you mean train?"),
        ("train.epochs=-1", "train.epochs: found -1: Input should be greater than or equal to 1"),
        ("train.optimizer=adamax", "train.optimizer: found 'adamax'"),
        ("train=3", "train: found 3"),
        ("seed.x=3", "seed"),
        ("train.epochs", "found no '='"),
        ("train.learning_rate_scaling=linear", "learning_rate_scaling needs base_batch_size"),
        ("fetch.mirrors=['http://example.org/']", "is not https://"),
        ("train.learning_rate=nan", "train.learning_rate"),
        ("train.batch_size=10000000000000000000", "train.batch_size: found 10000000000000000000: Input should be less"),
        ("train.microbatches=10000000000000000000", "train.microbatches: found 10000000000000000000: Input should be"),
        ("train.slices=10000000000000000000", "train.slices: found 10000000000000000000: Input should be less than"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(assignment: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        compose("fast", {}, [assignment])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


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
    said = str(error.value)
    assert f"spark.properties: found a secret under {name}, expected none" in said
    assert "spark-defaults.conf (mode 0600) in the folder that SPARK_CONF_DIR names" in said
    assert "hunter2" not in said
    assert "\n" not in said


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
def test_what_only_sounds_like_a_secret_is_taken(name: str, value: str) -> None:
    assert compose("fast", {"spark.properties": {name: value}}).spark.properties == {name: value}


def test_the_length_must_have_a_bound(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found neither epochs nor max_steps"):
        compose("fast", {}, ["train.epochs=none"])


@pytest.mark.parametrize(("scaling", "rate"), [("off", 0.01), ("linear", 0.04), ("sqrt", 0.02)])
def test_learning_rate_scaling(scaling: str, rate: float) -> None:
    options = ["train.batch_size=1024", "train.base_batch_size=256", f"train.learning_rate_scaling={scaling}"]
    assert compose("fast", {}, options).train.peak_rate == pytest.approx(rate)


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    text = recipes.load("fast").text.replace("epochs = 3", "epochs = 9")
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    config = compose(str(tmp_path / "mine.toml"), {})
    assert (config.recipe, config.train.epochs) == ("mine", 9)
    (tmp_path / "mine.toml").write_text(text + "\n[trian]\n", encoding="utf-8")
    with pytest.raises(InputError, match="did you mean train"):
        compose(str(tmp_path / "mine.toml"), {})


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
def test_a_recipe_is_named_by_its_file_as_a_run_can_be(tmp_path: Path, stem: str, name: str) -> None:
    own = tmp_path / f"{stem}.toml"
    own.write_text(recipes.load("softmax").text, encoding="utf-8")
    assert compose(str(own), {}).recipe == name
    assert runs.find(Work(tmp_path), runs.new_id(name)) is None  # an ID, of no run


@pytest.mark.parametrize("key", ['recipe = "x\\ntouch PWNED #"\n', 'recipe = "softmax"\n'])
def test_a_recipe_that_names_itself_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "shared.toml").write_text(key + recipes.load("softmax").text, encoding="utf-8")
    with pytest.raises(InputError, match=r"shared\.toml: found the key recipe, expected none; fix: remove it"):
        compose(str(tmp_path / "shared.toml"), {})


def test_a_recipe_tells_a_terminal_nothing_but_text(tmp_path: Path) -> None:
    (tmp_path / "shared.toml").write_text("# \x9b2J\n" + recipes.load("softmax").text, encoding="utf-8")
    with pytest.raises(InputError, match=r"found the control character '\\x9b'"):
        recipes.load(str(tmp_path / "shared.toml"))


@pytest.mark.parametrize("name", ["../../x", "a b", "-x", "", "x" * 61, "x\n", "$(id)"])
def test_a_name_that_is_no_part_of_an_id_is_refused(name: str) -> None:
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


def test_a_run_that_an_earlier_version_named_is_resumed_after_a_rename(tmp_path: Path) -> None:
    work, old = Work(tmp_path), "20260131-142530-my best (v2)-3f9a"
    made = RunDir(work.runs / old)
    made.path.mkdir(parents=True)
    values = compose("fast", {}).to_json() | {"recipe": "my best (v2)"}
    made.config_file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(InputError, match="found a run of an earlier version") as refused:
        runs.find(work, old)
    subprocess.run(["sh", "-c", str(refused.value).partition("fix: ")[2]], check=True)
    found = runs.find(work, "20260131-142530-my-best--v2--3f9a")
    assert found is not None
    assert runs.read_config(found).recipe == "my-best--v2-"


@pytest.mark.parametrize(("folder", "name"), [("digits", "digits"), ("mnist", "local-mnist"), ("my data!", "my-data-")])
def test_a_folder_never_passes_for_a_data_set_of_the_catalog(folder: str, name: str) -> None:
    assert data_set_name(Path("/x") / folder) == name
    assert compose("fast", {"fetch.dataset": data_set_name(Path("/x") / folder)})


def test_a_run_is_gone_on_with_only_under_its_own_config(tmp_path: Path) -> None:
    work = Work(tmp_path)
    made = runs.make(work, "a")
    assert runs.find(work, "a") is None
    runs.freeze(made, compose("fast", {}))
    assert runs.find(work, "a") == made == RunDir(tmp_path / "runs/a")
    assert runs.find(work, "b") is None
    runs.require_same(made, compose("fast", {"launch.np": 3, "spark.master": "local[1]"}))
    with pytest.raises(
        InputError, match=r"train\.epochs: 3 there, 4 here; seed|seed: 0 there, 1 here; train\.epochs: 3"
    ):
        runs.require_same(made, compose("fast", {"seed": 1, "train.epochs": 4}))
    assert differences(compose("fast", {}), compose("fast", {})) == []
    assert made.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("run_id", ["", "../up", "a/b", ".hidden", "x" * 101, "a b"])
def test_run_ids_stay_inside_the_work_directory(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(InputError, match="expected letters, digits"):
        runs.find(Work(tmp_path), run_id)


def test_the_plan_tells_rows_steps_and_shards(tmp_path: Path, make_archives: MakeArchives) -> None:
    make_archives(tmp_path / "data", (6, 8), 3, train=120, test=40)
    config = compose(
        "fast", {"fetch.data": str(tmp_path / "data"), "fetch.dataset": "data", "prepare.rows_per_shard": 25},
        ["train.batch_size=32"],
    )  # fmt: skip
    plan = plan_training(config, Work(tmp_path), 3)
    assert [rank.rows for rank in plan.ranks] == [34, 38, 38]
    assert sum(rank.rows for rank in plan.ranks) == 110
    assert (plan.steps_per_epoch, plan.last_batch, plan.steps, plan.images) == (4, 14, 12, 330)
    text = "\n".join(lines(plan))
    assert "110 rows in 5 shards of 22 rows" in text
    assert "4 steps on global batches of 32, the last on 14 rows" in text


def test_the_plan_without_archives_knows_the_catalog(tmp_path: Path) -> None:
    plan = plan_training(compose("lecture", {}), Work(tmp_path), 2)
    assert {split: sum(rows) for split, rows in plan.shards.items()} == {
        "train": 55_000,
        "validation": 5_000,
        "test": 10_000,
    }
    assert (plan.steps_per_epoch, plan.steps, plan.images) == (1_100, 20_000, 1_000_000)
    with pytest.raises(InputError, match="--data"):
        plan_training(compose("fast", {"fetch.dataset": "unknown"}), Work(tmp_path), 1)

"""Archives that do not fit: plan, fetch and run refuse them with one and the same line, and leave no run behind."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.errors import InputError
from jobs.prepare.archives import read_headers
from jobs.run_dir import RunDir
from pipelines.cli import app
from tests.conftest import Idxtrain, MakeArchives, describe
from tests.support.fetching import idx_bytes

NAMES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def data(tmp_path: Path, make_archives: MakeArchives) -> Path:
    folder = tmp_path / "data"
    make_archives(folder, (6, 8), 2, train=60, test=12, gz=False)
    return folder


def swap(folder: Path) -> None:
    images, labels = folder / NAMES["train_images"], folder / NAMES["train_labels"]
    content = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(content)


def put(role: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / NAMES[role]).write_bytes(content)

    return change


def cut(role: str, count: int) -> Callable[[Path], None]:
    return lambda folder: put(role, (folder / NAMES[role]).read_bytes()[:-count])(folder)


# What is done to a good folder, the archive that is named, and words of the line.
FAULTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "swapped": (swap, "train_images", "found an archive of 60 of uint8, expected images of 3 or 4 dimensions"),
    "counts": (put("test_labels", idx_bytes((11,), 1)), "test_labels", "found 11 labels, expected 12 for the pair"),
    "size": (
        put("test_images", idx_bytes((12, 6, 9), 1)),
        "test_images",
        "found images 12 x 6 x 9 of uint8, expected the shape and type of the training archive's, 60 x 6 x 8 of uint8",
    ),
    "truncated": (cut("train_images", 5), "train_images", "found the end of the data, expected 2896 bytes in all"),
    "empty": (put("train_labels", b""), "train_labels", "found the end of the file, expected the rest of the IDX"),
    "lfs": (put("train_images", LFS), "train_images", "found a Git LFS pointer, expected the archive it stands for"),
    "floats": (
        put("train_labels", struct.pack(">BBBBI", 0, 0, 0x0D, 1, 60) + bytes(240)),
        "train_labels",
        "expected labels of an integer type",
    ),
    "not IDX": (put("test_images", b"PK\3\4"), "test_images", "found the bytes 50 4b, expected 00 00"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_plan_fetch_and_run_refuse_with_the_same_line_and_leave_no_run(data: Path, tmp_path: Path, fault: str) -> None:
    spoil, role, words = FAULTS[fault]
    spoil(data)
    texts = set()
    for command in ("plan", "fetch", "run"):
        done = CliRunner().invoke(app.app, [command, "--data", str(data), "--work", str(tmp_path / "work")])
        assert done.exit_code == 2
        assert done.stdout == ""
        texts.add(done.stderr)
    (text,) = texts
    assert text.startswith(f"idxtrain: {data / NAMES[role]}: ")
    assert words in text
    assert "; fix: " in text
    assert text.count("\n") == 1
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_prepare_refuses_the_same_by_the_same_function(data: Path, fault: str) -> None:
    spoil, _, words = FAULTS[fault]
    spoil(data)
    archives = {role: describe(role, data / name) for role, name in NAMES.items()}  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        read_headers(archives)
    assert words in str(caught.value)


def test_odd_names_give_one_line_to_plan_and_run(data: Path, tmp_path: Path) -> None:
    for number, name in enumerate(NAMES.values()):
        (data / name).rename(data / f"{number}.idx")
    lines = [
        CliRunner().invoke(app.app, [command, "--data", str(data), "--work", str(tmp_path / "work")]).stderr
        for command in ("plan", "run")
    ]
    assert lines[0] == lines[1]
    assert "found '0.idx' (60 x 6 x 8 of uint8), '1.idx' (60 of uint8)" in lines[0]
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--train-images", "--train-images {path}: found no such file; fix: correct the path"),
        ("--classes", "{path}: found no such file, expected a text file of class names"),
    ],
)
def test_an_option_that_names_no_file_is_refused(data: Path, tmp_path: Path, option: str, words: str) -> None:
    path = tmp_path / "nowhere"
    done = CliRunner().invoke(
        app.app, ["run", "--data", str(data), option, str(path), "--work", str(tmp_path / "work")]
    )
    assert done.exit_code == 2
    assert words.format(path=path) in done.stderr
    assert not (tmp_path / "work").exists()


def test_a_label_column_that_the_archives_lack_is_refused_before_there_is_a_run(data: Path, tmp_path: Path) -> None:
    columns = struct.pack(">BBBB2I", 0, 0, 8, 2, 60, 2) + bytes(120)
    (data / NAMES["train_labels"]).rename(data / "train-labels-idx2-ubyte")
    (data / "train-labels-idx2-ubyte").write_bytes(columns)
    for command in ("plan", "run"):
        options = ["--data", str(data), "--set", "prepare.label_column=2", "--work", str(tmp_path / "work")]
        done = CliRunner().invoke(app.app, [command, *options])
        assert done.exit_code == 2
        assert "found 2 columns, expected the label in column 2 (from 0); fix: set prepare.label_column" in done.stderr
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("given", "lacking"),
    [("--train-images", "--train-labels"), ("--train-labels", "--train-images"), ("--test-images", "--test-labels")],
)
def test_one_archive_of_a_pair_never_gets_the_other_one_from_the_default_data_set(
    data: Path, tmp_path: Path, given: str, lacking: str
) -> None:
    path = data / NAMES[given[2:].replace("-", "_")]
    for command in ("plan", "run"):
        done = CliRunner().invoke(app.app, [command, given, str(path), "--work", str(tmp_path / "work")])
        assert done.exit_code == 2
        assert done.stderr == (
            f"idxtrain: {lacking}: missing, expected both archives of a pair; fix: add {lacking} F, or name the data "
            "set of the other one as --dataset\n"
        )
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("submit", "--site", "cpu"),
        ("sweep", "--grid", "train.batch_size=5,10"),
        ("retrain",),
        ("schedule", "--cron", "@daily", "--as", "cron"),
    ],
    ids=lambda command: command[0],
)
def test_other_commands_take_the_archives_by_name_and_refuse_them_before_they_start(
    data: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    named = [part for role, name in NAMES.items() for part in (f"--{role.replace('_', '-')}", str(data / name))]
    (data / NAMES["test_labels"]).unlink()
    done = CliRunner().invoke(app.app, [*command, *named, "--work", str(tmp_path / "work")])
    assert done.exit_code == 2
    assert f"--test-labels {data / NAMES['test_labels']}: found no such file; fix: correct the path" in done.stderr
    assert not (tmp_path / "work/runs").exists()


def test_a_run_that_is_refused_after_its_start_leaves_no_folder(idxtrain: Idxtrain, tmp_path: Path) -> None:
    done = idxtrain("fetch", "--dataset", "kmnist", "--work", tmp_path / "work")
    assert done.returncode == 2
    assert "kmnist: cannot get train-images-idx3-ubyte" in done.stderr
    assert "fix: download its four .gz files" in done.stderr
    assert list((tmp_path / "work/runs").iterdir()) == []


def test_an_existing_run_is_kept_when_it_is_refused(data: Path, tmp_path: Path, idxtrain: Idxtrain) -> None:
    work = tmp_path / "work"
    assert idxtrain("fetch", "--data", data, "--work", work, "--run-id", "r").returncode == 0
    cut("train_images", 5)(data)
    assert idxtrain("fetch", "--work", work, "--run-id", "r").returncode == 2
    assert RunDir(work / "runs/r").config_file.exists()


def test_bare_stragglers_skips_runs_that_did_not_train(tmp_path: Path) -> None:
    work = tmp_path / "work"
    for name in ("trained", "broken"):
        run = RunDir(work / "runs" / name)
        run.logs.mkdir(parents=True)
        run.config_file.write_text("{}")
    flight = '{"step": 1, "images": 10, "input": 0.1, "compute": 0.8, "allreduce": 0.1}\n'
    (work / "runs/trained/logs/flight.rank-0.jsonl").write_text(flight)
    done = CliRunner().invoke(app.app, ["stragglers", "--work", str(work)])
    assert done.exit_code == 0
    assert "one rank, which waited for input 10.0% of its time" in done.stdout
    (work / "runs/trained/logs/flight.rank-0.jsonl").unlink()
    done = CliRunner().invoke(app.app, ["stragglers", "--work", str(work)])
    assert done.exit_code == 2
    assert "found no run that trained" in done.stderr

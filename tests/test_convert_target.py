"""`idxtrain convert`: where the archives go, what is left beside them, and how other commands name the conversion."""

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.convert.convert import convert_source
from jobs.convert.options import Options
from jobs.errors import InputError
from pipelines.cli import app
from tests.support.pictures import put_pictures

CSV = "0,255,128,64,a\n9,200,100,50,b\n"


def invoke(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app.app, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("target", ["out.npz", "out.csv.gz", "out.parquet", "out.zip", "out.tar.gz"])
def test_a_table_is_not_converted_to_a_folder_that_is_named_like_a_file(tmp_path: Path, target: str) -> None:
    source = tmp_path / "a table.csv"
    source.write_text(CSV)
    code, out, error = invoke("convert", source, tmp_path / target, "--label", -1)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert not (tmp_path / target).exists()
    steps = [shlex.split(part)[2:] for part in error.split("`")[1::2]]  # what the line says to do
    assert steps[0] == [str(source), str(tmp_path / "out")]
    assert len(steps) == (2 if target == "out.npz" else 1)
    for step in steps:
        assert invoke("convert", *step, *(["--label", -1] if step == steps[0] else []))[0] == 0
    assert (tmp_path / "out.npz").is_file() == (target == "out.npz")
    with pytest.raises(
        InputError, match=r"found the ending .zip, expected the name of a folder for PNG files, or .npz"
    ):
        convert_source(tmp_path / "out", tmp_path / "pictures.zip", Options())


def test_a_conversion_that_succeeds_removes_the_list_that_an_earlier_one_left_beside_its_target(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 2)
    bad = source / "train" / "cat" / "bad.png"
    bad.write_bytes(b"")
    with pytest.raises(InputError, match="listed in"):
        convert_source(source, tmp_path / "idx", Options())
    (tmp_path / "own.skipped.csv").write_text("my,file\n")
    convert_source(source, tmp_path / "own", Options(skip_bad=True))
    assert (tmp_path / "own.skipped.csv").read_text() == "my,file\n"
    bad.unlink()
    assert (tmp_path / "idx.skipped.csv").exists()
    convert_source(source, tmp_path / "idx", Options())
    assert not (tmp_path / "idx.skipped.csv").exists()


@pytest.mark.parametrize("command", ["run", "plan", "inspect"])
@pytest.mark.parametrize("name", ["d.npz", "d.csv.gz", "d.parquet", "photos/cat/1.png", "cifar/data_batch_1.bin"])
def test_other_formats_are_refused_with_the_command_that_converts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"x")
    given = name.partition("/")[0]
    (tmp_path / "photos-idx").mkdir()
    target = {"photos": "photos-idx2", "cifar": "cifar-idx"}.get(given, "d")
    code, out, error = invoke(command, *([given] if command == "inspect" else ["--data", given]))
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.endswith(f"; fix: `idxtrain convert {given} {target}`, then give {target} instead\n")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("given", [".", ".."])
def test_a_folder_of_pictures_that_is_named_by_dots_is_refused_with_a_command_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    folder = put_pictures(tmp_path / "photos", 3)
    monkeypatch.chdir(folder if given == "." else folder / "train")
    code, _, error = invoke("inspect", given)
    assert (code, error.count("\n")) == (2, 1)
    command = shlex.split(error.split("`")[1])
    assert command[1:] == ["convert", "." if given == "." else str(folder), str(tmp_path / "photos-idx")]
    assert invoke(*command[1:])[0] == 0

"""`idxtrain convert`: pictures to IDX and back, exactly; unusable files are listed; equal input gives equal bytes."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.convert.convert import convert_source
from jobs.convert.layout import Layout
from jobs.convert.options import Options
from jobs.convert.picture import decode
from jobs.errors import InputError
from jobs.prepare import idx
from tests.conftest import Idxtrain
from tests.support.pictures import encoded, png_file, put_pictures, random_pixels
from tests.support.real_data import real_data


def convert(source: Path, target: Path, **options: Any) -> Path:
    convert_source(source, target, Options(**options))
    return target


def archive(folder: Path, start: str) -> NDArray[Any]:
    (path,) = folder.glob(f"{start}-*")
    return idx.read(path)


def pictures_of(folder: Path) -> dict[str, list[bytes]]:
    """Return the pixels of all pictures by `SPLIT/CLASS`, sorted."""
    found: dict[str, list[bytes]] = {}
    for path in folder.glob("*/*/*"):
        pixels = decode(path.read_bytes())
        found.setdefault(str(path.parent.relative_to(folder)), []).append(repr(pixels.tolist()).encode())
    return {name: sorted(each) for name, each in found.items()}


@pytest.mark.parametrize(
    ("dtype", "channels", "name"),
    [("u1", 1, "idx3-ubyte"), ("u1", 3, "idx4-ubyte"), ("u2", 1, "idx3-int"), ("u2", 3, "idx4-int")],
)
def test_pictures_to_idx_and_back_are_the_same_pixels(tmp_path: Path, dtype: str, channels: int, name: str) -> None:
    source = put_pictures(tmp_path / "source", 6, (6, 5, channels), dtype)
    folder = convert(source, tmp_path / "idx")
    assert (folder / f"train-images-{name}.gz").exists()
    back = convert(folder, tmp_path / "back")
    assert pictures_of(back) == pictures_of(source)
    again = convert(back, tmp_path / "again")
    assert sorted(map(repr, archive(again, "train-images").tolist())) == sorted(
        map(repr, archive(folder, "train-images").tolist())
    )


def test_each_image_has_its_pictures_label_and_path(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 9, (6, 5, 3))
    folder = convert(source, tmp_path / "idx")
    names = tomllib.loads((folder / "data.toml").read_text())["class_names"]
    assert names == {"0": "cat", "1": "dog"}
    with (folder / "sources.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    for row in rows:
        at = int(row["row"])
        assert (archive(folder, f"{row['archive']}-images")[at] == decode((source / row["path"]).read_bytes())).all()
        assert names[str(archive(folder, f"{row['archive']}-labels")[at])] == row["path"].split("/")[1]


def test_converting_twice_gives_the_same_bytes_also_from_archives(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 40)
    shutil.make_archive(str(tmp_path / "packed"), "gztar", tmp_path, "source")
    shutil.make_archive(str(tmp_path / "packed"), "zip", source)
    made = [
        convert(each, tmp_path / f"idx-{number}")
        for number, each in enumerate(
            [source, source, tmp_path / "packed.zip", tmp_path / "packed.zip", tmp_path / "packed.tar.gz"]
        )
    ]
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in made]
    assert files[0] == files[1] == files[2] == files[3]
    packed = {name: data for name, data in files[4].items() if name == "data.toml"}
    assert packed.items() <= files[0].items()
    assert sorted(map(repr, archive(made[4], "train-images").tolist())) == sorted(
        map(repr, archive(made[0], "train-images").tolist())
    )


def test_classes_are_mixed_in_the_archive(tmp_path: Path) -> None:
    folder = convert(put_pictures(tmp_path / "source", 100), tmp_path / "idx")
    labels = archive(folder, "train-labels")
    assert 30 < np.count_nonzero(labels[:100]) < 70


def test_class_folders_that_are_integers_are_the_labels(tmp_path: Path) -> None:
    for name in ("-1", "7", "300"):
        (tmp_path / "source" / name).mkdir(parents=True)
        (tmp_path / "source" / name / "a.png").write_bytes(png_file(random_pixels(0, 3, 3, 1)))
    folder = convert(tmp_path / "source", tmp_path / "idx")
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
        "sources.csv",
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-int.gz",
    ]
    assert sorted(archive(folder, "train-labels").tolist()) == [-1, 7, 300]
    back = convert(folder, tmp_path / "back")
    assert sorted(path.name for path in (back / "train").iterdir()) == ["-1", "300", "7"]


def thousand(folder: Path) -> list[str]:
    """Write 1,000 pictures, 20 of them broken in some way; return the paths of the broken."""
    good = put_pictures(folder, 250)
    paths = sorted(str(path.relative_to(good)) for path in good.rglob("*.png"))
    broken = paths[25::50]
    for number, path in enumerate(broken):
        data = (good / path).read_bytes()
        kinds = [data[:40], b"", b"text", data[:-20] + bytes(20), data[:50] + b"?" + data[51:]]
        (good / path).write_bytes(kinds[number % len(kinds)])
    return broken


def test_of_1000_pictures_all_20_broken_ones_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    broken = thousand(tmp_path / "source")
    assert len(broken) == 20
    with pytest.raises(InputError, match=r"found 20 unusable files among 1,000.*skip-bad") as caught:
        convert(tmp_path / "source", tmp_path / "idx")
    assert caught.value.exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["idx.skipped.csv", "source"]
    with (tmp_path / "idx.skipped.csv").open() as file:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert sorted(listed) == broken
    assert all(listed.values())


def test_skip_bad_leaves_out_exactly_the_broken_pictures_and_lists_them(tmp_path: Path) -> None:
    broken = thousand(tmp_path / "source")
    folder = convert(tmp_path / "source", tmp_path / "idx", skip_bad=True)
    with (folder / "skipped.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == broken
    with (folder / "sources.csv").open() as file:
        used = {row["path"] for row in csv.DictReader(file)}
    assert len(used) == 980
    assert not used & set(broken)
    assert len(archive(folder, "train-images")) + len(archive(folder, "t10k-images")) == 980


def refusal(source: Path, target: Path, **options: Any) -> str:
    """Return the message of a refused conversion, after checking that it left nothing."""
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        convert(source, target, **options)
    assert [path for path in sorted(target.parent.rglob("*")) if "skipped" not in path.name] == before
    text = str(caught.value)
    assert "\n" not in text
    assert "; fix: " in text
    return text


def put(folder: Path, path: str, data: bytes) -> Path:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)
    return folder


def test_mixed_sizes_are_refused_with_the_sizes_seen_unless_one_is_chosen(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 3, (6, 5, 1))
    put(source, "train/cat/wide.png", png_file(random_pixels(0, 6, 9, 1)))
    text = refusal(source, tmp_path / "idx")
    assert "2 sizes (height x width): 6x5 (12), 6x9 (1)" in text
    assert "--size 6x5" in text
    folder = convert(source, tmp_path / "idx", size=(4, 4))
    assert archive(folder, "train-images").shape == (7, 4, 4)


def test_mixed_colors_and_depths_are_refused(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 3, (6, 5, 1))
    put(source, "train/cat/color.png", png_file(random_pixels(0, 6, 5, 3)))
    assert "12 gray and 1 color" in refusal(source, tmp_path / "idx")
    assert archive(convert(source, tmp_path / "gray", channels=1), "train-images").shape == (7, 6, 5)
    assert archive(convert(source, tmp_path / "color", channels=3), "train-images").shape == (7, 6, 5, 3)
    put(source, "train/cat/color.png", png_file(random_pixels(0, 6, 5, 1, dtype="u2")))
    assert "12 pictures of 8 bits and 1 of 16" in refusal(source, tmp_path / "idx")


def test_a_picture_outside_of_class_folders_is_refused_and_another_file_only_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = put(put_pictures(tmp_path / "source", 3), "README.md", b"about the data")
    with caplog.at_level("INFO", "idxtrain"):
        convert(source, tmp_path / "idx")
    assert "in no class folder: README.md" in caplog.text
    put(source, "annotations/xmls/0.xml", b"<annotation/>")  # as deep as a picture, but of no split
    caplog.clear()
    with caplog.at_level("INFO", "idxtrain"):
        convert(source, tmp_path / "annotated")
    assert "annotations/xmls/0.xml" in caplog.text
    put(source, "stray.png", png_file(random_pixels(0, 6, 5, 1)))
    assert "stray.png: in no class folder" in refusal(source, tmp_path / "other")


def test_hidden_files_and_those_of_operating_systems_are_not_data(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 2)
    for path in ("train/cat/.DS_Store", "train/cat/Thumbs.db", "__MACOSX/train/cat/._0.png"):
        put(source, path, b"not a picture")
    assert len(archive(convert(source, tmp_path / "idx"), "train-labels")) == 4


def test_a_validation_split_becomes_what_the_option_says(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 2)
    put(source, "val/cat/a.png", png_file(random_pixels(0, 6, 5, 1)))
    assert "found a folder val" in refusal(source, tmp_path / "idx")
    made = {choice: convert(source, tmp_path / choice, validation=choice) for choice in ("train", "test", "omit")}
    lengths = {
        name: [len(archive(each, f"{split}-labels")) for split in ("train", "t10k")] for name, each in made.items()
    }
    assert lengths == {"train": [5, 4], "test": [4, 5], "omit": [4, 4]}


@pytest.mark.parametrize(
    ("paths", "splits"),
    [
        (["cat/1.png", "dog/1.png"], {"train": {"cat", "dog"}}),
        (["set/cat/1.png", "set/dog/1.png"], {"train": {"cat", "dog"}}),
        (["Training/cat/1.png", "Testing/dog/1.png"], {"train": {"cat"}, "test": {"dog"}}),
        (["set/data/train/cat/1.png", "set/data/train/cat/sub/2.png"], {"train": {"cat"}}),
        (["test/cat/1.png", "test/dog/1.png"], {"test": {"cat", "dog"}}),
        (["test/1.png", "cat/1.png"], {"train": {"test", "cat"}}),  # a class of this name
    ],
)
def test_folders_show_split_and_class(paths: list[str], splits: dict[str, set[str]]) -> None:
    layout = Layout(paths, "source", Options())
    seen: dict[str, set[str]] = {}
    for path in paths:
        place = layout.place(path)
        assert place
        seen.setdefault(place[0], set()).add(place[1])
    assert seen == splits


def test_splits_and_classes_side_by_side_are_refused(tmp_path: Path) -> None:
    source = put(put_pictures(tmp_path / "source", 1), "bird/a.png", png_file(random_pixels(0, 6, 5, 1)))
    assert "train and bird side by side" in refusal(source, tmp_path / "idx").replace("test and bird", "train and bird")


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["data/train/1.png", "data/test/1.png"], "test and train"),
        (["train/1.png"], "train"),
        (["train/cat/1.png", "test/1.png"], "test"),
    ],
)
def test_splits_without_folders_of_classes_are_refused(paths: list[str], found: str) -> None:
    with pytest.raises(InputError, match=f"source: found pictures directly in {found}, expected a folder per class"):
        Layout(paths, "source", Options())


def test_an_existing_target_is_never_overwritten(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 1)
    put(tmp_path / "idx", "mine.txt", b"mine")
    assert "found something there" in refusal(source, tmp_path / "idx")
    (tmp_path / "empty").mkdir()
    assert archive(convert(source, tmp_path / "empty"), "train-labels").shape == (2,)


def test_the_current_folder_can_be_the_target_of_a_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = put_pictures(tmp_path / "source", 1)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    convert(source, Path())
    assert archive(tmp_path / "empty", "train-labels").shape == (2,)
    (tmp_path / "npz").mkdir()
    with pytest.raises(InputError, match="npz: found something there, expected nothing"):
        convert_source(tmp_path / "empty", tmp_path / "npz", Options(), "npz")


def test_an_option_that_would_do_nothing_is_refused(tmp_path: Path) -> None:
    source = put_pictures(tmp_path / "source", 1)
    assert refusal(source, tmp_path / "idx", label="3").startswith("--label: ")
    put(tmp_path, "a.csv", b"0,1,2,3,4\n1,1,2,3,4\n")
    assert refusal(tmp_path / "a.csv", tmp_path / "idx", background=0).startswith("--background: ")
    folder = convert(source, tmp_path / "idx")
    assert refusal(folder, tmp_path / "png", size=(3, 3)).startswith("--size: ")


def test_the_command_prints_one_line_and_errors_have_exit_code_2(idxtrain: Idxtrain, tmp_path: Path) -> None:
    put_pictures(tmp_path / "source", 2)
    done = idxtrain("convert", "source", "idx", "--plain")
    assert (done.returncode, done.stdout) == (0, "idx: 4 training and 4 test images of 6 x 5 x 1 uint8, 2 classes\n")
    assert (tmp_path / "idx" / "train-images-idx3-ubyte").stat().st_size == 16 + 4 * 30
    done = idxtrain("convert", "idx", "back.npz")
    assert (done.returncode, done.stdout) == (0, "back.npz: 4 training and 4 test images\n")
    done = idxtrain("convert", "source", "other", "--size", "28")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "idxtrain: --size: found 28, expected HxW, e.g. 28x28; fix: give height, then width\n"


def test_a_conversion_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    picture = put(tmp_path / "source", "a/picture.png", png_file(random_pixels(0, 64, 64, 3))) / "a/picture.png"
    for number in range(20_000):
        os.link(picture, picture.with_name(f"{number}.png"))
    (tmp_path / "out").mkdir()
    program = str(Path(sys.executable).with_name("idxtrain"))
    with subprocess.Popen([program, "convert", "source", "out/idx"], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        while not list((tmp_path / "out").iterdir()):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 75
    assert not list((tmp_path / "out").iterdir())


def test_pixels_that_png_cannot_hold_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.ones((2, 3, 3), np.float32), labels=np.arange(2))
    folder = convert(tmp_path / "a.npz", tmp_path / "idx")
    assert "float32" in refusal(folder, tmp_path / "png")
    assert not (tmp_path / "png").exists()


@pytest.mark.parametrize(
    ("name", "folders"),
    [("b", {"a", "b", "c"}), ("A", {"0", "1", "2"}), ("\N{HIRAGANA LETTER A}" * 40, {"0", "1", "2"})],
    ids=["fits", "differs by case", "too many bytes"],
)
def test_both_splits_have_the_same_folders_of_classes(tmp_path: Path, name: str, folders: set[str]) -> None:
    images = random_pixels(0, 2, 2, 2)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.array([0, 2]), x_test=images, y_test=np.array([1, 2]))
    folder = convert(tmp_path / "a.npz", tmp_path / "idx")
    (folder / "data.toml").write_text(f"class_names = ['a', '{name}', 'c']", encoding="utf-8")
    back = convert(folder, tmp_path / "back")
    assert {path.name for path in back.glob("*/*")} == folders


def test_more_than_65535_images_are_converted_and_memory_is_bounded(tmp_path: Path) -> None:
    images = random_pixels(0, 70_000, 16, 16)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(70_000) % 1000)
    tracemalloc.start()
    folder = convert(tmp_path / "a.npz", tmp_path / "idx", plain=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < images.nbytes / 2
    assert (archive(folder, "train-images") == images).all()
    assert (archive(folder, "train-labels") == np.arange(70_000) % 1000).all()


def test_an_archive_of_several_training_pairs_is_not_converted_back_in_part(tmp_path: Path) -> None:
    folder = convert(put_pictures(tmp_path / "source", 1), tmp_path / "idx")
    for kind in ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"):
        shutil.copy(folder / f"train-{kind}", folder / f"train-{kind.replace('-', '-monday-', 1)}")
    assert "found training, test, training monday" in refusal(folder, tmp_path / "png")


def test_jpegs_become_what_pillow_decodes(tmp_path: Path) -> None:
    data = encoded(random_pixels(3, 8, 9, 3), "JPEG")
    folder = convert(put(tmp_path / "source", "a/1.jpg", data), tmp_path / "idx")
    assert (archive(folder, "train-images")[0] == decode(data)).all()


@pytest.mark.long
def test_60000_jpegs_take_less_than_500_mb_and_60_s_of_one_cpu(tmp_path: Path) -> None:
    source = real_data("cifar10-jpeg.tar.gz")
    program = str(Path(sys.executable).with_name("idxtrain"))
    # By way of a small process: a child's peak counts the memory of the process that it was forked from.
    measure = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_maxrss, used.ru_utime + used.ru_stime)"
    )
    command = [sys.executable, "-c", measure, program, "convert", str(source), str(tmp_path / "cifar")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    kilobytes, seconds = map(float, done.stdout.splitlines()[-1].split())
    assert kilobytes < 500_000
    assert seconds < 60
    header = idx.check(tmp_path / "cifar" / "train-images-idx4-ubyte.gz")
    assert header.shape == (50_000, 32, 32, 3)
    assert np.bincount(archive(tmp_path / "cifar", "t10k-labels")).tolist() == [1000] * 10

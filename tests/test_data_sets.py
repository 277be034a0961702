"""The data sets that are known by name, one's own data.toml, and what `idxtrain datasets` shows."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.archive import ROLES, TEST, TRAINING
from jobs.errors import InputError
from jobs.fetch import data_sets
from jobs.fetch.catalog import CATALOG
from jobs.fetch.data_set import DataSet, read_data_set
from jobs.fetch.identify import identify
from jobs.run_dir import RunDir
from pipelines.cli import app
from tests.conftest import Idxtrain
from tests.support.fetching import PLAIN, Server, fetched, lines, refused, run, server, tiny
from tests.support.real_data import fashion, real_data
from tests.test_fetch_roles import put

__all__ = ["lines", "server", "tiny"]  # fixtures

EMNIST = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")

# --- facts


@pytest.mark.parametrize("name", data_sets.names())
def test_each_data_set_says_what_it_is_and_how_to_get_it(name: str) -> None:
    known = CATALOG[name]
    assert known.name == name
    assert known.title
    assert known.source.startswith(("https://", "http://"))
    assert known.licence
    assert known.class_names
    assert known.mirrors or known.how_to_get
    assert set(known.archives) in (set(ROLES), set(TEST))
    for split in (TRAINING, TEST) if len(known.archives) == len(ROLES) else (TEST,):
        images, labels = (known.archives[role].shape for role in split)
        assert images[0] == labels[0]
        assert len(images) in (3, 4)


@pytest.mark.parametrize("name", EMNIST)
def test_emnists_class_names_are_those_of_its_mapping_files(name: str) -> None:
    known = CATALOG[f"emnist-{name}"]
    assert known.orientation == "transpose"
    for line in (real_data("emnist") / f"emnist-{name}-mapping.txt").read_text().split("\n"):
        if line.strip():
            label, *codes = map(int, line.split())
            assert set(map(chr, codes)) <= set(known.class_names[label].split("/"))
    assert len({letter for each in known.class_names.values() for letter in each.split("/")}) >= len(known.class_names)


def test_an_emnist_folder_holds_six_data_sets_of_which_the_name_selects_one(tmp_path: Path) -> None:
    names = {
        archive.name: archive.shape for name in EMNIST[3:] for archive in CATALOG[f"emnist-{name}"].archives.values()
    }
    folder = put(tmp_path, {f"{name}.gz": b"\0\0\x08" + bytes([len(shape)]) + b"".join(
        size.to_bytes(4, "big") for size in shape) for name, shape in names.items()})  # fmt: skip
    message = refused(tmp_path, "ours", data=str(folder))
    assert "several may be train_images, train_labels, test_images, test_labels" in message
    message = refused(tmp_path, "emnist-letters", data=str(folder))
    assert message.startswith(f"{folder}/emnist-letters-train-images-idx3-ubyte.gz: ")  # the header alone is there


def test_the_recognized_data_are_those_of_the_shared_files() -> None:
    folder = real_data("kannada")
    for path in sorted(folder.glob("*.gz")):
        identity = identify(path)
        assert identity is not None
        assert f"{identity.archive.name}.gz" == path.name
    for path in sorted(real_data("qmnist").glob("*.gz")):
        assert str(identify(path)) == f"qmnist's {path.name[:-3]}"


# --- real data


def test_fashion_mnist_comes_from_debians_package_without_a_network(
    tmp_path: Path, lines: pytest.LogCaptureFixture
) -> None:
    folder = fashion()
    outputs = fetched(tmp_path, "fashion-mnist", offline=True)
    assert {archive.path.parent for archive in outputs.archives.values()} == {folder}
    assert outputs.description.class_names[9] == "Ankle boot"
    assert "train-images-idx3-ubyte.gz from Debian's package dataset-fashion-mnist" in lines.messages[0]


def test_a_repacked_archive_is_known_by_its_content_and_brings_its_class_names(tmp_path: Path) -> None:
    folder = tmp_path / "clothes"
    folder.mkdir()
    for name, short in (("t10k-images-idx3", "X"), ("t10k-labels-idx1", "y")):
        content = gzip.decompress((fashion() / f"{name}-ubyte.gz").read_bytes())
        (folder / f"{short}.gz").write_bytes(gzip.compress(content, compresslevel=1, mtime=0))
    message = refused(tmp_path, "clothes", data=str(folder))  # Fashion's test archives, whatever their names
    assert "test archives alone, by name or checksum, expected a pair to train on" in message


def test_another_file_in_the_packages_folder_is_not_used(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "package"
    shutil.copytree(fashion(), folder)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
    known = CATALOG["fashion-mnist"]
    assert known.package is not None
    package = known.package.model_copy(update={"folder": str(folder)})
    monkeypatch.setitem(CATALOG, "fashion-mnist", known.model_copy(update={"package": package}))
    message = refused(tmp_path, "fashion-mnist", offline=True)
    assert "cannot get t10k-labels-idx1-ubyte (tried mirrors: skipped (fetch.offline); Debian's package" in message
    assert "install Debian's package dataset-fashion-mnist (`apt install dataset-fashion-mnist`)" in message
    assert "login node" not in message
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    message = refused(tmp_path, "fashion-mnist", offline=True)
    assert "fix: run `idxtrain fetch --dataset fashion-mnist` on a login node, with the same --work, or " in message


def test_test_sets_alone_are_refused_for_training_and_test_a_model_of_another_set(tmp_path: Path) -> None:
    folder = real_data("kannada")
    for name in ("kannada", "dig"):
        (tmp_path / name).mkdir()
        for path in folder.glob(f"*{name}*"):
            (tmp_path / name / path.name).symlink_to(path)
        message = refused(tmp_path, name, data=str(tmp_path / name))
        assert "test archives alone, by name or checksum, expected a pair to train on; fix: give one as" in message
    options = {f"test_{kind}": str(next(folder.glob(f"{x}_dig*"))) for kind, x in (("images", "X"), ("labels", "y"))}
    archives = run(tmp_path, "mnist", offline=True, **options)
    assert [archive.known for archive in archives.values()] == ["mnist", "mnist", "dig-mnist", "dig-mnist"]


def test_qmnists_labels_fit_mnists_training_images_and_a_line_says_which_test_labels_do(tmp_path: Path) -> None:
    folder = tmp_path / "q"
    shutil.copytree(real_data("qmnist"), folder)
    mnist = run(tmp_path, "mnist", offline=True)
    for role in ("train_images", "test_images"):
        (folder / mnist[role].path.name).symlink_to(mnist[role].path)
    message = refused(tmp_path, "q", data=str(folder))
    assert "found 60000 labels, expected 10000 for the pair" in message
    assert message.endswith("fix: its first 10,000 labels are those of MNIST's t10k-images, so give MNIST's own "
                            "t10k-labels as --test-labels")  # fmt: skip
    archives = run(tmp_path, "q", data=str(folder), test_labels=str(mnist["test_labels"].path))
    assert [archive.known for archive in archives.values()] == ["mnist", "qmnist", "mnist", "mnist"]


# --- one's own


def test_a_folders_data_toml_describes_it(tmp_path: Path) -> None:
    names = dict(zip(("one", "two", "three", "four"), ROLES, strict=True))
    folder = put(tmp_path / "data", {name: PLAIN[role] for name, role in names.items()})
    archives = "".join(f'[archives.{role}]\nname = "{name}"\n' for name, role in names.items())
    put(folder, {"data.toml": f'class_names = "names.txt"\norientation = "mirror"\n{archives}'.encode(),
                 "names.txt": b"5 five\n7 seven\n"})  # fmt: skip
    outputs = fetched(tmp_path, "ours", data=str(folder))
    assert {archive.path.name: role for role, archive in outputs.archives.items()} == names
    assert outputs.description.class_names == {5: "five", 7: "seven"}
    assert outputs.description.orientation == "mirror"
    put(folder, {"mine.txt": b"zero\none\n"})
    outputs = fetched(tmp_path, "ours", data=str(folder), class_names=str(folder / "mine.txt"))
    assert outputs.description.class_names == {0: "zero", 1: "one"}  # the option comes first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("title = ", "is not TOML"),
        ("titlex = 'x'", "found an unknown key; did you mean title?"),
        ("orientation = 'sideways'", "orientation: found 'sideways', expected one of none, transpose"),
        ("class_names = 3", "class_names: found 3, expected a list, a table or a file"),
        ("class_names = ['a', 'a']", "class_names: found 'a' for labels 0 and 1, expected a name of its own for each"),
        ("[class_names]\na = 'b'", "class_names: found label 'a', expected an integer"),
        ("class_names = 'nowhere.txt'", "nowhere.txt: found no such file"),
        (
            "class_names = '../names.txt'",
            "class_names: found '../names.txt', expected the name of a file in the same folder",
        ),
        (
            "[archives.test_images]\nname = '/etc/x'",
            "archives.test_images.name: found '/etc/x', expected the name of a",
        ),
        ("label_column = -1", "label_column: found -1, expected an integer of at least 0"),
        ("[archives.train]\nname = 'x'", "archives: found 'train', expected one of train_images, train_labels"),
        (
            "[archives.test_images]\nname = 'x'\nshapes = [1]",
            "archives.test_images.shapes: found an unknown key; did you mean shape?",
        ),
        ("[archives.train_images]\nname = 'x'", "archives.train_images.name: {folder}/x: found no such file"),
        ("[archives.train_images]\nmd5 = 'x'", "archives.train_images.name: missing, expected text"),
        ("mirrors = ['http://example.org/']", "mirrors.0: found 'http://example.org/', which is not https://"),
    ],
)
def test_a_bad_data_toml_is_refused_with_its_key(tmp_path: Path, text: str, words: str) -> None:
    folder = put(tmp_path / "data", {"data.toml": text.encode()})
    message = refused(tmp_path, "ours", data=str(folder))
    assert message.startswith(f"{folder}/")
    assert words.format(folder=folder) in message


def test_a_folders_data_toml_comes_before_the_catalog(
    tmp_path: Path, tiny: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"orientation": "transpose", "label_column": 1, "class_names": {0: "zero"}}
    said = DataSet.model_validate(tiny.model_dump() | about)
    monkeypatch.setitem(CATALOG, "tiny", said)
    folder = put(tmp_path / "data", {f"X_{role}": PLAIN[role] for role in ROLES} | {"data.toml": b"title = 'x'"})
    description = fetched(tmp_path, "ours", data=str(folder)).description  # known by checksum
    assert (description.orientation, description.class_names) == ("transpose", {0: "zero"})
    put(folder, {"data.toml": b"orientation = 'none'\nclass_names = ['nothing']"})
    description = fetched(tmp_path, "tiny", data=str(folder)).description
    assert (description.orientation, description.class_names) == ("none", {0: "nothing"})
    assert description.label_column == 1


def test_fetch_runs_again_after_a_change_of_the_names_that_data_toml_takes_from_a_file(
    tmp_path: Path, idxtrain: Idxtrain
) -> None:
    folder = put(tmp_path / "data", {f"X_{role}": PLAIN[role] for role in ROLES})
    put(folder, {"data.toml": b"class_names = 'names.txt'"})
    for name in ("before", "after"):
        put(folder, {"names.txt": name.encode()})
        assert idxtrain("fetch", "--data", folder, "--run-id", "r", "--work", tmp_path / "work").returncode == 0
        outputs = RunDir(tmp_path / "work/runs/r").record_file("fetch").read_text()
        assert json.loads(outputs)["outputs"]["description"]["class_names"] == {"0": name}


def test_a_checksum_in_data_toml_is_checked(tmp_path: Path) -> None:
    folder = put(tmp_path / "data", {"a": PLAIN["train_images"]})
    put(folder, {"data.toml": f'[archives.train_images]\nname = "a"\nmd5 = "{"0" * 32}"\n'.encode()})
    assert f"{folder}/a: found MD5 " in refused(tmp_path, "ours", data=str(folder))


def test_a_mirror_needs_checksums(tmp_path: Path) -> None:
    path = tmp_path / "data.toml"
    path.write_text('mirrors = ["https://example.org/"]\n[archives.test_labels]\nname = "x"\n')
    with pytest.raises(InputError, match="mirrors: found no gz_md5 of x, expected one for each archive"):
        read_data_set(path)


# --- the command


def test_the_command_lists_shows_and_looks_into_folders(tmp_path: Path) -> None:
    def show(*arguments: str) -> str:
        done = CliRunner().invoke(app.app, ["datasets", *arguments, "--work", str(tmp_path)])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    listed = show().splitlines()
    assert [line.split()[0] for line in listed[1:]] == list(CATALOG)
    assert "emnist-letters        26   124,800   20,800  28 × 28      bring it with --data" in listed
    shown = show("emnist-letters")
    assert "26: 1 = A/a, 2 = B/b" in shown
    assert "not upright; transpose turns them so" in shown
    folder = put(
        tmp_path / "data", {f"X_{role}.idx" if "images" in role else f"y_{role}": PLAIN[role] for role in ROLES}
    )
    assert "train_images  X_train_images.idx  400 x 28 x 28 of uint8" in show("--data", str(folder))
    done = CliRunner().invoke(app.app, ["datasets", "minst"])
    assert done.exit_code == 2
    assert "minst: found no such data set, expected one of" in done.stderr

"""What prepare notices about images and labels: each kind on archives with planted oddities, through Spark."""

import csv
import json
import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs import segments
from jobs.archive import Archive, Role
from jobs.dataset import DATA_PAGE, SPLITS, Split, read_manifest, read_split
from jobs.errors import InputError
from jobs.prepare import idx
from jobs.prepare.config import PrepareConfig
from jobs.prepare.digests import digests_in, image_digests
from jobs.prepare.findings import near
from jobs.prepare.findings.classes import class_findings
from jobs.prepare.findings.finding import CSV, JSON, ClassFinding, Finding, read_counts, require_none, write
from jobs.prepare.findings.look import look
from jobs.prepare.findings.outliers import Class
from jobs.prepare.findings.pairs import equal_images
from jobs.prepare.findings.rows import Look, batch_rows, is_summed, read_parquet
from jobs.prepare.findings.sketch import sketch_images
from jobs.prepare.stage import prepare
from jobs.run_dir import Work
from jobs.stage import dataset_of
from pipelines.config import compose
from tests.conftest import MakeArchives, learnable, put_archive
from tests.support.prepared import NO_SPARK, Made, bare_manifest, new_run, start

CONFIG = PrepareConfig(rows_per_shard=100)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Made:
    """Return a dataset of archives with one oddity of each kind."""
    root = tmp_path_factory.mktemp("odd")
    archives = make_archives(root / "data", train=900)
    images, labels, test = (idx.read(archives[role].path) for role in ("train_images", "train_labels", "test_images"))
    test_labels = idx.read(archives["test_labels"].path)
    random = np.random.default_rng(7)

    def almost(image: NDArray[Any]) -> NDArray[Any]:
        noisy = 0.9 * image + random.normal(0, 2, image.shape) + 5
        return np.clip(noisy, 0, 255).astype(np.uint8)

    images[10], labels[10] = images[5], labels[5]
    images[20], labels[20] = images[15], (labels[15] + 1) % 3
    images[30], labels[30] = test[3], test_labels[3]
    images[40] = 0
    images[80] = 100 + random.integers(0, 3, images[80].shape)
    images[80, 4, 4] = 255
    images[50], labels[50] = almost(images[45]), labels[45]
    images[60], labels[60] = almost(images[55]), (labels[55] + 1) % 3
    images[70] = random.integers(0, 2, images[70].shape) * 255
    archives["train_images"] = put_archive(root / "data", "train_images", images, gz=True)
    archives["train_labels"] = put_archive(root / "data", "train_labels", labels, gz=True)
    run = new_run(root / "work", archives, CONFIG)
    with start(run) as process:
        _, log = process.communicate()
    assert process.returncode == 0, log
    work = Work(root / "work")
    return Made(config=CONFIG, archives=archives, work=work, directory=dataset_of(run), log=log)


def lines_of(directory: Path) -> list[dict[str, str]]:
    with (directory / CSV).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rows_of(made: Made, kind: str) -> list[tuple[str, int, str, str]]:
    """Return role, row, other role and other row of each finding of a kind."""
    lines = [line for line in lines_of(made.directory) if line["finding"] == kind]
    return [(line["role"], int(line["row"]), line["other_role"], line["other_row"]) for line in lines]


def test_each_copy_but_one_is_a_finding_and_the_test_image_is_the_one_to_keep(odd: Made) -> None:
    assert sorted(rows_of(odd, "duplicate")) == [("train", 10, "train", "5"), ("train", 30, "test", "3")]


def test_both_images_of_a_contradiction_are_findings(odd: Made) -> None:
    assert sorted(rows_of(odd, "conflict")) == [("train", 15, "train", "20"), ("train", 20, "train", "15")]
    assert sorted(rows_of(odd, "near-conflict")) == [("train", 55, "train", "60"), ("train", 60, "train", "55")]


def test_a_copy_of_other_brightness_contrast_and_noise_is_a_near_duplicate(odd: Made) -> None:
    ((role, row, _, other),) = rows_of(odd, "near-duplicate")
    assert (role, {row, int(other)}) == ("train", {45, 50})


def test_constant_and_nearly_constant_images_and_outliers_are_findings(odd: Made) -> None:
    assert rows_of(odd, "constant") == [("train", 40, "", "")]
    assert rows_of(odd, "near-constant") == [("train", 80, "", "")]
    outlying = [row for _, row, _, _ in rows_of(odd, "outlier")]
    assert outlying[0] == 70
    assert set(outlying) <= {70, 20, 60}  # two of another class


def test_a_finding_has_the_archives_label_and_the_split(odd: Made) -> None:
    labels = idx.read(odd.archives["train_labels"].path)
    for line in lines_of(odd.directory):
        if line["role"] == "train":
            assert int(line["label"]) == labels[int(line["row"])]
            assert line["split"] in ("train", "validation")


def test_the_log_counts_findings_and_names_archive_and_row(odd: Made) -> None:
    assert "prepare: images of a single value: 1, first: row 40 of train-images-idx3-ubyte.gz" in odd.log
    assert "prepare: images with the same pixels as another: 2, first: row" in odd.log


def stored(made: Made, split: Split) -> NDArray[Any]:
    """Return a split's images as the archive has them, [rows, values]."""
    images = idx.read(made.archives["test_images" if split == "test" else "train_images"].path)
    return images[read_split(made.directory, made.manifest, split)[2]].reshape(-1, made.manifest.values_per_image)


def look_again(made: Made, copy: Path) -> None:
    """Copy a dataset and look at its files, without Spark and without the archives."""
    shutil.copytree(made.directory, copy)
    for name in (CSV, JSON, DATA_PAGE):
        (copy / name).unlink()
    manifest, digests = made.manifest, b"".join(image_digests(stored(made, split)) for split in SPLITS)
    view, size = Look(manifest.shape, len(manifest.labels)), batch_rows(manifest.values_per_image)
    views = (
        view(pq.ParquetFile(copy / shard.path).iter_batches(size), is_summed(split, number))
        for split in SPLITS
        for number, shard in enumerate(manifest.splits[split].shards)
    )
    look(copy, manifest, views, digests_in(digests), partial(read_parquet, copy, manifest), copy)


def test_the_same_dataset_gives_the_same_files_by_its_shards_and_by_its_archives(odd: Made, tmp_path: Path) -> None:
    copy = tmp_path / odd.directory.name
    look_again(odd, copy)
    for name in (CSV, JSON, DATA_PAGE):
        assert (copy / name).read_bytes() == (odd.directory / name).read_bytes()


@pytest.mark.parametrize("pictures", [1, 24])
def test_pairs_that_are_compared_in_chunks_are_found_and_shown(
    odd: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: int
) -> None:
    copy = tmp_path / odd.directory.name
    monkeypatch.setattr("jobs.prepare.findings.look._CHUNK_BYTES", 1)  # a pair at a time
    monkeypatch.setattr("jobs.prepare.findings.page._MOST_PICTURES", pictures)
    look_again(odd, copy)
    assert (copy / CSV).read_bytes() == (odd.directory / CSV).read_bytes()
    is_same = (copy / DATA_PAGE).read_bytes() == (odd.directory / DATA_PAGE).read_bytes()
    assert is_same == (pictures == 24)


def test_what_is_kept_of_findings_is_bounded_and_all_are_counted(
    odd: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / odd.directory.name
    monkeypatch.setattr("jobs.prepare.findings.look._MOST_LISTED", 1)
    monkeypatch.setattr("jobs.prepare.findings.look._MOST_PAIRS", 1)
    with caplog.at_level("WARNING", "idxtrain"):
        look_again(odd, copy)
    counts = read_counts(copy)
    assert {kind: counts[kind] for kind in ("duplicate", "conflict")} == {"duplicate": 2, "conflict": 2}
    assert counts["near-duplicate"] + counts["near-conflict"] <= 2  # of one pair
    with (copy / CSV).open(newline="", encoding="utf-8") as file:
        listed = [line["finding"] for line in csv.DictReader(file)]
    assert len(listed) == len(set(listed)) >= 5
    for words in ("findings.csv lists the first 1 of them", "only the nearest 1 pairs are searched"):
        assert words in caplog.text


def test_the_page_shows_pairs_side_by_side_and_is_private(odd: Made) -> None:
    page = (odd.directory / DATA_PAGE).read_text(encoding="utf-8")
    assert (odd.directory / DATA_PAGE).stat().st_mode & 0o777 == 0o600
    for heading in (
        "Equal images",
        "Nearly equal images under two labels",
        "Constant images",
        "Nearly constant images",
        "Far from their class",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "train 30" in page
    assert "test 3" in page
    assert page.count('class="mean"') == 3


def strictly(made: Made, *accept: Any) -> Path:
    config = made.config.model_copy(update={"strict": True, "accept": accept})
    return prepare(config, NO_SPARK, made.archives, made.work)


def test_strict_refuses_a_dataset_with_findings_and_keeps_their_list(odd: Made) -> None:
    with pytest.raises(InputError, match=r"findings\.csv: found 2 duplicate, 1 near-duplicate, 2 conflict") as caught:
        strictly(odd, "outlier")
    assert f"prepare.exclude={odd.directory / CSV}" in str(caught.value)
    assert lines_of(odd.directory)


def test_strict_accepts_the_kinds_that_it_is_given(odd: Made) -> None:
    kinds = [kind for kind, number in read_counts(odd.directory).items() if number]
    assert strictly(odd, *kinds) == odd.directory


def options_of(error: InputError) -> list[str]:
    """Return the assignments that an error's fix suggests after --set."""
    words = shlex.split(str(error).partition("; fix: ")[2])
    return [words[place + 1].rstrip(",") for place, word in enumerate(words) if word == "--set"]


def test_strict_suggests_options_that_the_config_takes(odd: Made) -> None:
    with pytest.raises(InputError) as caught:
        strictly(odd, "outlier")
    exclude, accept = (compose("fast", {}, [option]).prepare for option in options_of(caught.value))
    assert exclude.exclude == str(odd.directory / CSV)
    assert strictly(odd, *accept.accept) == odd.directory


@pytest.mark.parametrize("split", ["train", "test"])
def test_strict_suggests_to_leave_out_only_images_that_would_be(tmp_path: Path, split: str) -> None:
    image = Finding(role="train", tag="", row=3, split=split, finding="constant", label=1, name="1", detail="")
    few = ClassFinding(finding="few-images", label=1, name="1", detail="")
    write(tmp_path, [image], [few], {"constant": 1, "few-images": 1})
    with pytest.raises(InputError) as caught:
        require_none(tmp_path, ["outlier"])
    accept = 'prepare.accept=["constant", "few-images", "outlier"]'
    assert options_of(caught.value) == [f"prepare.exclude={tmp_path / CSV}", accept][split == "test" :]
    with pytest.raises(InputError) as caught:
        require_none(tmp_path, ["constant"])
    assert options_of(caught.value) == ['prepare.accept=["constant", "few-images"]']


def test_altered_counts_are_refused(odd: Made, tmp_path: Path) -> None:
    raw = json.loads((odd.directory / JSON).read_text())
    (tmp_path / JSON).write_text(json.dumps(raw | {"counts": {}}))
    with pytest.raises(InputError, match="SHA-256"):
        read_counts(tmp_path)


@pytest.mark.long
def test_a_dataset_without_the_listed_images_has_no_such_findings(odd: Made) -> None:
    config = odd.config.model_copy(update={"exclude": str(odd.directory / CSV), "strict": True})
    run = new_run(odd.work.path, odd.archives, config, "r2")
    with start(run) as process:
        _, log = process.communicate()
    assert process.returncode == 0, log
    assert not lines_of(dataset_of(run)) or {line["finding"] for line in lines_of(dataset_of(run))} == {"outlier"}


def smooth_images(rows: int, random: np.random.Generator) -> NDArray[Any]:
    """Return different pictures with few details, float64 [rows, 24, 24] in [0, 1]."""
    images = np.kron(random.random((rows, 6, 6)), np.ones((4, 4)))
    return images * random.uniform(0.3, 1, (rows, 1, 1))


def pairs_of(images: NDArray[Any]) -> set[tuple[int, int]]:
    flat = images.reshape(len(images), -1).astype(np.float32)
    sketch = sketch_images(flat, np.zeros(len(flat), np.int32), np.arange(len(flat)), (24, 24, 1))
    pairs = np.concatenate(list(near.candidates(sketch.projections, np.arange(len(flat)))))
    return {(a, b) for a, b in pairs.tolist() if near.picture_distance(flat[a], flat[b]) <= near.NEAR}


@pytest.mark.parametrize("seed", [0, 1])
def test_nearly_all_near_copies_are_found_and_nothing_else(seed: int) -> None:
    random = np.random.default_rng(seed)
    images = smooth_images(3000, random)
    copies = random.choice(3000, 400, replace=False)
    noise = random.normal(0, 1, (400, 24, 24))
    contrast = images[copies].std(axis=(1, 2), keepdims=True)
    near_copies = 0.9 * images[copies] + 0.03 * contrast * noise + 0.05  # at distances up to 0.05
    found = pairs_of(np.concatenate([images, near_copies]))
    expected = {(int(row), 3000 + number) for number, row in enumerate(copies)}
    assert len(found & expected) >= 0.99 * len(expected)
    assert found <= expected


def test_a_thousand_copies_are_compared_in_linear_time() -> None:
    random = np.random.default_rng(0)
    images = np.repeat(smooth_images(1, random), 5000, axis=0) + random.normal(0, 0.003, (5000, 24, 24))
    flat = images.reshape(5000, -1).astype(np.float32)
    sketch = sketch_images(flat, np.zeros(5000, np.int32), np.arange(5000), (24, 24, 1))
    pieces = list(near.candidates(sketch.projections, np.arange(5000)))
    pairs = np.unique(np.concatenate(pieces), axis=0)
    assert len(pairs) <= 16 * 16 * 5000
    assert len(np.unique(pairs)) > 4950
    is_test = np.arange(5000) >= 4000
    kept = near.nearest(sketch.projections, pieces, is_test, 10**9)
    assert len(kept) <= min(6 * 5000, len(pairs) // 10)
    # Pieces that are reduced one after another give the same, and of too many pairs the nearest are kept.
    assert np.array_equal(near.nearest(sketch.projections, [pairs], is_test, 40_000), kept)
    assert np.array_equal(near.nearest(sketch.projections, pieces, is_test, 40_000), kept)
    distances = near._sketch_distances(sketch.projections, kept)
    few = near.nearest(sketch.projections, [pairs], is_test, 50)
    assert len(few) == 50
    assert near._sketch_distances(sketch.projections, few).max() <= np.sort(distances)[49]
    # Every row keeps a partner of each kind that it had: earlier and later, of training and of the test split.
    for one, other in ((0, 1), (1, 0)):
        for side in (False, True):
            had, has = (set(each[is_test[each[:, other]] == side, one].tolist()) for each in (pairs, kept))
            assert has == had


def test_many_equal_images_of_two_classes_are_judged_in_linear_time() -> None:
    """Each of another class names the first of this one, and the test image stays; by all pairs it takes minutes."""
    rows = 200_000
    labels, is_test = np.zeros(rows, np.int64), np.zeros(rows, bool)
    labels[1::2] = 1
    is_test[-1] = True
    copies, found = equal_images(np.zeros(rows, "V16"), labels, is_test, np.zeros(rows, bool))
    assert (copies.kind, len(copies), found.kind) == ("duplicate", 0, "conflict")
    assert found.rows.tolist() == list(range(rows - 1))
    assert set(zip((found.rows % 2).tolist(), found.others.tolist(), strict=True)) == {(0, rows - 1), (1, 0)}
    assert not any(map(len, equal_images(np.zeros(rows, "V16"), labels, is_test, np.ones(rows, bool))))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2), st.booleans()), max_size=30))
@settings(deadline=None)
def test_equal_images_are_judged_as_the_rule_says(images: list[tuple[int, int, bool]]) -> None:
    """The rule, image by image. `images`: content, label, and whether it is in the test split."""
    expected = set()
    for row, (content, label, tested) in enumerate(images):
        group = [(not each[2], number) for number, each in enumerate(images) if each[0] == content]
        ordered = [number for _, number in sorted(group)]  # the one to keep first
        others = [number for number in ordered if images[number][1] != label]
        is_among_test = len({images[number][1] for number in ordered if images[number][2]}) > 1
        if others and (not tested or is_among_test):
            expected.add(("conflict", row, others[0]))
        elif row != ordered[0]:
            expected.add(("duplicate", row, ordered[0]))
    digests = digests_in(b"".join(bytes([content] * 16) for content, _, _ in images))
    labels, is_test = np.array([each[1] for each in images], int), np.array([each[2] for each in images], bool)
    with patch("jobs.prepare.digests._BUCKET_ROWS", 7):
        found = equal_images(digests, labels, is_test, np.zeros(len(images), bool))
    assert {(each.kind, each.row, each.other) for kind in found for each in kind.first(99)} == expected
    assert all((np.diff(kind.rows) > 0).all() for kind in found)


def test_normal_features_are_flagged_as_rarely_as_stated() -> None:
    random = np.random.default_rng(0)
    mixing = random.normal(size=(18, 18))
    values = random.normal(size=(40_000, 18)) @ mixing
    flagged = Class.of(values[:20_000]).excess(values) > 1  # as of more than 100,000 rows, some are not in the estimate
    assert flagged.sum() <= 4  # 0.4 are expected


def test_classes_that_are_few_small_or_of_another_share_are_findings() -> None:
    manifest = bare_manifest((2, 2, 1), 3)
    counts = {"train": (5000, 5000, 4), "validation": (0, 0, 0), "test": (300, 700, 0)}
    splits = {name: {"label_counts": each, "rows": sum(each), "shards": ()} for name, each in counts.items()}
    changed = type(manifest).model_validate(manifest.model_dump() | {"splits": splits})
    found = {(each.finding, each.label) for each in class_findings(changed)}
    assert found == {("few-images", 2), ("imbalance", 2), ("shifted-share", 0)}


def test_even_classes_are_no_finding(made: Callable[[str], Made]) -> None:
    assert not list(class_findings(read_manifest(made("uint8-gz").directory)))


@pytest.mark.long
def test_findings_among_several_pairs_name_the_tag(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    archives: dict[str, Archive] = {}

    def put(role: Role, tag: str | None, array: NDArray[Any]) -> None:
        key = role if tag is None else segments.key(role, tag)
        (tmp_path / key).mkdir()
        archives[key] = put_archive(tmp_path / key, role, array)

    pairs = {tag: learnable(120, (12, 20), 3, random) for tag in ("monday", "tuesday")}
    pairs["tuesday"][0][7], pairs["tuesday"][1][7] = pairs["monday"][0][9], pairs["monday"][1][9]
    for tag, (images, labels) in pairs.items():
        put("train_images", tag, (255 * images).astype(np.uint8))
        put("train_labels", tag, labels)
    images, labels = learnable(60, (12, 20), 3, random)
    images[4], labels[4] = pairs["monday"][0][11], pairs["monday"][1][11]
    put("test_images", None, (255 * images).astype(np.uint8))
    put("test_labels", None, labels)
    run = new_run(tmp_path / "work", archives, CONFIG)
    with start(run) as process:
        _, log = process.communicate()
    assert process.returncode == 0, log
    found = {
        tuple(line[name] for name in ("finding", "role", "tag", "row", "other_role", "other_tag", "other_row"))
        for line in lines_of(dataset_of(run))
    }
    copies = {("train", "tuesday", "7", "train", "monday", "9"), ("train", "monday", "11", "test", "", "4")}
    assert found == {("duplicate", *copy) for copy in copies}

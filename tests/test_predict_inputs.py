"""What `idxtrain predict` reads: each image once, in order, with the values of training, or a refusal in one line."""

import gzip
import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobs.dataset import Manifest, Normalization, PixelStatistics
from jobs.errors import InputError
from jobs.orientation import Orientation
from jobs.predict.arrays import as_stored, by_type
from jobs.predict.inputs import Reading, source_of
from jobs.predict.source import Batch, parse_share, rebatched
from jobs.prepare import idx
from jobs.prepare.decode import normalize
from jobs.prepare.idx_header import encode, header_of
from jobs.prepare.orientation import upright
from jobs.prepare.survey import NORMALIZATION_OF_BYTES
from tests.support.pictures import encoded, random_pixels
from tests.support.prepared import bare_manifest

BYTES = bare_manifest((4, 5, 1), 3).model_copy(
    update={"pixels": PixelStatistics(mean=0.5, std=0.3, min=0, max=1), "normalization": NORMALIZATION_OF_BYTES}
)
NUMBERS = BYTES.model_copy(update={"normalization": Normalization(rule="train-range", offset=-2, scale=1 / 18)})
IMAGES = random_pixels(3, 23, 4, 5)


def read(paths: Path | Sequence[Path], manifest: Manifest = BYTES, batch_size: int = 4, **how: Any) -> list[Batch]:
    inputs = [paths] if isinstance(paths, Path) else paths
    return list(source_of(inputs, manifest, Reading(batch_size=batch_size, **how)).batches)


def images_of(batches: Sequence[Batch]) -> NDArray[Any]:
    return np.concatenate([batch.images for batch in batches])


def keys_of(batches: Sequence[Batch]) -> list[int | str]:
    return [key for batch in batches for key in batch.keys]


def refusal(paths: Path | Sequence[Path], manifest: Manifest = BYTES, **how: Any) -> str:
    with pytest.raises(InputError) as error:
        read(paths, manifest, **how)
    assert "\n" not in str(error.value)
    assert "; fix: " in str(error.value)
    return str(error.value)


@given(sizes=st.lists(st.integers(0, 9), max_size=9), size=st.integers(1, 7))
def test_batches_have_one_size_and_each_row_once(sizes: list[int], size: int) -> None:
    rows = np.arange(sum(sizes))
    blocks = np.split(rows, np.cumsum(sizes)[:-1]) if sizes else []
    batches = list(rebatched(blocks, size))
    assert [len(each) for each in batches[:-1]] == [size] * (len(batches) - 1)
    assert all(0 < len(each) <= size for each in batches)
    assert np.array_equal(np.concatenate([rows[:0], *batches]), rows)


@pytest.mark.parametrize("name", ["images.idx", "images.idx.gz", "images.npz", "images.npy", "other.npz"])
@pytest.mark.parametrize("batch_size", [1, 4, 23, 500])
def test_every_row_of_an_array_comes_once_with_the_bits_of_training(tmp_path: Path, name: str, batch_size: int) -> None:
    path = tmp_path / name
    if name == "other.npz":
        np.savez_compressed(path, pixels=IMAGES, scale=np.float64(2), about=np.array(["text"]), ids=np.arange(23))
    elif name.endswith(".npz"):
        np.savez(path, x_test=IMAGES, y_test=np.arange(23))
    elif name.endswith(".npy"):
        np.save(path, IMAGES)
    else:
        idx.write(path, IMAGES)
    batches = read(path, batch_size=batch_size)
    assert keys_of(batches) == list(range(23))
    assert images_of(batches).tobytes() == normalize(IMAGES, NORMALIZATION_OF_BYTES).tobytes()
    assert images_of(batches).shape == (23, 4, 5, 1)


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_an_archive_of_any_type_is_read_as_training_read_it(tmp_path: Path, dtype: str) -> None:
    stored = np.random.default_rng(1).integers(0, 17, (9, 4, 5)).astype(dtype)
    idx.write(tmp_path / "a", stored)
    images = images_of(read(tmp_path / "a", NUMBERS))
    assert images.tobytes() == normalize(stored, NUMBERS.normalization).tobytes()


@pytest.mark.parametrize("turn", ["transpose", "rotate-90", "mirror"])
def test_archives_lie_as_in_training_unless_an_option_says_otherwise(tmp_path: Path, turn: Orientation) -> None:
    turned = BYTES.model_copy(update={"orientation": turn})
    stored = IMAGES.swapaxes(1, 2) if turn != "mirror" else IMAGES
    idx.write(tmp_path / "stored", stored)
    expected = normalize(upright(stored, turn), NORMALIZATION_OF_BYTES)[..., None]
    assert np.array_equal(images_of(read(tmp_path / "stored", turned)), expected)
    assert np.array_equal(images_of(read(tmp_path / "stored", BYTES, orientation=turn)), expected)
    idx.write(tmp_path / "upright", IMAGES)
    assert np.array_equal(
        images_of(read(tmp_path / "upright", turned, orientation="none"))[..., 0],
        normalize(IMAGES, NORMALIZATION_OF_BYTES),
    )


def test_labels_come_with_their_images_whatever_their_form(tmp_path: Path) -> None:
    labels = np.arange(23, dtype=np.int16) * 7 - 50
    idx.write(tmp_path / "images.gz", IMAGES)
    idx.write(tmp_path / "labels", labels)
    idx.write(tmp_path / "columns", np.stack([labels, labels * 0], axis=1))
    idx.write(tmp_path / "one-hot", np.eye(23, dtype=np.uint8))
    np.savez(tmp_path / "pair.npz", images=IMAGES, labels=labels)
    for name, expected in (("labels", labels), ("columns", labels), ("one-hot", np.arange(23))):
        batches = read(tmp_path / "images.gz", labels=tmp_path / name)
        assert np.array_equal(np.concatenate([batch.labels for batch in batches]), expected)
    pair = [batch.labels for batch in read(tmp_path / "pair.npz")]
    assert np.array_equal(np.concatenate(pair), labels)  # type: ignore[arg-type]


def test_integers_are_as_stored_and_floats_as_the_network_takes_them() -> None:
    turned = BYTES.model_copy(update={"orientation": "transpose"})
    stored = IMAGES.swapaxes(1, 2)
    network = normalize(IMAGES, NORMALIZATION_OF_BYTES)[..., None]
    for integers in (stored, stored.astype(np.int64), stored[..., None], stored.reshape(23, -1)):
        assert np.array_equal(by_type(integers, turned, None, "images"), network)
    for floats in (network, network.astype(np.float64), network[..., 0], network.reshape(23, -1)):
        assert np.array_equal(by_type(floats, turned, None, "images"), network)
    assert by_type(IMAGES[:0], BYTES, None, "images").shape == (0, 4, 5, 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES * 1.0, "found float64 from 0 to 255, expected 0 to 1"),
        (np.full((2, 4, 5), np.nan), "found float64 from nan to nan, expected 0 to 1"),
        (IMAGES.astype(np.int32) - 1, "found int32 from -1 to 254, expected integers from 0 to 255"),
        (IMAGES > 9, "found an array of bool, expected numbers"),
        (IMAGES[0], "found an array of 4 x 5, expected n x 4 x 5 x 1"),
        (IMAGES.swapaxes(1, 2), "found an array of 23 x 5 x 4, expected n x 4 x 5 x 1"),
        (np.uint8(3).reshape(()), "found an array of a single number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_array_that_could_be_misread_is_refused(images: NDArray[Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        by_type(images, BYTES, None, "images")
    assert message in str(error.value)


def test_floating_point_archives_do_not_fit_a_model_of_bytes() -> None:
    with pytest.raises(InputError, match="found float32 from 0 to 1, expected integers from 0 to 255 as in training"):
        as_stored(np.eye(20, dtype=np.float32).reshape(20, 4, 5), BYTES, None, "a.idx")


def pictures(count: int) -> dict[str, bytes]:
    return {f"{'deep/' * (number % 3)}{number:02}.png": encoded(IMAGES[number]) for number in range(count)}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("batch_size", [1, 5, 500])
def test_every_picture_comes_once_from_files_folders_and_archives(tmp_path: Path, batch_size: int) -> None:
    files = pictures(23)
    folder = put(tmp_path / "folder", files)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped, tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for name in sorted(files):
            zipped.writestr(name, files[name])
            tar.add(folder / name, name)
    by_name = {name: normalize(IMAGES[int(name[-6:-4])], NORMALIZATION_OF_BYTES) for name in files}
    for source in (folder, tmp_path / "a.zip", tmp_path / "a.tar.gz"):
        batches = read(source, batch_size=batch_size)
        keys = keys_of(batches)
        assert sorted(map(str, keys)) == sorted(f"{source}/{name}" for name in files)
        for key, image in zip(keys, images_of(batches), strict=True):
            assert np.array_equal(image[..., 0], by_name[str(key).removeprefix(f"{source}/")])
    given = [folder / name for name in sorted(files, reverse=True)]
    assert keys_of(read([*given, folder], batch_size=batch_size)) == [*map(str, given), *keys_of(read(folder))]


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_shards_hold_every_batch_once_and_the_same_batches(tmp_path: Path, count: int) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    idx.write(tmp_path / "a.idx", IMAGES)
    put(tmp_path / "folder", pictures(23))
    for source in ("a.npy", "a.idx", "folder"):
        whole = [list(batch.keys) for batch in read(tmp_path / source, batch_size=4)]
        shards = [source_of([tmp_path / source], BYTES, how) for how in readings(count)]
        batches = [[list(batch.keys) for batch in shard.batches] for shard in shards]
        assert [shard.may_be_empty for shard in shards] == [number > 0 for number in range(count)]
        assert [shard.total for shard in shards] == [sum(map(len, each)) for each in batches]
        assert [each for shard in batches for each in shard] == [
            batch for number in range(count) for batch in whole[number::count]
        ]


def readings(count: int) -> list[Reading]:
    return [Reading(batch_size=4, share=parse_share(f"{number}/{count}")) for number in range(1, count + 1)]


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "1/2/3", "½/2", ""])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected I/N with I from 1 to N; fix: "):
        parse_share(text)


def test_unusable_pictures_are_named_with_their_reason_and_other_files_left_out(tmp_path: Path) -> None:
    files = {"a.png": encoded(IMAGES[0]), "b.png": b"", "c.jpg": b"\xff\xd8\xff", "d.png": encoded(IMAGES[0][1:])}
    folder = put(tmp_path / "mixed", files | {"notes.txt": b"hello", ".hidden.png": b"", "Thumbs.db": b""})
    (batch,) = read(folder, batch_size=99)
    assert keys_of([batch]) == [f"{folder}/a.png"]
    reasons = {Path(each.path).name: each.reason for each in batch.bad}
    assert list(reasons) == ["b.png", "c.jpg", "d.png"]
    assert reasons["d.png"] == "found 3 x 5 pixels (height x width), expected 4 x 5"
    (given,) = read([folder / "notes.txt"])
    assert given.bad[0].reason.startswith("not a picture")


def test_pictures_are_resampled_on_request(tmp_path: Path) -> None:
    put(tmp_path / "large", {"a.png": encoded(np.full((8, 10), 51, np.uint8))})
    (batch,) = read(tmp_path / "large", resize=True)
    assert np.allclose(batch.images, np.full((1, 4, 5, 1), 0.2))


def test_what_does_not_fit_is_refused_with_what_was_seen(tmp_path: Path) -> None:
    images, labels, text = tmp_path / "images", tmp_path / "labels", tmp_path / "a.npz"
    idx.write(images, IMAGES)
    idx.write(labels, np.arange(22, dtype=np.uint8))
    idx.write(tmp_path / "wide", IMAGES.swapaxes(1, 2))
    np.savez(text, x_train=IMAGES, x_test=IMAGES, y_test=np.arange(23))
    np.savez(tmp_path / "none.npz", x=IMAGES[:, 1:])
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    put(tmp_path, {"a.png": encoded(IMAGES[0])})
    assert "found no such file or folder" in refusal(tmp_path / "missing.png")
    assert "found an archive of 22 of uint8, expected images of 4 x 5 x 1" in refusal(labels)
    assert "found an archive of 23 x 5 x 4 of uint8" in refusal(tmp_path / "wide")
    assert "found an archive of 22 of uint8, expected 23 labels" in refusal(images, labels=labels)
    assert "choose one with --array" in refusal(text)
    assert "--array y: found the arrays x_train (23 x 4 x 5), x_test (23 x 4 x 5)," in refusal(text, array="y")
    assert "found the arrays x (23 x 3 x 5), expected one of n x 4 x 5 x 1" in refusal(tmp_path / "none.npz")
    assert "expected an array of numbers" in refusal(tmp_path / "pickled.npy")
    assert "found with 1 more inputs" in refusal([images, tmp_path / "a.png"])
    assert keys_of(read(text, array="x_test")) == list(range(23))


@pytest.mark.parametrize("is_fortran", [True, False])
@pytest.mark.parametrize("form", ["npy", "npz", "deflated.npz"])
def test_an_array_that_claims_more_than_its_file_holds_is_refused_before_memory_is_asked_for(
    tmp_path: Path, form: str, is_fortran: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = {"descr": "|u1", "fortran_order": is_fortran, "shape": (1 << 38, 4, 5)}
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, header)  # type: ignore[no-untyped-call]
    array.write(IMAGES.tobytes())
    path = tmp_path / f"a.{form}"
    if form == "npy":
        path.write_bytes(array.getvalue())
    else:
        kind = zipfile.ZIP_DEFLATED if form.startswith("deflated") else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", kind) as archive:
            archive.writestr("x.npy", array.getvalue())
    monkeypatch.setattr("jobs.convert.npz.np.frombuffer", None)  # nothing is read
    assert "found the end of" in refusal(path)
    assert "expected 5,497,558,138,880 bytes" in refusal(path)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.png", {"labels": Path("l")}),
        ("a.png", {"array": "x"}),
        ("a.png", {"orientation": "mirror"}),
        ("images", {"resize": True}),
        ("images", {"background": 0}),
        ("images", {"polarity": "invert"}),
        ("images", {"array": "x"}),
        ("a.npy", {"labels": Path("l")}),
        ("a.npy", {"array": "x"}),
        ("floats.npy", {"orientation": "mirror"}),
    ],
)
def test_an_option_that_does_not_apply_to_the_input_is_refused(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    idx.write(tmp_path / "images", IMAGES)
    np.save(tmp_path / "a.npy", IMAGES)
    np.save(tmp_path / "floats.npy", IMAGES / 255)
    put(tmp_path, {"a.png": encoded(IMAGES[0])})
    assert refusal(tmp_path / name, **how).startswith(f"--{next(iter(how))}: found")


def archive_bytes() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, images=IMAGES[:3])
    return file.getvalue()


@settings(deadline=None)
@given(data=st.binary(max_size=60), at=st.integers(0, 400), form=st.sampled_from(["idx", "gz", "npz", "npy", "zip"]))
def test_damaged_files_are_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, form: str
) -> None:
    plain = encode(header_of(IMAGES)) + IMAGES.tobytes()
    npy = io.BytesIO()
    np.save(npy, IMAGES)
    good = {"idx": plain, "gz": gzip.compress(plain), "npz": archive_bytes(), "npy": npy.getvalue()}
    good["zip"] = good["npz"]  # a zip of a file that is not a picture
    path = tmp_path_factory.mktemp("damaged") / f"a.{form}"
    path.write_bytes(good[form][:at] + data + good[form][at + len(data) :])
    reason = ""
    try:
        batches = read(path)
        assert len(keys_of(batches)) == sum(len(batch.images) for batch in batches)
    except InputError as error:
        reason = str(error)
    assert "\n" not in reason

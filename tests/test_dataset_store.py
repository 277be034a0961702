"""A dataset whose shards are in an object store: the bytes of one on disk, uploaded once, and read through faults."""

import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psutil
import pytest

from jobs import dataset_store, object_store
from jobs.dataset import MANIFEST, SPLITS, read_manifest, read_split, verify
from jobs.dataset_store import FILE, OPTION, StoreFolder, open_folder, read_record, require_shards
from jobs.errors import InputError, StoreLostError
from jobs.files import sealed, sha256_file, write_json
from jobs.object_store import file_system
from jobs.prepare import compose
from jobs.prepare.config import PrepareConfig
from jobs.prepare.segment import read_segment
from jobs.prepare.survey import Moments
from jobs.run_dir import RunDir
from jobs.shard_copies import ShardCopies, local_path, private_folder
from jobs.stage import dataset_of
from tests.conftest import Idxtrain, MakeArchives
from tests.support.prepared import NO_SPARK, Made, new_run, parquet_bytes, start
from tests.support.s3_server import BUCKET, KEYS, Server
from tests.support.same_numbers import weights
from tests.support.stored import URL, on_disk, remote, server, store
from tests.test_segments import add_pair, fetched

__all__ = ["on_disk", "remote", "server", "store"]  # fixtures


def in_store(config: PrepareConfig) -> PrepareConfig:
    return config.model_copy(update={"store": URL})


def prepared(work: Path, archives: Any, config: PrepareConfig, run_id: str = "r1") -> tuple[Path, str]:
    """Prepare with the store; return the dataset and the log."""
    run = new_run(work, archives, in_store(config), run_id)
    with start(run) as process:
        _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return dataset_of(run), stderr


def test_a_dataset_in_a_store_has_the_bytes_of_one_on_disk(small: Made, store: Server, tmp_path: Path) -> None:
    directory, _ = prepared(tmp_path / "work", small.archives, small.config)
    assert directory.name == small.directory.name
    on_disk = parquet_bytes(small.directory)
    assert store.objects(f"sets/{directory.name}/") == on_disk | {MANIFEST: (directory / MANIFEST).read_bytes()}
    names = [MANIFEST, "findings.csv", "findings.json"]
    assert [(directory / name).read_bytes() for name in names] == [
        (small.directory / name).read_bytes() for name in names
    ]
    assert not [*tmp_path.rglob("*.parquet")]
    for split in SPLITS:
        mine, theirs = (read_split(each, read_manifest(each), split) for each in (directory, small.directory))
        assert all((a == b).all() for a, b in zip(mine, theirs, strict=True))
    _, log = prepared(tmp_path / "work", small.archives, small.config, "r2")
    assert f"already exists, its shards at {URL}/{directory.name}\n" in log


@pytest.mark.long
def test_after_kill_9_the_next_prepare_uploads_only_what_is_not_there(
    make_archives: MakeArchives, store: Server, tmp_path: Path
) -> None:
    archives = make_archives(tmp_path / "data", train=300, test=20)
    config = PrepareConfig(rows_per_shard=20)
    run = new_run(tmp_path / "work", archives, in_store(config))
    with start(run) as process:
        while len(store.objects()) < 3:
            assert process.poll() is None
            time.sleep(0.01)
        helpers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
    psutil.wait_procs(helpers, timeout=60)
    before = store.objects()
    assert not run.record_file("prepare").exists()
    assert not [name for name in before if name.endswith(MANIFEST)]
    cut = next(iter(before))
    store.client.put_object(Bucket=BUCKET, Key=cut, Body=before[cut][:-100])  # as one that Hadoop was left with
    store.uploads()
    directory, _ = prepared(tmp_path / "work", archives, config, "r2")
    assert not set(store.uploads()) & (before.keys() - {cut})
    assert store.objects()[cut] == before[cut]
    verify(directory, read_manifest(directory), *SPLITS)


@pytest.mark.long
def test_a_dataset_of_several_pairs_shares_the_objects_of_its_segments(
    make_archives: MakeArchives, store: Server, tmp_path: Path
) -> None:
    made = make_archives(tmp_path / "data", train=130, test=60, gz=False)
    assert len(made) == 4
    add_pair(tmp_path / "data", "b", make_archives, tmp_path)
    archives = fetched(tmp_path / "data", tmp_path / "work")
    config = PrepareConfig(rows_per_shard=64)
    disk = new_run(tmp_path / "disk", archives, config)
    with start(disk) as process:
        process.communicate()
    directory, _ = prepared(tmp_path / "work", archives, config)
    on_disk = dataset_of(disk)
    for name in (MANIFEST, "findings.csv"):
        assert (directory / name).read_bytes() == (on_disk / name).read_bytes()
    assert len(store.uploads()) == len(parquet_bytes(on_disk))
    manifest = read_manifest(directory)
    assert {local_path(directory, s).read_bytes() for split in SPLITS for s in manifest.splits[split].shards} == set(
        parquet_bytes(on_disk).values()
    )
    add_pair(tmp_path / "data", "c", make_archives, tmp_path)
    larger, log = prepared(tmp_path / "work", fetched(tmp_path / "data", tmp_path / "work"), config, "r2")
    assert "3 archive pairs, 1 of them new" not in log  # the test pair is one, too
    assert "4 archive pairs, 1 of them new" in log
    assert len({Path(name).parts[2] for name in store.uploads()}) == 1
    verify(larger, read_manifest(larger), *SPLITS)


def test_another_version_of_a_dataset_is_never_overwritten(remote: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"made by another version of pyarrow")
    with pytest.raises(InputError, match=r"part-00000\.parquet: found the shard of a dataset with the same ID .*; fix"):
        open_folder(URL, remote.name, MANIFEST).put(tmp_path / "other", "train/part-00000.parquet")
    StoreFolder(f"{URL}/new", "id", {}).put(tmp_path / "other", "train/part-00000.parquet")


def test_what_is_there_whole_is_not_uploaded_again(on_disk: Made, store: Server) -> None:
    folder, name = open_folder(URL, "id", MANIFEST), "train/part-00000.parquet"
    for uploads in (1, 0):
        folder.put(on_disk.directory / name, name)
        assert store.uploads() == [f"sets/id/{name}"] * uploads
    content = (on_disk.directory / name).read_bytes()
    store.client.put_object(Bucket=BUCKET, Key=f"sets/id/{name}", Body=content[:-9])  # as a kill leaves it in Hadoop
    folder.put(on_disk.directory / name, name)
    assert store.uploads() == [f"sets/id/{name}"]
    assert store.objects("sets/id/") == {name: content}


def test_cut_uploads_and_downloads_resume_where_they_were(
    on_disk: Made, remote: Path, store: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "BLOCK", 3000)
    shard = on_disk.manifest.splits["train"].shards[0]
    assert shard.bytes > 4 * 3000
    with patch.object(store.proxy, "cuts", 4):
        path = local_path(remote, shard)
        assert store.proxy.cuts == 0
    assert path.read_bytes() == (on_disk.directory / shard.path).read_bytes()
    reads = [int(range_.removeprefix("bytes=").partition("-")[0]) for method, _, range_ in store.proxy.seen if range_]
    assert reads == sorted(reads)  # never from the start again
    assert len(reads) == 4 + -(-shard.bytes // 3000)
    store.proxy.cuts = 2
    StoreFolder(URL, "other", {}).put(path, shard.path)
    assert store.objects("sets/other/")[shard.path] == path.read_bytes()


def test_a_store_that_is_gone_is_one_line_with_exit_code_75(on_disk: Made, remote: Path, store: Server) -> None:
    store.proxy.is_down = True
    shards = on_disk.manifest.splits["train"].shards
    with pytest.raises(StoreLostError, match=rf"^{URL}/.*3 attempts\); fix: run the same command again") as lost:
        local_path(remote, shards[0])
    assert lost.value.exit_code == 75
    record = read_record(remote)
    assert record is not None
    with pytest.raises(StoreLostError, match=r"cannot be listed"):
        require_shards(record, remote, shards)


def test_a_damaged_object_is_refused_with_its_name(on_disk: Made, remote: Path, store: Server) -> None:
    shards = on_disk.manifest.splits["train"].shards
    contents = [(on_disk.directory / shard.path).read_bytes() for shard in shards]
    keys = [f"sets/{remote.name}/{shard.path}" for shard in shards]
    store.client.put_object(Bucket=BUCKET, Key=keys[0], Body=contents[0][:-1] + b"?")
    store.client.put_object(Bucket=BUCKET, Key=keys[1], Body=contents[1][:-1])
    store.client.delete_object(Bucket=BUCKET, Key=keys[2])
    for number, words in enumerate(("bytes other than those of the manifest", "bytes, expected", "no such object")):
        with pytest.raises(InputError) as refused:
            local_path(remote, shards[number])
        assert str(refused.value).startswith(f"s3://{BUCKET}/{keys[number]}: found ")
        assert words in str(refused.value)
        assert str(refused.value).endswith(f"fix: remove {remote} and prepare it again")
    record = read_record(remote)
    assert record is not None
    for number in (1, 2):
        with pytest.raises(InputError, match=rf"{keys[number]}: found .*, expected {shards[number].bytes} bytes"):
            require_shards(record, remote, shards[number:])
    assert not [path for path in private_folder().iterdir() if path.stat().st_size]
    folder = open_folder(URL, remote.name, MANIFEST)  # as `prepare` does
    for number in range(3):
        folder.put(on_disk.directory / shards[number].path, shards[number].path)
    verify(remote, on_disk.manifest, "train")


def test_a_copy_that_was_damaged_since_is_made_again(on_disk: Made, remote: Path) -> None:
    shard = on_disk.manifest.splits["train"].shards[0]
    path = local_path(remote, shard)
    path.write_bytes(bytes(shard.bytes))
    verify(remote, on_disk.manifest, "train")
    assert sha256_file(path) == shard.sha256


def test_copies_without_room_take_that_of_the_oldest_and_none_that_is_in_use(on_disk: Made, remote: Path) -> None:
    shards = on_disk.manifest.splits["train"].shards
    paths = [Path(path) for path in ShardCopies(remote, shards[:3]).readable()]
    os.utime(paths[1], (0, time.time() - 3600))
    real = __import__("shutil").disk_usage

    def full(folder: Path) -> Any:
        here = sum(path.stat().st_size for path in folder.glob("*.parquet"))
        return real(folder)._replace(total=100, free=sum(shard.bytes for shard in shards[:3]) - here + 5000)

    with patch("shutil.disk_usage", full):
        added = local_path(remote, shards[3])
        assert [path.exists() for path in (*paths, added)] == [True, False, True, True]
        with pytest.raises(OSError, match="No space left on device"):
            local_path(remote, shards[4])
    os.utime(paths[0], (0, time.time() - 3 * 24 * 3600))
    private_folder.cache_clear()
    private_folder()
    assert [path.exists() for path in (paths[0], paths[2])] == [False, True]


def test_a_missing_bucket_is_refused_before_any_work_and_no_shard_is_called_damaged(
    on_disk: Made, remote: Path
) -> None:
    record = read_record(remote)
    assert record is not None
    nowhere = record.model_copy(update={"url": "s3://nowhere/sets"})
    refusal = rf"^{OPTION} s3://nowhere/sets: found no such bucket or folder; fix: correct the URL$"
    with pytest.raises(InputError, match=refusal):
        require_shards(nowhere, remote, on_disk.manifest.splits["train"].shards)
    with pytest.raises(InputError, match=refusal):
        open_folder(nowhere.url, remote.name, MANIFEST)


def test_a_folder_of_copies_that_others_may_use_is_refused(on_disk: Made, remote: Path) -> None:
    private_folder().parent.chmod(0o755)
    private_folder.cache_clear()
    with pytest.raises(InputError, match=r"idxtrain-\d+: found a folder that others may use, .*; fix: remove it"):
        local_path(remote, on_disk.manifest.splits["train"].shards[0])


def test_all_shards_of_a_bucket_share_a_client(store: Server) -> None:
    client = file_system(f"{URL}/0/train/part-00000.parquet", OPTION)
    assert file_system(f"{URL}/0/train/part-00001.parquet", OPTION) is client
    assert file_system(f"s3a://{BUCKET}/archives", "--data") is client


def test_a_missing_client_is_reported_with_the_folder_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fsspec.filesystem", lambda *_, **__: (_ for _ in ()).throw(ImportError(name="s3fs")))
    for url in ("s3://nobody/a", "s3://nobody/b"):
        with pytest.raises(InputError, match=rf"^--data {url}: found no package s3fs, .*; fix: `\.uv/bin/uv sync"):
            file_system(url, "--data")


def test_a_segment_in_a_store_without_access_is_kept_and_one_without_its_shards_is_not_whole(
    on_disk: Made, remote: Path, store: Server
) -> None:
    shards = on_disk.manifest.splits["train"].shards
    (remote / "sketches").mkdir()
    (remote / "sketches/projections").touch()
    content = {
        "shards": [shard.model_dump() for shard in shards],
        "label_counts": {"train": [40, 40], "validation": [], "test": []},
        "moments": asdict(Moments(count=1, mean=0.0, squares=0.0, min=0.0, max=0.0)),
        "files": {"sketches/projections": sha256_file(remote / "sketches/projections")},
        "versions": {},
    }
    write_json(remote / "segment.json", sealed(content))
    assert read_segment(remote, URL) is not None
    pair: Any = SimpleNamespace(tag="a", segment_id=lambda *_: remote.name)
    inputs: Any = SimpleNamespace(config=in_store(PrepareConfig()))
    before = sorted(remote.rglob("*"))
    with (
        patch.object(dataset_store, "_sizes", side_effect=PermissionError("the token has expired")),
        pytest.raises(InputError, match=rf"^{OPTION} {URL}: no access \(the token has expired\); fix: correct"),
    ):
        compose._segments(inputs, inputs, NO_SPARK, [pair], remote.parent)
    store.proxy.is_down = True
    with pytest.raises(StoreLostError, match="cannot be listed"):
        read_segment(remote, URL)
    assert sorted(remote.rglob("*")) == before
    store.proxy.is_down = False
    store.client.delete_object(Bucket=BUCKET, Key=f"sets/{remote.name}/{shards[1].path}")
    assert read_segment(remote, URL) is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:secret@bucket/sets", "prepare.store: found a user name or password in the URL"),
        ("/scratch/sets", "prepare.store: found '/scratch/sets'"),
    ],
)
def test_a_store_is_a_url_without_credentials(idxtrain: Idxtrain, url: str, words: str) -> None:
    done = idxtrain("prepare", "--set", f"prepare.store={url}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert words in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.long
def test_from_archives_to_the_evaluation_a_store_changes_no_number_and_no_file_has_the_credentials(
    make_archives: MakeArchives, store: Server, tmp_path: Path, idxtrain: Idxtrain
) -> None:
    data = make_archives(tmp_path / "data", train=300, test=40)["train_images"].path.parent
    options: tuple[object, ...] = ("--data", data, "--recipe", "softmax", "--np", 2, "--run-id", "r")
    settings = ("train.deterministic=true", "train.max_steps=6", "prepare.rows_per_shard=64")
    options += tuple(each for setting in settings for each in ("--set", setting))
    where = ("--set", f"prepare.store={URL}")
    runs = {}
    for name, more in (("disk", ()), ("store", where)):
        done = idxtrain("run", *options, *more, "--work", tmp_path / name)
        assert done.returncode == 0, done.stderr
        runs[name] = (RunDir(tmp_path / name / "runs/r"), done)
    (disk, on_disk), (stored, from_store) = runs.values()
    assert weights(stored.model_file) == weights(disk.model_file)
    assert dataset_of(stored).name == dataset_of(disk).name
    assert from_store.stdout == on_disk.stdout
    assert not [*(tmp_path / "store").rglob("part-*.parquet")]
    nowhere = idxtrain("run", *options, "--set", "prepare.store=s3://nowhere/sets", "--work", tmp_path / "other")
    assert (nowhere.returncode, "prepare.store s3://nowhere/sets" in nowhere.stderr.splitlines()[-1]) == (2, True)
    record = read_record(dataset_of(stored))
    assert record is not None
    (dataset_of(stored) / FILE).touch()
    (key, *_) = [name for name in store.objects() if "/test/" in name]
    store.client.delete_object(Bucket=BUCKET, Key=key)
    for path in (tmp_path / "tmp").rglob("*.parquet"):
        path.unlink()
    stored.record_file("evaluate").unlink()
    refused = idxtrain("evaluate", "--run-id", "r", "--work", tmp_path / "store")
    assert refused.returncode == 2
    assert f"s3://{BUCKET}/{key}: found no such object" in refused.stderr
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    said = "".join(each.stdout + each.stderr for each in (from_store, nowhere, refused))
    for value in KEYS.values():
        assert value not in said
        assert value.encode() not in written

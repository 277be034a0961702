"""A dataset whose shards are in an object store, and the same one on disk, for the tests of both."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import object_store
from jobs.dataset import MANIFEST
from jobs.dataset_store import open_folder
from jobs.files import sealed, sha256_file, write_json
from jobs.prepare.config import PrepareConfig
from jobs.prepare.decode import to_batch
from jobs.run_dir import Work
from jobs.shard_copies import private_folder
from tests.support.prepared import Made, bare_manifest, parquet_bytes
from tests.support.s3_server import BUCKET, Server, s3_server

URL = f"s3://{BUCKET}/sets"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def store(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Yield the server, empty, for this process and those that it starts, with a folder of copies of their own."""
    for name in server.objects():
        server.client.delete_object(Bucket=BUCKET, Key=name)
    for name, value in server.settings.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(object_store, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # botocore's own; s3fs and we try again, too
    private_folder.cache_clear()
    server.proxy.seen.clear()
    yield server
    server.proxy.cuts, server.proxy.is_down = 0, False
    private_folder.cache_clear()
    object_store._file_system.cache_clear()


@pytest.fixture
def on_disk(tmp_path: Path) -> Made:
    """Return a dataset of five shards of random images, which take 15 kB each, made without Spark."""
    directory, random = tmp_path / "disk" / ("0" * 16), np.random.default_rng(0)
    (directory / "train").mkdir(parents=True)
    shards = []
    for number in range(5):
        path = directory / f"train/part-{number:05}.parquet"
        rows = np.arange(16 * number, 16 * (number + 1))
        pq.write_table(pa.Table.from_batches([to_batch(random.random((16, 240), np.float32), rows % 2, rows)]), path)
        size, digest = path.stat().st_size, sha256_file(path)
        shards.append({"path": f"train/{path.name}", "rows": 16, "first_index": int(rows[0])})
        shards[-1] |= {"bytes": size, "sha256": digest}
    manifest = bare_manifest((12, 20, 1), 2, {"rows": 80, "label_counts": (40, 40), "shards": shards})
    write_json(directory / MANIFEST, sealed(manifest.model_dump(mode="json")))
    return Made(config=PrepareConfig(), archives={}, work=Work(tmp_path), directory=directory, log="")


@pytest.fixture
def remote(on_disk: Made, store: Server, tmp_path: Path) -> Path:
    """Return the folder of the same dataset with its shards in the store."""
    directory = tmp_path / "datasets" / on_disk.directory.name
    directory.mkdir(parents=True)
    (directory / MANIFEST).write_bytes((on_disk.directory / MANIFEST).read_bytes())
    for name, content in parquet_bytes(on_disk.directory).items():
        store.client.put_object(Bucket=BUCKET, Key=f"sets/{directory.name}/{name}", Body=content)
    open_folder(URL, directory.name, MANIFEST).finish(directory, MANIFEST, on_disk.manifest.splits["train"].shards)
    store.proxy.seen.clear()
    return directory

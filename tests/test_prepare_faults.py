"""Faults and kills of the prepare stage: there is a whole dataset or none, and one line gives the reason."""

import gzip
import os
import re
import shlex
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from pyspark import SparkContext

from jobs.archive import Role
from jobs.dataset import MANIFEST, SPLITS, read_manifest, verify
from jobs.errors import IdxtrainError, InputError
from jobs.prepare import idx
from jobs.prepare.archives import inflate
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.spark import Spark, require_master, spark_properties
from jobs.prepare.stage import prepare
from jobs.run_dir import Work
from jobs.stage import dataset_of, read_record
from tests.conftest import MakeArchives, describe, put_archive
from tests.support.prepared import NO_SPARK, Archives, Made, new_run, parquet_bytes, start
from tests.test_segments import add_pair, fetched

# --- bad archives


def refused(config: PrepareConfig, spark: SparkConfig, archives: Archives, work: Work) -> str:
    """Return the text of the InputError that prepare must raise: one line, with nothing left behind."""
    with pytest.raises(InputError) as caught:
        prepare(config, spark, archives, work)
    assert "\n" not in str(caught.value)
    assert not list(work.datasets.iterdir())
    return str(caught.value)


def spoil(archives: Archives, role: Role, change: Callable[[bytes], bytes]) -> None:
    """Change the bytes of an archive before anything reads it."""
    path = archives[role].path
    path.write_bytes(change(path.read_bytes()))
    archives[role] = describe(role, path)


def patch(offset: int, data: str) -> Callable[[bytes], bytes]:
    new = bytes.fromhex(data)
    return lambda old: old[:offset] + new + old[offset + len(new) :]


@pytest.mark.parametrize(
    ("role", "change", "words"),
    [
        ("train_images", patch(0, "1234"), "byte 0: found the bytes 12 34, expected 00 00"),
        ("train_labels", patch(2, "07"), "byte 2: found the type 0x07, expected one of 0x08 (uint8)"),
        ("test_images", patch(3, "09"), "byte 3: found 9 dimensions, expected 1 to 4"),
        ("test_images", lambda old: old[:-1], "found the end of the data, expected 1056 bytes in all"),
        ("test_labels", lambda old: old + b"\0", "found 1 trailing bytes, expected the end after the 18 bytes"),
        ("train_images", lambda old: b"", "byte 0: found the end of the file"),
        ("train_images", patch(4, "ffffffff ffffffff ffffffff"), "found rows of"),
        ("train_images", patch(4, "7fffffff"), "found the end of the data, expected"),
        ("train_labels", lambda old: patch(7, "1d")(old)[:-1], "found 29 labels, expected 30 for the pair"),
        ("test_images", patch(8, "00000008 0000000d"), "expected the shape and type of the training archive's"),
    ],
)
def test_a_faulty_plain_archive_is_refused_before_spark_starts(
    tmp_path: Path, make_archives: MakeArchives, role: Role, change: Callable[[bytes], bytes], words: str
) -> None:
    archives = make_archives(tmp_path / "archives", shape=(13, 8), train=30, test=10, gz=False)
    spoil(archives, role, change)
    text = refused(PrepareConfig(), NO_SPARK, archives, Work(tmp_path))
    assert text.startswith(f"{archives[role].path}: ")
    assert words in text


def test_a_gzip_header_that_promises_terabytes_is_refused_before_spark_starts(
    tmp_path: Path, make_archives: MakeArchives
) -> None:
    archives = make_archives(tmp_path / "archives", train=30, test=10)
    spoil(archives, "train_images", lambda old: gzip.compress(patch(4, "00ffffff")(gzip.decompress(old))))
    text = refused(PrepareConfig(), NO_SPARK, archives, Work(tmp_path))
    assert "found a header that promises 4026531616 bytes" in text


def test_images_of_another_type_in_the_test_archive_are_refused(tmp_path: Path, make_archives: MakeArchives) -> None:
    archives = make_archives(tmp_path / "archives", train=30, test=10)
    archives |= {"test_images": make_archives(tmp_path / "other", train=30, test=10, dtype="int8")["test_images"]}
    text = refused(PrepareConfig(), NO_SPARK, archives, Work(tmp_path))
    assert "found images 10 x 12 x 20 of int8, expected the shape and type of the training archive's, 30 x" in text


def test_images_and_labels_swapped_are_refused(tmp_path: Path, make_archives: MakeArchives) -> None:
    archives = make_archives(tmp_path / "archives", train=30, test=10)
    archives["train_images"], archives["train_labels"] = archives["train_labels"], archives["train_images"]
    assert "expected images of 3 or 4 dimensions" in refused(PrepareConfig(), NO_SPARK, archives, Work(tmp_path))


def test_options_that_do_not_fit_are_refused_before_spark_starts(tmp_path: Path, make_archives: MakeArchives) -> None:
    archives = make_archives(tmp_path / "archives", train=30, test=10)
    text = refused(PrepareConfig(validation_rows=30), NO_SPARK, archives, Work(tmp_path))
    assert text.startswith("prepare.validation_rows: found 30, expected fewer than the 30 rows of the training archive")


def bomb(old: bytes) -> bytes:
    """Return an archive with 100 MB more than its header promises."""
    return gzip.compress(gzip.decompress(old) + bytes(100_000_000), 1)


def flip_in_the_middle(old: bytes) -> bytes:
    return patch(len(old) // 2, f"{old[len(old) // 2] ^ 0x55:02x}")(old)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (flip_in_the_middle, "found a damaged gzip stream"),
        (lambda old: old[:-20], "found a damaged gzip stream (ends too early)"),
        (lambda old: old + b"more", "found a damaged gzip stream"),
        (bomb, "found more data, expected the end after the"),
        (lambda old: gzip.compress(gzip.decompress(old)[:-1]), "found the end of the data, expected"),
    ],
    ids=["flipped", "cut", "garbage at the end", "bomb", "short"],
)
def test_a_faulty_gzip_archive_is_refused_when_it_is_inflated(
    tmp_path: Path, make_archives: MakeArchives, change: Callable[[bytes], bytes], words: str
) -> None:
    archives = make_archives(tmp_path / "archives")
    spoil(archives, "train_images", change)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        inflate(archives, tmp_path / "scratch")
    assert str(caught.value).startswith(f"{archives['train_images'].path}: ")
    assert {path.name for path in (tmp_path / "scratch").iterdir()} <= {"train_labels", "test_images", "test_labels"}


def test_an_archive_that_changed_since_it_was_fetched_is_refused(tmp_path: Path, make_archives: MakeArchives) -> None:
    archives = make_archives(tmp_path / "archives", gz=False)
    images = archives["test_images"].path
    images.write_bytes(flip_in_the_middle(images.read_bytes()))
    expected = rf"^{images}: found SHA-256 .* as fetched; fix: run again, as it changed since$"
    with pytest.raises(InputError, match=expected):
        inflate(archives, tmp_path)


def test_plain_archives_are_read_in_place(tmp_path: Path, make_archives: MakeArchives) -> None:
    archives = make_archives(tmp_path / "archives", train=30, test=10, gz=False)
    assert inflate(archives, tmp_path / "nowhere") == {role: archive.path for role, archive in archives.items()}


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("train_images", "found a damaged gzip stream"),  # found while Spark starts
        ("test_labels", "found 1 of 100 rows with labels that training lacks: 3 (1)"),  # found before Spark is needed
    ],
)
def test_a_fault_found_while_spark_runs_is_one_line_and_leaves_nothing(
    tmp_path: Path, make_archives: MakeArchives, role: Role, words: str
) -> None:
    archives = make_archives(tmp_path / "archives")
    if role == "train_images":
        spoil(archives, role, flip_in_the_middle)
    else:
        labels = idx.read(archives[role].path)
        labels[4] = 3
        archives[role] = put_archive(tmp_path / "archives", role, labels, gz=True)
    with start(new_run(tmp_path, archives, PrepareConfig())) as process:
        _, stderr = process.communicate()
    assert process.returncode == 2
    (line,) = [line for line in stderr.splitlines() if not line.startswith("prepare: ")]  # without progress
    assert line.startswith(f"idxtrain: {archives[role].path}: ")
    assert words in line
    assert not list(Work(tmp_path).datasets.iterdir())


@pytest.mark.long
def test_failures_in_spark_are_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(IdxtrainError) as unstarted, Spark(SparkConfig(master="local[x]")) as spark:
        spark.collect("writing", str, [1])
    assert str(unstarted.value).startswith(
        "Spark did not start on master 'local[x]': org.apache.spark.SparkException: "
    )
    assert "Could not parse Master URL" in str(unstarted.value)
    with Spark(SparkConfig()) as spark:
        with pytest.raises(IdxtrainError) as full:
            spark.collect("writing", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")), [1, 2])
        with pytest.raises(InputError) as bad:
            spark.collect("reading", lambda _: (_ for _ in ()).throw(InputError("a.gz: row 4: bad; fix: edit")), [1, 2])
        with pytest.raises(IdxtrainError) as crashed:
            spark.collect("writing", lambda _: os._exit(7), [1, 2])
        # Spark itself has survived them all.
        assert spark.collect("writing", lambda task: task + 1, [1, 2, 3]) == [2, 3, 4]
    assert str(full.value) == "Spark failed while writing: OSError: [Errno 28] No space left on device"
    assert str(crashed.value).startswith("Spark failed while writing: ")
    assert "a Python worker crashed or was killed; was there enough memory?" in str(crashed.value)
    assert str(bad.value) == "a.gz: row 4: bad; fix: edit"
    for each in (unstarted, full, crashed):
        assert "\n" not in str(each.value)
        assert each.value.exit_code == 1


def test_a_temporary_folder_with_a_comma_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", f"{tmp_path}/a,b")
    with pytest.raises(InputError, match=f"^TMPDIR: found {tmp_path}/a,b, expected no comma in the path; fix: "):
        Spark(SparkConfig())


def test_a_temporary_folder_with_a_space_or_a_quote_is_one_java_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", '/a b/c"d\\e')
    properties = spark_properties(SparkConfig())
    options = shlex.split(properties["spark.driver.extraJavaOptions"])
    assert '-Djava.io.tmpdir=/a b/c"d\\e' in options
    assert len(options) == 4
    # Spark splits it at commas. The default is the folder above, which has none.
    assert "spark.local.dir" not in properties


# --- a Spark master that does not answer


@pytest.fixture
def mute() -> Iterator[str]:
    """Yield host and port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_missing_master_is_reported_at_once_in_one_line(tmp_path: Path, make_archives: MakeArchives) -> None:
    run = new_run(tmp_path, make_archives(tmp_path / "archives"), PrepareConfig(), master="spark://127.0.0.1:1")
    begin = time.monotonic()
    with start(run) as process:
        _, stderr = process.communicate()
    assert time.monotonic() - begin < 10
    assert process.returncode == 2
    assert stderr == (
        "idxtrain: --spark-master: the Spark master at spark://127.0.0.1:1 does not answer "
        "(127.0.0.1:1: Connection refused); fix: start it, or give the URL in its log\n"
    )
    assert not list(Work(tmp_path).datasets.iterdir())


def test_one_of_several_masters_is_enough(mute: str) -> None:
    require_master(f"spark://127.0.0.1:1,{mute}")
    require_master("local[2]")
    with pytest.raises(InputError, match=r"\(127\.0\.0\.1:1: Connection refused, localhost:2: Connection refused\)"):
        require_master("spark://127.0.0.1:1,localhost:2")


@pytest.mark.parametrize(
    "host", ["", "localhost", "localhost:", "localhost:x", "localhost:70000", ":7077", "[::1:7077"]
)
def test_a_master_without_host_or_port_is_refused(mute: str, host: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"found {host!r}, expected HOST:PORT")):
        require_master(f"spark://{mute},{host}")


def test_an_impossible_host_name_is_reported_as_no_answer() -> None:
    with pytest.raises(InputError, match=r"does not answer \(a\.\.b:7077: "):
        require_master("spark://a..b:7077")


def test_a_context_that_spark_stopped_is_reported_as_no_answer(tmp_path: Path, mute: str) -> None:
    # Spark itself is local here, and the test stops it: Spark takes a minute to give up on a master.
    config = SparkConfig(master=f"spark://{mute}", properties={"spark.master": "local[1]"})
    with Spark(config) as spark:
        assert spark.collect("writing", str, [1]) == ["1"]
        SparkContext.getOrCreate()._jsc.sc().stop()
        with pytest.raises(InputError) as caught:
            spark.collect("writing", str, [1])
    silent = f"--spark-master: the Spark master at spark://{mute} does not answer (Spark gave"
    assert str(caught.value).startswith(silent)


@pytest.mark.slow
def test_a_silent_master_is_reported_once_spark_gives_up(tmp_path: Path, mute: str) -> None:
    silent = rf"^--spark-master: the Spark master at spark://{mute} does not answer \(Spark"
    with pytest.raises(InputError, match=silent), Spark(SparkConfig(master=f"spark://{mute}")) as spark:
        spark.collect("writing", str, [1])


# --- processes


@pytest.mark.long
def test_two_concurrent_processes_make_one_dataset(small: Made, tmp_path: Path) -> None:
    runs = [new_run(tmp_path, small.archives, small.config, f"r{n}") for n in range(2)]
    with ExitStack() as stack:
        processes = [stack.enter_context(start(run)) for run in runs]
        logs = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("550 train / 50 validation / 100 test images" in text for text in logs) == 1
    work = Work(tmp_path)
    assert [path.name for path in work.datasets.iterdir()] == [small.directory.name]
    assert parquet_bytes(work.datasets / small.directory.name) == parquet_bytes(small.directory)
    assert {read_record(run, "prepare").outputs["dataset_id"] for run in runs} == {small.directory.name}


def poll(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """Return the first true value of a condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return value


@pytest.mark.long
@pytest.mark.parametrize("kind", ["datasets", "segments"])
def test_what_an_executor_was_writing_when_it_was_killed_does_not_stay(
    make_archives: MakeArchives, tmp_path: Path, kind: str
) -> None:
    work = Work(tmp_path / "work")
    archives = make_archives(tmp_path / "data", gz=False)
    if kind == "segments":
        add_pair(tmp_path / "data", "second", make_archives, tmp_path)
        archives = fetched(tmp_path / "data", work.path)
    run = new_run(work.path, archives, PrepareConfig(rows_per_shard=20))
    with start(run) as process:
        [train, *_] = poll(lambda: list((work.path / kind).glob(".tmp-*/train")))
        # What an executor leaves that is killed: the files that it had open, under their temporary names.
        (train / ".00000000.tmp-part-00000.parquet").write_bytes(b"PAR1")
        [rows] = train.parent.rglob("train.rows")
        (rows.parent / ".00000000.tmp-train-0.view.npz").write_bytes(b"PK")
        _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert dataset_of(run).is_dir()
    assert not [path for path in work.path.rglob(".0*") if path.is_file()]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.long
def test_after_kill_9_nothing_looks_finished_and_the_next_prepare_succeeds(small: Made, tmp_path: Path) -> None:
    config = PrepareConfig(rows_per_shard=20)  # many shards, so that the kill falls between two of them
    run, work = new_run(tmp_path, small.archives, config), Work(tmp_path)
    with start(run) as process:
        poll(lambda: list(work.datasets.glob(".tmp-*/train/part-*.parquet")))
        helpers = psutil.Process(process.pid).children(recursive=True)
        assert "java" in [helper.name() for helper in helpers]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [path.name[:5] for path in work.datasets.iterdir()] == [".tmp-"]
    assert not list(work.datasets.glob(f"*/{MANIFEST}"))
    assert not run.record_file("prepare").exists()
    poll(lambda: not any(map(is_alive, helpers)), seconds=30)
    directory = prepare(config, SparkConfig(), small.archives, work)
    assert list(work.datasets.iterdir()) == [directory]
    verify(directory, read_manifest(directory), *SPLITS)


def test_prepare_works_without_a_system_java(small: Made, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "env", "ps"):
        (tools / name).symlink_to(str(shutil.which(name)))
    assert shutil.which("java", path=str(tools)) is None
    run = new_run(tmp_path, small.archives, small.config)
    with start(run, env={"PATH": str(tools), "HOME": str(tmp_path)}) as process:
        _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    directory = dataset_of(run)
    assert directory.name == small.directory.name
    assert parquet_bytes(directory) == parquet_bytes(small.directory)
    assert stderr.splitlines() == [line for line in stderr.splitlines() if line.startswith("prepare: ")]

"""The README's promises of a whole run on one machine: where it listens, and what validation counts."""

import ipaddress
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from tests.conftest import MakeArchives

pytestmark = pytest.mark.long

VALIDATION_ROWS = 53  # not a multiple of two


@dataclass(frozen=True)
class Watched:
    """A finished training, and the TCP and UDP sockets on which its processes listened: (process, address)."""

    run: Path
    sockets: frozenset[tuple[str, str]]


def listening(root: psutil.Process) -> set[tuple[str, str]]:
    """Return where a process and its descendants listen now."""
    sockets: set[tuple[str, str]] = set()
    with suppress(psutil.NoSuchProcess):
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                for socket in process.net_connections("inet"):
                    if socket.laddr and not socket.raddr and socket.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                        sockets.add((process.name(), socket.laddr.ip))
    return sockets


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_archives: MakeArchives) -> Mapping[int, Watched]:
    """Return trainings on one and on two ranks; the first also prepares the dataset."""
    folder = tmp_path_factory.mktemp("promises")
    make_archives(folder / "data", train=400, test=40)
    trainings = {}
    for ranks in (1, 2):
        command = [str(Path(sys.executable).with_name("idxtrain")), "train", "--data", "data", "--recipe", "softmax"]
        command += ["--np", str(ranks), "--run-id", f"ranks-{ranks}"]
        command += ["--set", f"prepare.validation_rows={VALIDATION_ROWS}", "--set", "train.max_steps=20"]
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        sockets: set[tuple[str, str]] = set()
        while process.poll() is None:
            sockets |= listening(psutil.Process(process.pid))
            time.sleep(0.1)
        assert process.returncode == 0, process.stderr.read() if process.stderr else ""
        trainings[ranks] = Watched(folder / f"work/runs/ranks-{ranks}", frozenset(sockets))
    return trainings


def test_every_listening_socket_of_a_local_run_is_on_loopback(trained: Mapping[int, Watched]) -> None:
    # The test sees what it should: Spark's Java, and the ranks that connect to each other.
    assert "java" in {name for name, _ in trained[1].sockets}
    assert trained[2].sockets
    for watched in trained.values():
        assert [where for where in watched.sockets if not is_loopback(where[1])] == []


def is_loopback(text: str) -> bool:
    """Return whether an address is a loopback address; Java may write IPv4 as IPv6."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


@pytest.mark.parametrize("ranks", [1, 2])
def test_validation_counts_each_image_once_at_any_number_of_ranks(trained: Mapping[int, Watched], ranks: int) -> None:
    run = trained[ranks].run
    dataset = Path(json.loads((run / "stages/prepare.json").read_text())["outputs"]["dataset"])
    rows = pq.read_table(dataset / "validation").to_pydict()
    model = keras.models.load_model(run / "model.keras")
    images = np.array(rows["image"], np.float32).reshape(-1, *model.input_shape[1:])
    errors = int((model.predict(images, verbose=0).argmax(axis=1) != np.array(rows["label"])).sum())
    validation = json.loads((run / "stages/train.json").read_text())["outputs"]["validation"]
    assert (validation["count"], validation["errors"]) == (VALIDATION_ROWS, errors)
    assert validation["accuracy"] == pytest.approx(1 - errors / VALIDATION_ROWS)

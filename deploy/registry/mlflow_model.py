"""The MLflow model of a version: a folder with the Keras file that training wrote."""

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from deploy.registry.versions import Entry
from jobs.model_file.load import load_keras
from jobs.run_dir import Work

MODEL = "model"  # the folder among a run's artifacts
KERAS_FILE = "data/model.keras"  # within an MLflow model of the tensorflow flavor


def import_tensorflow_for_cpu(work: Work) -> None:
    """Import TensorFlow without its log output, and without GPUs: this process trains nothing."""
    from jobs.tensorflow_import import import_tensorflow

    work.path.mkdir(parents=True, exist_ok=True)
    import_tensorflow(work.retrains / "tensorflow.log" if work.retrains.exists() else Path(os.devnull))
    import tensorflow as tf

    with suppress(RuntimeError):  # too late: this process has used TensorFlow before
        tf.config.set_visible_devices([], "GPU")
    logging.getLogger("mlflow").setLevel(logging.ERROR)


def write_model(entry: Entry, folder: Path) -> None:
    """Write an MLflow model of the flavors tensorflow (Keras) and pyfunc; its Keras file is a copy of `entry.model`.

    Its metadata has `labels` and `class_names`, in the order of the output.
    """
    import keras
    import mlflow.tensorflow
    import numpy as np
    import tensorflow as tf
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    single = np.dtype(np.float32)
    signature = ModelSignature(
        Schema([TensorSpec(single, (-1, *entry.shape))]), Schema([TensorSpec(single, (-1, len(entry.labels)))])
    )
    model = load_keras(entry.model, "train it again", entry.model_sha256)
    # Without this list MLflow would load the model in another process to find its requirements.
    requirements = [f"tensorflow=={tf.__version__}", f"keras=={keras.__version__}", f"numpy=={np.__version__}"]
    classes = {"labels": list(entry.labels), "class_names": list(entry.class_names)}
    mlflow.tensorflow.save_model(
        model, str(folder), signature=signature, pip_requirements=requirements, metadata=classes
    )
    shutil.copyfile(entry.model, folder / KERAS_FILE)

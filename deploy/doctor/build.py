"""Print as JSON what TensorFlow and Horovod can do: python -m deploy.doctor.build.

Only ever a process of its own: an extension that does not fit its TensorFlow may crash it.
"""

import json


def main() -> None:
    """Load both; print one line."""
    import horovod.tensorflow as hvd  # loads the extension, or raises ImportError
    import tensorflow as tf

    build = {
        "gloo": bool(hvd.gloo_built()),
        "mpi": bool(hvd.mpi_built()),
        "nccl": bool(hvd.nccl_built()),
        "gpus": len(tf.config.list_physical_devices("GPU")),
    }
    print(json.dumps(build), flush=True)


if __name__ == "__main__":
    main()

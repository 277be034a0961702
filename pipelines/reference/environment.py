"""The environment variables that idxtrain reads, sets or ignores.

Names that start with IDXTRAIN_ are its own: a test finds each in the code and demands an entry here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """One variable, or with a trailing `*`, all whose names start like that."""

    name: str
    description: str


# What a user may set.
PUBLIC = (
    Variable("IDXTRAIN_SITES", "Folder of your own site files. Default: `~/.config/idxtrain/sites`."),
    Variable(
        "IDXTRAIN_WEBHOOK",
        "URL to which `idxtrain retrain` posts the outcome as JSON: https, or http to this machine. Never logged.",
    ),
    Variable("IDXTRAIN_TOKEN", "Token that clients of `idxtrain serve` send, if there is no `--token-file`."),
    Variable(
        "MLFLOW_TRACKING_URI",
        "Model registry and tracking server of MLflow. Default: a SQLite file in `WORK/mlflow`.",
    ),
    Variable("MLFLOW_TRACKING_USERNAME", "User name for the MLflow server."),
    Variable("MLFLOW_TRACKING_PASSWORD", "Password for the MLflow server."),
    Variable("MLFLOW_TRACKING_TOKEN", "Bearer token for the MLflow server, instead of a user name and password."),
    Variable(
        "MLFLOW_*", "Other settings of MLflow's client. By default, telemetry is off and it retries only briefly."
    ),
    Variable("JAVA_HOME", "Java 8, 11 or 17 for Spark. If it names none: the Java runtime installed with idxtrain."),
    Variable(
        "SPARK_CONF_DIR",
        "Folder of Spark's configuration, for a master other than `local`: the place for Spark's secrets.",
    ),
    Variable(
        "CUDA_VISIBLE_DEVICES", "GPUs that may be used, comma-separated. Empty: none. Decides the default `--np`."
    ),
    Variable("HOROVOD_CYCLE_TIME", "Milliseconds between checks for gradients to exchange. Default on CPUs: 3."),
    Variable("HOROVOD_*", "Other settings of Horovod, such as HOROVOD_LOG_LEVEL. Those that name a rank are ignored."),
    Variable("HTTPS_PROXY", "Proxy for downloads, MLflow and the webhook. NO_PROXY lists hosts to reach without it."),
    Variable("NCCL_*", "Settings of NCCL, such as NCCL_DEBUG."),
    Variable("TF_CPP_MIN_LOG_LEVEL", "Level below which TensorFlow's C++ logs are dropped. Default: 3, fatal only."),
    Variable("TF_ENABLE_ONEDNN_OPTS", "Whether TensorFlow uses oneDNN's kernels. Default: 1."),
    Variable(
        "AWS_*",
        "Credentials, region and server (AWS_ENDPOINT_URL) of `s3://` URLs, for the client of S3 alone. Never logged.",
    ),
    Variable(
        "TMPDIR",
        "Folder for temporary files, and for copies of shards in an object store. In a Slurm job: a private folder in "
        "the site's `scratch`.",
    ),
    Variable("CXX", "C++ compiler that `idxtrain doctor` checks. Default: the first found on the PATH."),
    Variable("SLURM_CONF", "Slurm's configuration file, kept when a job submits another."),
    Variable(
        "APPTAINER_BIND",
        "Folders that Apptainer shows in the site's container. A job adds `scratch` and those of its files.",
    ),
    Variable("PATH", "Where Slurm's commands, `nvidia-smi` and `apptainer` are found."),
    Variable("LD_LIBRARY_PATH", "Where shared libraries are found. `idxtrain schedule` keeps its value."),
)

# What idxtrain, or Slurm, sets for the processes that it starts.
INTERNAL = (
    Variable("IDXTRAIN_PARENT_PID", "Parent process. The new process ends when its parent ends."),
    Variable("IDXTRAIN_HEARTBEATS", "Folder to which a rank writes its heartbeats. Not set: nothing watches it."),
    Variable("IDXTRAIN_CPUS_PER_RANK", "CPUs that the launcher reserved for each rank."),
    Variable("IDXTRAIN_GPUS_PER_NODE", "GPUs of each node, by the site: a rank without one ends with an error."),
    Variable("IDXTRAIN_SPARK_MASTER", "Spark master that the launcher of prepare provides."),
    Variable("IDXTRAIN_SCRATCH", "The site's `scratch`, exported by each batch script."),
    Variable("IDXTRAIN_STAGED_SHARDS", "Folder on a node's own disk where its ranks keep copies of shards."),
    Variable("IDXTRAIN_STEP_*", "What a Slurm task needs to start its rank: ranks, rendezvous, interface, key."),
    Variable("IDXTRAIN_DOCTOR_ADDRESS", "Address whose route shows `idxtrain doctor --site` the interface."),
    Variable("IDXTRAIN_DOCTOR_INTERFACE", "The site's `interface`, for `idxtrain doctor --site`."),
    Variable("SLURM_*", "Within a Slurm job: its ID, nodes, tasks and CPU binding."),
)

# What would change results or run other code, and is therefore not passed on.
IGNORED = (
    Variable("PYTHON*", "Only the environment in which idxtrain is installed decides what is imported."),
    Variable("KERAS_*", "The backend is always TensorFlow, and no `keras.json` is read."),
    Variable("SPARK_*", "With the master `local`: no other installation of Spark is used."),
    Variable("PYSPARK_*", "Spark's Python is always this one."),
    Variable("OMPI_COMM_WORLD_*", "A rank's number comes from the launcher that idxtrain starts."),
    Variable("PMI_RANK", "Likewise, with PMI_SIZE and PMI_FD."),
    Variable("PMIX_RANK", "Likewise, with PMIX_NAMESPACE and PMIX_SERVER_*."),
)

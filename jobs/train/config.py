"""The config section of the train stage."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt
from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator
from pydantic_core import PydanticCustomError

from jobs.config import Section


class TrainConfig(Section):
    """How the model is trained. All sizes are global: none of them changes with the number of ranks."""

    renamed: ClassVar[Mapping[str, str]] = {
        "average": "ema_decay",
        "wire": "compression",
        "warmup": "warmup_fraction",
        "final": "final_rate_fraction",
        "sharp": "sharp_fraction",
    }
    # A recipe's floor of a key. An option that gives the key alone drops it: `--set train.epochs=2` is two epochs.
    floors: ClassVar[Mapping[str, str]] = {"epochs": "min_steps", "batch_size": "min_steps_per_epoch"}

    model: str = Field(
        default="compact", pattern=r"^[a-z][a-z0-9_]*$", description="Architecture: the name of a module in `models/`."
    )
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="Dropout rate. `none`: the architecture's own rate."
    )
    initial_model: str | None = Field(
        default=None,
        description=(
            "Absolute path of a Keras file whose weights the training starts from; same architecture. "
            "`none`: random weights. `idxtrain retrain --warm-start` sets it."
        ),
    )
    standardize: bool = Field(
        default=False,
        description=(
            "Scale pixels to mean 0 and standard deviation 1, by the statistics of the training split. "
            "The scaling is part of the saved model."
        ),
    )

    flip: bool = Field(default=False, description="Augmentation: mirror half of the images left to right, at random.")
    shift: float = Field(
        default=0.0, ge=0, description="Augmentation: largest random shift, in pixels, in each direction."
    )
    rotate: float = Field(
        default=0.0, ge=0, le=180, description="Augmentation: largest random rotation, in degrees, either way."
    )
    zoom: float = Field(
        default=0.0, ge=0, lt=1, description="Augmentation: largest random zoom, as a fraction of the size, either way."
    )
    elastic: float = Field(
        default=0.0,
        ge=0,
        description="Augmentation: root mean square of a random elastic distortion, in pixels. 0: none.",
    )
    elastic_sigma: float = Field(
        default=4.0,
        gt=0,
        description=(
            "Augmentation: standard deviation, in pixels, of the Gaussian that smooths the elastic distortion. "
            "Larger values bend wider areas together."
        ),
    )
    sharp_fraction: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description=(
            "Augmentation: fraction of the images that are only shifted, by whole pixels. "
            "Interpolation blurs all others."
        ),
    )
    border: Literal["zero", "reflect"] = Field(
        default="zero",
        description=(
            "Augmentation: what moved images show of the area outside the image: 0, or its reflection at the edge."
        ),
    )
    cutout: int = Field(
        default=0,
        ge=0,
        description="Augmentation: side, in pixels, of a square at a random place that is covered. 0: none.",
    )

    epochs: int | None = Field(
        default=None,
        ge=1,
        description="Passes over the training split. `none`: no limit. Training ends at `epochs` or `max_steps`.",
    )
    min_steps: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Fewest optimizer steps: `epochs` is raised until a training has them, but never above `max_steps`. "
            "`none`: no minimum, as when `--set` gives `epochs` alone."
        ),
    )
    max_steps: int | None = Field(
        default=None,
        ge=1,
        description="Largest number of optimizer steps. `none`: no limit. Needed if `epochs` is not set.",
    )
    batch_size: int = Field(
        default=256, ge=1, lt=2**31, description="Images per step over all ranks together: the global batch."
    )
    min_steps_per_epoch: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Fewest steps of an epoch: `batch_size` is halved until an epoch has them, but never below 16. "
            "`none`: `batch_size` as it is, as when `--set` gives `batch_size` alone."
        ),
    )
    microbatches: int = Field(
        default=1,
        ge=1,
        lt=2**31,
        description="Pieces in which each rank computes its rows of a batch, one by one. More pieces need less memory.",
    )

    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Fraction of each label that is spread evenly over all classes."
    )
    class_weights: Literal["balanced"] | dict[int, Annotated[float, Gt(0)]] | None = Field(
        default=None,
        description=(
            "Weight of each image in the training loss, by its label in the archive; labels that are left out have 1. "
            "`balanced`: the same total for each class. The weights are scaled to a mean of 1 over the training split, "
            "so the logged loss is a weighted mean. Validation and test have no weights."
        ),
    )
    clip_norm: float | None = Field(
        default=None,
        gt=0,
        description="Largest L2 norm of the gradient over all weights; a larger one is scaled down. `none`: no limit.",
    )
    ema_decay: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description=(
            "Decay of the exponential moving average (EMA) of the weights. "
            "The averaged weights are validated and saved. `none`: no EMA."
        ),
    )

    optimizer: Literal["sgd", "momentum", "nesterov", "rmsprop", "adadelta", "adam", "adamw", "lamb", "muon"] = Field(
        default="adam", description="Optimizer; see `models/training/optimizers.py` for the formulas."
    )
    learning_rate: float = Field(
        default=1e-3, gt=0, description="Highest learning rate of the schedule, before `learning_rate_scaling`."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="Momentum of `momentum`, `nesterov` and `muon`.")
    rho: float = Field(
        default=0.9, ge=0, lt=1, description="Decay of the mean squared gradient of `rmsprop` and `adadelta`."
    )
    beta1: float = Field(
        default=0.9, ge=0, lt=1, description="Decay of the mean gradient of `adam`, `adamw`, `lamb` and `muon`."
    )
    beta2: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="Decay of the mean squared gradient of `adam`, `adamw`, `lamb` and `muon`.",
    )
    epsilon: float = Field(
        default=1e-8,
        gt=0,
        description="Term that keeps the divisor above 0: `rmsprop`, `adadelta`, `adam`, `adamw`, `lamb` and `muon`.",
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay of `adamw`, `lamb` and `muon`.")

    schedule: Literal["constant", "step", "cosine", "linear", "one-cycle"] = Field(
        default="constant", description="Shape of the learning rate over the training, after the warm-up."
    )
    warmup_fraction: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Fraction of all steps in which the learning rate rises to its highest value.",
    )
    final_rate_fraction: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Learning rate at the end, as a fraction of the highest. `constant` ignores it.",
    )

    learning_rate_scaling: Literal["off", "linear", "sqrt"] = Field(
        default="off",
        description=(
            "How `learning_rate` scales with the batch: by batch_size / base_batch_size (`linear`, Goyal 2017) or its "
            "square root (`sqrt`, Krizhevsky 2014). The number of ranks never changes the rate."
        ),
    )
    base_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="Batch size for which `learning_rate` was chosen. Only `learning_rate_scaling` uses it.",
    )

    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="float32",
        description=(
            "Data type of the activations; weights and updates are always float32. `auto`: bfloat16 if the devices of "
            "all ranks have units for it, else float32."
        ),
    )
    compression: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Data type in which ranks exchange gradients. `float32`: no compression.",
    )
    deterministic: bool = Field(
        default=False,
        description=(
            "Make the weights bit-identical in every run, on any number of ranks up to `slices`. Training is slower."
        ),
    )
    # 12: whole slices, and so equal shares, for 1, 2, 3, 4, 6 and 12 ranks.
    slices: int = Field(
        default=12,
        ge=1,
        lt=2**31,
        description=(
            "Slices into which a global batch is cut if `deterministic` is set; each rank computes whole slices. "
            "The weights depend on this number."
        ),
    )

    log_every: int = Field(
        default=50, ge=1, description="Steps between two measurements of loss, accuracy and throughput."
    )
    checkpoint_every_steps: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Steps between two checkpoints, rounded up to a measurement. `none`: no limit by steps. "
            "Validations, see `checkpoint_min_seconds`, and each stop on request also write one."
        ),
    )
    checkpoint_every_minutes: float = Field(
        default=10, gt=0, description="Minutes between two checkpoints, rounded up to a measurement."
    )
    checkpoint_min_seconds: float = Field(
        default=10,
        ge=0,
        description=(
            "Fewest seconds between a checkpoint and the next one that a validation writes: short epochs share one. "
            "The last validation always writes one."
        ),
    )
    keep_checkpoints: int = Field(
        default=3,
        ge=1,
        description="Newest checkpoints to keep. The best on validation, see `best_by`, is kept as well.",
    )

    early_stopping: int | None = Field(
        default=None,
        ge=1,
        description=(
            "End the training after this many validations in a row without a better one, see `best_by`. Each epoch has "
            "one; of many short epochs, every few. The learning rate is planned for the whole training. `none`: train "
            "to the end."
        ),
    )
    keep: Literal["last", "best"] = Field(
        default="last",
        description="Which model is saved: that of the last epoch, or that of the epoch with the best validation.",
    )
    best_by: Literal["accuracy", "loss"] = Field(
        default="accuracy",
        description="Validation figure that decides which epoch is best. The loss decides between equal accuracies.",
    )

    shuffle_shards: int = Field(
        default=4,
        ge=1,
        description=(
            "Size of a shuffle window, in shards; there is one for each of up to 8 lanes. Batches of over 1,151 rows "
            "have more lanes, of smaller windows. Larger windows mix better and need more memory."
        ),
    )
    reader_threads: int = Field(default=2, ge=1, description="Threads per rank that read Parquet files.")
    cache: Literal["auto", "always", "never"] = Field(
        default="auto",
        description=(
            "Whether to keep all rows in memory after the first epoch. `auto`: if a node needs less than `cache_share` "
            "of its free memory for them. Its ranks share one copy."
        ),
    )
    cache_share: float = Field(
        default=0.5, gt=0, le=1, description="Fraction of a node's free memory that `cache=auto` may use."
    )
    audit: bool = Field(
        default=False,
        description="Log which rows each rank trains on in each step, to `logs/rows.rank-N.jsonl` in the run.",
    )

    @field_validator("class_weights", mode="wrap")
    @classmethod
    def _are_weights(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError as error:  # pydantic would report each alternative by itself
            raise PydanticCustomError(
                "class_weights", "expected balanced, or a weight above 0 for each label, such as {3 = 2.5}, or none"
            ) from error

    @model_validator(mode="after")
    def _is_consistent(self) -> "TrainConfig":
        if self.epochs is None and self.max_steps is None:
            raise ValueError("found neither epochs nor max_steps, expected at least one; fix: set train.epochs")
        if self.learning_rate_scaling != "off" and self.base_batch_size is None:
            raise ValueError(
                f"found learning_rate_scaling={self.learning_rate_scaling} without base_batch_size, expected both; "
                "fix: set train.base_batch_size to the batch that learning_rate was chosen for"
            )
        if self.deterministic and self.microbatches > 1:
            raise ValueError(
                f"found microbatches={self.microbatches} with deterministic, expected 1; "
                "fix: leave it at 1, and raise train.slices to need less memory"
            )
        if self.deterministic and self.optimizer == "muon":
            raise ValueError(
                "found optimizer=muon with deterministic, expected another, as its matrix products may round "
                "differently on each number of ranks; fix: choose another optimizer or set train.deterministic=false"
            )
        if self.deterministic and self.precision == "float16":
            raise ValueError(
                "found precision=float16 with deterministic, expected another, as its sums need every bit; "
                "fix: set train.precision=float32 or train.deterministic=false"
            )
        if self.deterministic and self.compression != "float32":
            raise ValueError(
                f"found compression={self.compression} with deterministic, expected float32, as its sums need every "
                "bit; fix: set train.compression=float32 or train.deterministic=false"
            )
        return self

    @property
    def fixed_slices(self) -> int | None:
        """The number of slices of each global batch; None if it is not cut, as sums need not be exact."""
        return self.slices if self.deterministic else None

    def peak_rate(self, batch_size: int) -> float:
        """Return the highest learning rate, after scaling to a global batch of `batch_size` rows."""
        ratio = batch_size / (self.base_batch_size or batch_size)
        return self.learning_rate * {"off": 1.0, "linear": ratio, "sqrt": ratio**0.5}[self.learning_rate_scaling]

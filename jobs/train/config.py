"""The config section of the train stage."""

from typing import Literal

from pydantic import Field, model_validator

from jobs.config import Section


class TrainConfig(Section):
    """How the model is trained. All sizes are global: none of them changes with the number of ranks."""

    model: str = Field(default="compact", pattern=r"^[a-z][a-z0-9_]*$")  # a file in models/
    dropout: float | None = Field(default=None, ge=0, lt=1)  # None: the architecture's own rate
    # Absolute path of a Keras file to begin with, not with random weights: the same architecture, a warm start.
    initial_model: str | None = None
    standardize: bool = False  # to the training pixels' mean 0 and deviation 1, inside the model

    # Each training image moved at random, at the most so far: pixels, degrees, share of its size.
    shift: float = Field(default=0.0, ge=0)
    rotate: float = Field(default=0.0, ge=0, le=180)
    zoom: float = Field(default=0.0, ge=0, lt=1)
    # And bent: pixels in quadratic mean, and how many pixels far neighbours move alike.
    elastic: float = Field(default=0.0, ge=0)
    elastic_sigma: float = Field(default=4.0, gt=0)
    sharp_fraction: float = Field(
        default=0.0, ge=0, lt=1
    )  # share of the images that are shifted by whole pixels, no more

    # The training ends at whichever bound comes first.
    epochs: int | None = Field(default=None, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=256, ge=1, lt=2**31)  # the global batch
    # Each rank computes its rows of a batch in so many parts, one after another, for batches larger than its memory.
    microbatches: int = Field(default=1, ge=1, lt=2**31)

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)  # share of the label spread over all classes
    clip_norm: float | None = Field(default=None, gt=0)  # longest gradient, as L2 norm over all weights; None: any
    # Decay of a running average of the weights, which is then what is validated and kept; None: the weights themselves.
    ema_decay: float | None = Field(default=None, ge=0, lt=1)

    optimizer: Literal["sgd", "momentum", "nesterov", "rmsprop", "adadelta", "adam", "adamw", "lamb"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)  # momentum, nesterov
    rho: float = Field(default=0.9, ge=0, lt=1)  # rmsprop, adadelta
    beta1: float = Field(default=0.9, ge=0, lt=1)  # adam, adamw, lamb
    beta2: float = Field(default=0.999, ge=0, lt=1)  # adam, adamw, lamb
    epsilon: float = Field(default=1e-8, gt=0)  # rmsprop, adadelta, adam, adamw, lamb
    weight_decay: float = Field(default=0.0, ge=0)  # adamw, lamb

    schedule: Literal["constant", "step", "cosine", "linear", "one-cycle"] = "constant"
    warmup_fraction: float = Field(default=0.0, ge=0, lt=1)  # share of the steps in which the rate rises
    final_rate_fraction: float = Field(default=0.0, ge=0, le=1)  # last rate as a share of the highest

    # Explicit, since nothing is scaled by the number of ranks: multiply the learning rate by
    # batch_size / base_batch_size (linear: Goyal et al. 2017) or its square root (sqrt: Krizhevsky 2014).
    learning_rate_scaling: Literal["off", "linear", "sqrt"] = "off"
    base_batch_size: int | None = Field(default=None, ge=1)

    # Of activations; weights and updates are always float32. auto: bfloat16 where all ranks' devices are quick in it.
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    compression: Literal["float32", "bfloat16", "float16"] = "float32"  # of gradients on their way between ranks
    # Bit-equal from run to run and at any number of ranks up to `slices`, at the cost of speed: see
    # jobs.train.compute.exact.
    deterministic: bool = False
    slices: int = Field(default=12, ge=1, lt=2**31)  # 12: whole slices, so equal shares, for 1, 2, 3, 4, 6 and 12 ranks

    log_every: int = Field(default=50, ge=1)  # steps between two measurements
    # A checkpoint at the end of each epoch, when asked to stop, and at the first measurement after so many steps
    # (None: never for that reason) or minutes.
    checkpoint_every_steps: int | None = Field(default=None, ge=1)
    checkpoint_every_minutes: float = Field(default=10, gt=0)
    keep_checkpoints: int = Field(default=3, ge=1)  # beside the best on validation

    shuffle_shards: int = Field(default=4, ge=1)  # rows are mixed within this many shards of each of the lanes
    reader_threads: int = Field(default=2, ge=1)
    # Keep the rows in memory after the first epoch: auto does where all ranks of a node together take less than this
    # share of what is free.
    cache: Literal["auto", "always", "never"] = "auto"
    cache_share: float = Field(default=0.5, gt=0, le=1)
    audit: bool = False  # write which rows each rank trained on in each step to logs/rows.rank-N.jsonl

    @model_validator(mode="after")
    def _has_an_end(self) -> "TrainConfig":
        if self.epochs is None and self.max_steps is None:
            raise ValueError("found neither epochs nor max_steps, expected at least one")
        if self.learning_rate_scaling != "off" and self.base_batch_size is None:
            raise ValueError("learning_rate_scaling needs base_batch_size, the batch that learning_rate was chosen for")
        if self.deterministic and self.microbatches > 1:
            raise ValueError("microbatches is for training without deterministic, whose slices are parts already")
        if self.deterministic and (self.precision == "float16" or self.compression != "float32"):
            raise ValueError(
                "precision cannot be float16, nor compression to 16 bits, with deterministic, whose sums need every bit"
            )
        return self

    @property
    def fixed_slices(self) -> int | None:
        """Into how many slices each global batch is cut; None: into none, as it need not be exact."""
        return self.slices if self.deterministic else None

    @property
    def peak_rate(self) -> float:
        """The learning rate after scaling."""
        ratio = self.batch_size / (self.base_batch_size or self.batch_size)
        return self.learning_rate * {"off": 1.0, "linear": ratio, "sqrt": ratio**0.5}[self.learning_rate_scaling]

"""The gate's options."""

from typing import Literal

from pydantic import Field

from jobs.config import Section


class GateConfig(Section):
    """What a challenger must be. It changes no model, so a run may go on with other values."""

    min_accuracy: float = Field(default=0.8, ge=0, le=1)  # on the test set, whatever the champion does
    min_recall: float = Field(default=0.5, ge=0, le=1)  # of the worst class

    # Against the champion, and with not-worse against the best champion so far, on the same test images.
    # not-worse: a challenger whose accuracy is lower by delta or more, over all images such as those of the test set,
    # passes with a probability of at most alpha, whatever the size of the test set and wherever the two models err
    # (see pipelines.gate.not_worse). With delta = 0 it has to be better. better: McNemar's exact test, one-sided, has
    # p ≤ alpha. both: both are demanded.
    rule: Literal["not-worse", "better", "both"] = "not-worse"
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    delta: float = Field(default=0.005, ge=0, le=1)

    # Test images that are in the training data, too, pixel by pixel: the accuracy says less of images never seen.
    max_test_images_in_training: int = Field(default=0, ge=0)

    # Training data against the champion's, and each new archive pair of its own: told, or a reason not to promote.
    drift: Literal["report", "block"] = "report"
    max_label_distance: float = Field(default=0.2, ge=0, le=1)  # total variation distance of the label shares
    max_pixel_shift: float = Field(default=0.25, ge=0)  # of the mean, in deviations of the champion's pixels
    max_pixel_spread: float = Field(default=0.25, ge=0)  # of the deviation, as a share of the champion's

    max_model_mb: float = Field(default=500, gt=0)
    max_latency_ms: float = Field(default=1000, gt=0)  # of one image, median, on the machine that evaluates
    max_difference: float = Field(default=1e-5, ge=0)  # of a probability, from what evaluation saw

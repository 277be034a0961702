"""The gate's options."""

from typing import Literal

from pydantic import Field

from jobs.config import Section


class GateConfig(Section):
    """What a challenger must achieve to become champion.

    No key changes the model, so a run may be resumed with other values.
    """

    min_accuracy: float = Field(
        default=0.8, ge=0, le=1, description="Lowest accuracy on the test set, whatever the champion achieves."
    )
    min_recall: float = Field(default=0.5, ge=0, le=1, description="Lowest recall of any class on the test set.")

    # not-worse: a challenger whose accuracy is lower by delta or more, over all images such as those of the test set,
    # passes with a probability of at most alpha, whatever the size of the test set and wherever the two models err
    # (see pipelines.gate.not_worse). better: McNemar's exact test, one-sided, has p ≤ alpha.
    rule: Literal["not-worse", "better", "both"] = Field(
        default="not-worse",
        description=(
            "Which test the challenger must pass, on the same test images. `not-worse`: neither the champion nor the "
            "best champion so far is more accurate by `delta` or more. `better`: the challenger is more accurate than "
            "the champion. `both`: both tests."
        ),
    )
    alpha: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="Significance level: the highest probability that a challenger passes a test it should fail.",
    )
    delta: float = Field(
        default=0.005,
        ge=0,
        le=1,
        description=(
            "Loss of accuracy that `rule=not-worse` must rule out: 0.005 is half a percentage point. "
            "0: the challenger has to be better."
        ),
    )

    max_test_images_in_training: int = Field(
        default=0,
        ge=0,
        description="Test images that may also be in the training data, pixel by pixel. They inflate the accuracy.",
    )

    drift: Literal["report", "block"] = Field(
        default="report",
        description=(
            "What happens if the training data, or a new archive pair, has drifted from the champion's: `report` only "
            "reports it, `block` prevents the promotion."
        ),
    )
    max_label_distance: float = Field(
        default=0.2, ge=0, le=1, description="Drift limit: total variation distance between the label shares."
    )
    max_pixel_shift: float = Field(
        default=0.25,
        ge=0,
        description="Drift limit: shift of the mean pixel, in standard deviations of the champion's pixels.",
    )
    max_pixel_spread: float = Field(
        default=0.25,
        ge=0,
        description="Drift limit: change of the pixels' standard deviation, as a fraction of the champion's.",
    )

    # A pair is reported if both hold, so a significant but small difference is not, nor a large one by chance.
    max_feature_drift: float = Field(
        default=0.1,
        ge=0,
        description=(
            "Drift limit: distance of a new pair from the champion's data in the champion's own features, class by "
            "class (maximum mean discrepancy; 0: none, above 0.5: other images). Shifts by one pixel have about 0.15."
        ),
    )
    drift_alpha: float = Field(
        default=0.01,
        gt=0,
        lt=0.5,
        description=(
            "Significance level of that distance: the highest probability that any of the new pairs of a retraining is "
            "reported although none has drifted."
        ),
    )

    max_model_mb: float = Field(default=500, gt=0, description="Largest model file, in MB.")
    max_latency_ms: float = Field(
        default=1000,
        gt=0,
        description="Longest time to predict one image, in ms: the median on the machine that evaluates.",
    )
    max_difference: float = Field(
        default=1e-5,
        ge=0,
        description="Largest difference of any probability between the reloaded model file and the evaluation.",
    )

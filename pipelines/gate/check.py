"""One check of the gate as a value: the figure, its threshold, whether it holds and whether it can block."""

from pydantic import ConfigDict

from jobs.config import Section


class Check(Section):
    """One check. `figure`, `threshold`: in the unit that `text` names; None for a check without a number.

    `blocks`: whether a challenger that fails the check stays out; else a failure is only reported.
    """

    # The probabilities of a broken model may be NaN. Its check fails like any other.
    model_config = ConfigDict(allow_inf_nan=True)

    name: str
    holds: bool
    blocks: bool = True
    figure: float | None = None
    threshold: float | None = None
    text: str


def failure(name: str, text: str) -> Check:
    """Return a blocking check that failed and has no figure."""
    return Check(name=name, holds=False, text=text)


def at_least(name: str, figure: float, floor: float, text: str) -> Check:
    """Return the blocking check that `figure` is `floor` or more. `text` states the figure."""
    holds = figure >= floor
    short = "" if holds else f", short by {floor - figure:.4f}"
    return Check(
        name=name, holds=holds, figure=figure, threshold=floor, text=f"{text}, expected at least {floor:g}{short}"
    )


def at_most(name: str, figure: float, ceiling: float, text: str, *, blocks: bool = True) -> Check:
    """Return the check that `figure` is `ceiling` or less. `text` states the figure."""
    holds = figure <= ceiling
    over = "" if holds else f", over by {figure - ceiling:.4g}"
    text = f"{text}, expected at most {ceiling:g}{over}"
    return Check(name=name, holds=holds, blocks=blocks, figure=figure, threshold=ceiling, text=text)

"""Write figures as a Markdown table: pure text."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_QUIET = 10  # percent of the cores

Rounds = Sequence[dict[str, float]]  # figures by name, for each round; a missing contender has none


@dataclass(frozen=True)
class Figure:
    """The figure of one contender, round by round. `form`: format of a number, as in f"{number:{form}}"."""

    what: str
    values: tuple[float, ...]
    form: str = ",.0f"
    unit: str = ""


@dataclass(frozen=True)
class Ratio:
    """A ratio taken within each round, and the bound for its median. Without a bound it is only shown."""

    what: str
    values: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        """The bound in words."""
        if self.at_least is not None:
            return f"≥ {self.at_least:.3g}"
        return f"≤ {self.at_most:.3g}" if self.at_most is not None else ""

    @property
    def verdict(self) -> str:
        """Whether the median meets the bound."""
        if not self.target:
            return ""
        if not self.values:
            return "not measured"
        middle = statistics.median(self.values)
        low, high = self.at_least, self.at_most
        return "met" if (low is None or middle >= low) and (high is None or middle <= high) else "**not met**"


@dataclass(frozen=True)
class Section:
    """One measure: its ratios, the figures they come from, and remarks."""

    number: int
    title: str
    ratios: tuple[Ratio, ...]
    figures: tuple[Figure, ...]
    remarks: tuple[str, ...] = ()


def figure(rounds: Rounds, name: str, what: str = "", form: str = ",.0f", unit: str = "") -> Figure:
    """Return the figure of one name over all rounds that have it."""
    return Figure(what or name, tuple(each[name] for each in rounds if name in each), form, unit)


def quotients(rounds: Rounds, top: str, bottom: str, scale: float = 1.0) -> tuple[float, ...]:
    """Return top ÷ bottom × scale in each round that has both."""
    return tuple(scale * each[top] / each[bottom] for each in rounds if top in each and bottom in each)


def spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """Return `median (lowest to highest)`."""
    if not values:
        return "not measured"
    middle = f"{statistics.median(values):{form}}{unit}"
    return middle if len(values) == 1 else f"{middle} ({min(values):{form}} to {max(values):{form}})"


@dataclass(frozen=True)
class Taken:
    """When a measure was taken, in how many rounds, and how long they took.

    `busy`: the highest share of the cores, in percent, that other programs used just before a round.
    """

    date: str
    rounds: int
    seconds: float
    busy: float

    def __str__(self) -> str:
        """Return one line, with a warning if the machine was busy."""
        line = f"{self.rounds} round{'s' if self.rounds > 1 else ''} in {self.seconds / 60:.1f} minutes, {self.date}."
        if self.busy <= _QUIET:
            return line
        return f"{line} **Other programs used up to {self.busy:.0f} % of the cores: do not trust these figures.**"


def document(machine: str, sections: Iterable[tuple[Section, Taken]], tried: str) -> str:
    """Return RESULTS.md. `tried`: the text at its end."""
    measured = sorted(sections, key=lambda each: each[0].number)
    minutes = sum(taken.seconds for _, taken in measured) / 60
    lines = [
        "# Benchmarks",
        "",
        "`make bench` writes this file. Every figure is a median over rounds, with the lowest and the highest. In each",
        "round, all contenders of a measure run one after another, each as a fresh process. Ratios are taken within a",
        "round. Nothing else should run at the same time.",
        "",
        f"Machine: {machine}",
        f"All measures together took {minutes:.0f} minutes.",
        "",
        "| # | ratio | target | median (lowest to highest) | |",
        "|---|---|---:|---:|---|",
    ]
    for section, _ in measured:
        for ratio in section.ratios:
            figures = spread(ratio.values, ".2f")
            lines.append(f"| {section.number} | {ratio.what} | {ratio.target} | {figures} | {ratio.verdict} |")
    for section, taken in measured:
        lines += ["", f"## {section.number}. {section.title}", ""]
        lines += [str(taken), "", "| | median (lowest to highest) |", "|---|---:|"]
        lines += [f"| {each.what} | {spread(each.values, each.form, each.unit)} |" for each in section.figures]
        for remark in section.remarks:
            lines += ["", remark]
    return "\n".join([*lines, "", tried.rstrip(), ""])

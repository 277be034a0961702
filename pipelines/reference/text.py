"""The reference as text for a terminal of 80 columns."""

import textwrap
from collections.abc import Mapping, Sequence

from pipelines.config import DEFAULT_RECIPE
from pipelines.reference.keys import Key, KeySection, recipes_that_set, values_of

WIDTH = 80


def overview(sections: Sequence[KeySection], recipe: str | None) -> list[str]:
    """Return all keys of the config, a line or two each, with the defaults or, if one is named, a recipe's values."""
    values = values_of(recipe) if recipe else {}
    what = f"value in recipe {recipe}" if recipe else "default"
    lines = _wrapped(f"Each key with its {what}. `idxtrain config KEY` describes one.")
    for section in sections:
        width = max(len(key.last) for key in section.keys)
        value_width = max(len(_value(key, values)) for key in section.keys)
        lines += ["", *_wrapped(f"{section.name}: {section.description}" if section.name else section.description)]
        for key in section.keys:
            head = f"  {key.last:<{width}}  {_value(key, values):<{value_width}}  "
            lines += _wrapped(_first_sentence(key.description), head)
    return [*lines, "", "site: What a cluster offers. `idxtrain config site` shows its keys."]


def entry_text(entry: Key | Sequence[KeySection], recipe: str | None) -> list[str]:
    """Return a key, or sections with all their keys, in full. `recipe`: whose values to show beside the defaults."""
    return key_text(entry, recipe) if isinstance(entry, Key) else sections_text(entry, recipe)


def sections_text(sections: Sequence[KeySection], recipe: str | None) -> list[str]:
    """Return sections with all their keys in full."""
    values = values_of(recipe) if recipe else {}
    lines = []
    for section in sections:
        lines += ["", *_wrapped(f"{section.name}: {section.description}")]
        for key in section.keys:
            lines += ["", key.name, *_wrapped(key.description, "  ")]
            lines += _wrapped(f"{_sentence(key.values)} {_default(key, values)}", "  ")
    return lines[1:]


def key_text(key: Key, recipe: str | None = None) -> list[str]:
    """Return all about one key. `recipe`: the recipe whose value to show, the default one if None."""
    rows = [("values", key.values), ("default", key.default or "none, a value is required")]
    if not key.is_of_site and key.default is not None:
        shown = recipe or DEFAULT_RECIPE
        rows.append((f"in {shown}", values_of(shown)[key.name] + ("" if recipe else " (the default recipe)")))
        others = {name: value for name, value in recipes_that_set(key).items() if name != shown}
        rows += [("elsewhere", ", ".join(f"{name} {value}" for name, value in others.items()))] if others else []
    rows += [("to set it", key.setting)] if key.default is not None else []
    width = max(len(title) for title, _ in rows)
    lines = [key.name, *_wrapped(key.description, "  "), ""]
    for title, text in rows:
        lines += _wrapped(text, f"  {title:<{width}}  ")
    return lines


def _default(key: Key, values: Mapping[str, str]) -> str:
    default = "Required." if key.default is None else f"Default: {key.default}."
    own = _value(key, values)
    return f"{default} In the recipe: {own}." if own != key.default else default


def _value(key: Key, values: Mapping[str, str]) -> str:
    return values.get(key.name, key.default or "")


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _first_sentence(text: str) -> str:
    return text if ". " not in text else text[: text.index(". ") + 1]


def _wrapped(text: str, head: str = "") -> list[str]:
    """Return text as lines that begin with `head`, on the first line, or as many spaces."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )

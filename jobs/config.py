"""The base of all config sections. Each job's own section lies beside its code."""

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict

_MOST_LIKE = 3  # keys that an error suggests
_MOST_LISTED = 12  # keys of a section that an error lists

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200


class Section(BaseModel):
    """A frozen section of the config. Unknown keys and values of the wrong type are errors, never ignored.

    Each key has a description: what it does, its unit, and what `none`, 0 or `auto` mean. Type, range and choices come
    from the annotation, see `expected`, so no description repeats them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    renamed: ClassVar[Mapping[str, str]] = {}  # old key → new key: an old one gets an error that names the new one


def explain(model: type[BaseModel], error: Any) -> str:
    """Return one of pydantic's errors as `key: found X, expected Y`.

    Our own validators raise a message of that form. For an unknown key, name the nearest valid ones or, if none
    is near, those of a short section.
    """
    location = error["loc"]
    key = ".".join(map(str, location))
    if error["type"] == "extra_forbidden":
        return _unknown_key(model, location)
    if error["type"] == "value_error":
        message = error["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    if location[-1:] == ("[key]",):  # of a table whose keys are choices
        key = ".".join(map(str, location[:-2]))
    wanted = _wanted(model, error)
    if error["type"] == "missing":
        return f"{key}: missing, expected {wanted}"
    return f"{key}: found {_show(error['input'])}, expected {wanted}"


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the word that `word` may be a misspelling of, or None if none is close."""
    return next(iter(difflib.get_close_matches(word, list(words), 1)), None)


def expected(annotation: Any, constraints: Sequence[Any] = ()) -> str:
    """Return in words which values a key takes, such as `an integer of at least 1, or none`.

    `annotation`, `constraints`: a pydantic field's `annotation` and `metadata`.
    """
    kind, arguments = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return expected(arguments[0], (*constraints, *arguments[1:]))
    if kind in (Union, UnionType):
        kinds = [expected(each, constraints) for each in arguments if each is not NoneType]
        return f"{', or '.join(kinds)}, or none"
    if kind is Literal and len(arguments) == 1:
        return str(arguments[0])
    if kind is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if kind is tuple:
        return f"a list whose items are {expected(arguments[0])}"
    if kind in (dict, Mapping):
        return f"a table whose values are {expected(arguments[1])}"
    if issubclass(annotation, Section):
        return "a table of keys"
    if annotation is bool:
        return "true or false"
    if annotation is str:
        return "text"
    return ("an integer" if annotation is int else "a number") + _range(constraints, whole=annotation is int)


def _range(constraints: Sequence[Any], *, whole: bool) -> str:
    """Return the bounds of a number in words, with a leading space; empty if there is none."""
    least = next((each.ge for each in constraints if isinstance(each, Ge)), None)
    above = next((each.gt for each in constraints if isinstance(each, Gt)), None)
    most: Any = next((each.le for each in constraints if isinstance(each, Le)), None)
    below: Any = next((each.lt for each in constraints if isinstance(each, Lt)), None)
    if whole and below is not None:
        most, below = below - 1, None
    if least is not None and most is not None:
        return f" from {least} to {most}"
    low = f"of at least {least}" if least is not None else f"above {above}" if above is not None else ""
    high = f"at most {most}" if most is not None else f"below {below}" if below is not None else ""
    return f" {low} and {high}" if low and high else f" {low or high}".rstrip()


def _unknown_key(root: Any, location: Sequence[str]) -> str:
    key = ".".join(location)
    *sections, last = location
    model, _ = _at(root, sections)
    if last in model.renamed:
        return f"{key}: renamed; expected {'.'.join((*sections, model.renamed[last]))}"
    return f"{key}: found an unknown key; {_instead(root, model, last)}"


def _instead(root: Any, model: Any, last: str) -> str:
    """Return what a key that `model` lacks may mean: keys like it, the same key of another section, or any key."""
    like = difflib.get_close_matches(last, list(model.model_fields), _MOST_LIKE)
    elsewhere = [
        f"{name}.{last}"
        for name, field in root.model_fields.items()
        if isinstance(field.annotation, type)
        and issubclass(field.annotation, Section)
        and last in field.annotation.model_fields
        and field.annotation is not model
    ]
    if like or elsewhere:
        return f"did you mean {' or '.join(like or elsewhere)}?"
    if len(model.model_fields) > _MOST_LISTED:
        return f"expected one of its {len(model.model_fields)} keys, which `idxtrain config` lists"
    return f"expected one of {', '.join(model.model_fields)}"


def _wanted(model: Any, error: Any) -> str:
    """Return which values are valid where an error is."""
    context = error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch":
        return f"text that matches {context['pattern']}"
    if error["type"] == "string_too_long":
        return f"at most {context['max_length']} characters"
    if error["msg"].startswith("expected "):  # a PydanticCustomError of our own
        return str(error["msg"]).removeprefix("expected ")
    return expected(*_at(model, error["loc"]))


def _at(model: Any, location: Sequence[str | int]) -> tuple[Any, Sequence[Any]]:
    """Return the annotation and the constraints of the value at a location; of the keys where it ends with [key]."""
    annotation, constraints = model, ()
    for position, name in enumerate(location):
        if isinstance(annotation, type) and issubclass(annotation, Section):
            field: Any = annotation.model_fields[str(name)]
            annotation, constraints = field.annotation, field.metadata
        elif name != "[key]":  # an item of a list or table
            is_value = get_origin(annotation) in (dict, Mapping) and "[key]" not in location[position + 1 :]
            annotation, constraints = get_args(annotation)[-1 if is_value else 0], ()
    return annotation, constraints


def _show(value: Any) -> str:
    try:
        return _short.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"a {type(value).__name__} too long to show"

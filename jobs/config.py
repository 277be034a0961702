"""What all config sections have in common. Each job's own section lies beside its code."""

import difflib
import reprlib
from typing import Any

from pydantic import BaseModel, ConfigDict

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 200


class Section(BaseModel):
    """A frozen part of the config: unknown keys and values of the wrong type are errors, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def explain(model: type[BaseModel], error: Any) -> str:
    """Return one of pydantic's errors as `key: what was found and expected`; of an unknown key, the valid ones."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        message = error["msg"].removeprefix("Value error, ")
        return f"{key}: found {_show(error['input'])}: {message}" if key and error["type"] != "value_error" else message
    *sections, last = error["loc"]
    section: Any = model
    for name in sections:
        section = section.model_fields[name].annotation
    valid = list(section.model_fields)
    close = difflib.get_close_matches(str(last), valid, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{key}: found an unknown key; {hint}expected one of {', '.join(valid)}"


def _show(value: Any) -> str:
    try:
        return _short.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"a {type(value).__name__} too long to show"

"""The names of checkpoint files: `step-00000042.safetensors` holds the state after 42 updates."""

import re

_NAME = re.compile(r"step-([0-9]{8,})\.safetensors")


def checkpoint_name(step: int) -> str:
    """Return the name of the checkpoint file after `step` updates, `step` ≥ 0."""
    return f"step-{step:08d}.safetensors"


def step_of(name: str) -> int | None:
    """Return the step of a checkpoint file's name; None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match and checkpoint_name(int(match[1])) == name else None

"""What the README says one can rely on: each sentence has a test, named in a comment beside it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)


def promises() -> list[str]:
    """Return the bullets under "What you can rely on", each as one line."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## What you can rely on\n")[2].partition("\n## ")[0]
    return [" ".join(bullet.split()) for bullet in re.split(r"^- ", section, flags=re.MULTILINE)[1:]]


def defined_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8")) if (ROOT / file).is_file() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_promise_names_its_tests_and_they_exist() -> None:
    assert len(promises()) >= 5
    missing = []
    for promise in promises():
        *kept, rest = _COMMENT.split(promise)
        assert not rest, f"no test is named after: {rest}"
        for sentence, names in zip(kept[::2], kept[1::2], strict=True):
            # A bullet may begin with a title in bold, which is a sentence of its own or the beginning of one.
            plain = re.sub(r"\*\*.*?\*\*", "", sentence).strip()
            assert len(re.findall(r"[.!?](?:\s|$)", plain)) <= 1, f"more than one sentence before a comment: {sentence}"
            assert names.split(), f"no test is named after: {sentence}"
            for name in names.split():
                file, _, test = name.partition("::")
                if test not in defined_in(file):
                    missing.append(name)
    assert not missing

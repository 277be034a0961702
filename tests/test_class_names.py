"""The files of class names that people have, and what is refused in them."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import InputError
from jobs.fetch.class_names import names_text, read_class_names
from tests.support.real_data import real_data


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog\n", {0: "cat", 1: "dog"}),
        ("\ufeffcat\r\ndog\r\n\r\n", {0: "cat", 1: "dog"}),
        ("3 cat\n-1 wild dog\n", {3: "cat", -1: "wild dog"}),
        ("3,cat\n300,wild dog\n", {3: "cat", 300: "wild dog"}),
        ("3;cat\n4; dog", {3: "cat", 4: "dog"}),
        ("1 65 97\n2 66 98\n", {1: "A/a", 2: "B/b"}),
        ("0 48\n1 49\n", {0: "0", 1: "1"}),
        ("0,48\n1,49\n", {0: "48", 1: "49"}),  # names, as commas separate them
        ("0 1\n1 2\n", {0: "1", 1: "2"}),  # no codes of visible characters
        ("0\n1\n", {0: "0", 1: "1"}),
        ("0,2 doors\n1,2 wheels\n", {0: "2 doors", 1: "2 wheels"}),
        ("2 doors\nfour doors\n", {0: "2 doors", 1: "four doors"}),
    ],
)
def test_a_file_of_class_names_is_read_by_its_form(tmp_path: Path, text: str, names: dict[int, str]) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(text.encode())
    assert read_class_names(path) == names


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "found no class names, expected one line per class"),
        (b"cat\n\ndog", "found '' for label 1, expected 1 to 100 printable characters"),
        (b"cat\ncat", "found 'cat' for labels 0 and 1, expected a name of its own for each"),
        (b"cat\n\x1b[31mdog", "for label 1, expected 1 to 100 printable characters"),
        (b"0 cat\n1 dog\nbird\n", "line 3: found 'bird', expected LABEL NAME with each label once"),
        (b"label name\n0 cat\n1 dog\n", "line 1: found 'label name', expected LABEL NAME"),
        (b"0 cat\n\n1 dog\n", "line 2: found '', expected LABEL NAME"),
        (b"2 doors\n2 wheels\n", "line 2: found label 2 again, after line 1, expected"),
        (b"x" * 101, "for label 0, expected 1 to 100 printable characters"),
        (b"cat\n\xff", "found byte 4 that is not UTF-8"),
        (None, "found no such file, expected a text file of class names"),
    ],
)
def test_a_bad_file_of_class_names_is_refused_in_one_line(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_class_names(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@settings(deadline=None)  # a busy machine is not an error
@given(st.binary(max_size=60))
def test_any_file_gives_names_or_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    with suppress(InputError):
        names = read_class_names(path)
        assert all(name.isprintable() and name.strip() for name in names.values())
        assert len(set(names.values())) == len(names)


@pytest.mark.parametrize(
    ("name", "classes", "some"),
    [
        ("byclass", 62, {10: "A", 36: "a"}),
        ("letters", 26, {1: "A/a", 26: "Z/z"}),
        ("balanced", 47, {12: "C", 46: "t"}),
        ("digits", 10, {0: "0", 9: "9"}),
    ],
)
def test_emnists_mapping_files_give_characters(name: str, classes: int, some: dict[int, str]) -> None:
    names = read_class_names(real_data("emnist") / f"emnist-{name}-mapping.txt")
    assert len(names) == classes
    assert some.items() <= names.items()


def test_many_names_are_shown_in_short() -> None:
    assert names_text({0: "a", 1: "b"}) == "0 = a, 1 = b"
    assert names_text(dict.fromkeys(range(50), "a"), most=2) == "0 = a, 1 = a, …"

"""How programs end: one line and an exit code for each kind of error."""

import pytest

from jobs.errors import IdxtrainError, InputError, ReportedError, ResumableError
from jobs.exit_codes import exit_codes


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("--np: found 0"), 2, "idxtrain: --np: found 0\n"),
        (ResumableError("train: stopped"), 75, "idxtrain: train: stopped\n"),
        (IdxtrainError("rank 1 ended"), 1, "idxtrain: rank 1 ended\n"),
        (ReportedError(3), 3, ""),
        (
            OSError(28, "No space left on device", "/work/x"),
            1,
            "idxtrain: [Errno 28] No space left on device: '/work/x'\n",
        ),
    ],
)
def test_each_error_has_its_line_and_its_exit_code(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, exit_codes():
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err == line


def test_an_error_nobody_foresaw_is_not_hidden() -> None:
    with pytest.raises(KeyError), exit_codes():
        raise KeyError("a bug")

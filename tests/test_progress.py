from __future__ import annotations

import pytest

from tflite_ptq4.progress import track


@pytest.mark.parametrize(
    ("total", "lines"),
    [
        (0, []),
        (1, [1]),
        (3, [1, 2, 3]),  # each third passes a quarter
        (8, [2, 4, 6, 8]),
        (100, [25, 50, 75, 100]),
    ],
)
def test_a_log_gets_one_line_per_quarter(
    total: int, lines: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(track("Working", range(total))) == list(range(total))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"Working: {done} of {total}" for done in lines]


def test_a_terminal_gets_a_bar_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert list(track("Working", range(7))) == list(range(7))
    out, err = capsys.readouterr()
    assert out == ""
    assert "of 7" not in err

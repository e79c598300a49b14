from pathlib import Path

import pandas as pd
import pytest

from reg.errors import InputError
from reg.report.unrolled import (
    LOG_COLUMNS,
    Logs,
    main_curves,
    reached_after,
    read_logs,
    unrolled_says,
    worth,
    worth_sheet,
)

TASK = "deblur-k5-2.55"


def logs(reg: list[float], random: list[float]) -> Logs:
    """Two seeds, a tenth of a dB above and below, at iterations 0, 10, 20, …; and another K."""
    rows = []
    for start, levels in (("reg", reg), ("random", random)):
        for steps, seed, more in ((4, 0, -0.1), (4, 1, 0.1), (2, 0, -9.0)):
            rows += [
                (10 * k, level + more, 0.1, 1e-3, TASK, steps, seed, start)
                for k, level in enumerate(levels)
            ]
    return Logs(pd.DataFrame(rows, columns=[*LOG_COLUMNS, "start"]), pd.DataFrame())


def test_curves_are_those_of_the_usual_number_of_steps_by_seed() -> None:
    curves = main_curves(logs([20, 21], [19, 20]), TASK, "reg")
    assert curves.index.tolist() == [0, 10]
    assert curves[0].tolist() == pytest.approx([19.9, 20.9])
    assert curves[1].tolist() == pytest.approx([20.1, 21.1])


@pytest.mark.parametrize(
    ("level", "expected"), [(18.0, 0.0), (20.0, 0.0), (21.0, 5.0), (22.0, 10.0), (25.0, None)]
)
def test_a_level_is_reached_between_points_on_a_line(level: float, expected: float | None) -> None:
    curve = pd.Series([20.0, 22.0, 21.0, 24.0], index=[0, 10, 20, 30])
    assert reached_after(curve, level) == expected


def test_what_pretraining_is_worth() -> None:
    found = worth(logs([20, 23, 24], [18, 20, 23]), TASK)
    assert [iteration for iteration, _, _ in found] == [0, 10, 20]
    assert [needed for _, _, needed in found] == pytest.approx([10.0, 20.0, None])
    sheet = worth_sheet(logs([20, 23, 24], [18, 20, 23]))
    ((_, lines),) = sheet.blocks
    assert [cell.text for cell in lines[-1]] == ["20", "24.00", "not reached"]


def test_the_sentence_says_what_is_reached_and_what_is_not() -> None:
    better = unrolled_says(logs([20, 24], [18, 22]))
    assert "The 20.00 dB that ReG has untrained the random start has after 5 iterations" in better
    assert "ReG's 24.00 dB after 10 it does not reach within the same budget" in better
    worse = unrolled_says(logs([20, 21], [22, 24]))
    assert "has after 0 iterations" in worse
    assert "ReG's 21.00 dB after 10 it has after 0" in worse


def test_missing_logs_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"reg/logs\.csv: no such file"):
        read_logs(tmp_path)

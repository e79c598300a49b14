from pathlib import Path

import pandas as pd
import pytest
import torch

from reg.errors import InputError
from reg.evaluation import long_table
from reg.images import write_image
from reg.report.unrolled import (
    LOG_COLUMNS,
    STARTS,
    Logs,
    crops,
    main_curves,
    pnp_gd_beside,
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


# --- a subset of the test images -----------------------------------------------------------


def long_rows(method: str, levels: dict[str, float]) -> list[list[object]]:
    return [
        [TASK, method, 0, image, 10, metric, value]
        for image, level in levels.items()
        for metric, value in (("psnr", level), ("ssim", 0.5))
    ]


def test_pnp_gd_stands_beside_on_the_same_images_alone() -> None:
    table = long_table(long_rows("unrolled-reg", {"a": 30.0, "c": 20.0}))
    others = long_table(
        long_rows("pnp-gd", {"a": 28.0, "b": 99.0, "c": 22.0}) + long_rows("red", {"a": 1.0})
    )
    beside = pnp_gd_beside(table, others)
    assert set(beside["method"]) == {"pnp-gd"}
    assert beside.loc[beside["metric"] == "psnr", "value"].tolist() == [28.0, 22.0]


def test_the_shown_image_is_the_median_of_those_that_both_stages_kept(tmp_path: Path) -> None:
    levels = {"a": 30.0, "b": 20.0, "c": 25.0, "d": 26.0}
    rows = [row for start in STARTS for row in long_rows(f"unrolled-{start}", levels)]
    picture = torch.zeros(1, 3, 8, 8)
    for name in ("b", "c", "d"):
        for kind in ("truth", "start"):
            kept = tmp_path / "evaluate_restoration" / "images" / TASK
            write_image(kept / kind / f"{name}.png", picture)
    for name in ("a", "b", "d"):
        for start in STARTS:
            kept = tmp_path / "finetune_unrolled" / start / "images" / TASK
            write_image(kept / f"{name}.png", picture)
    image, pictures = crops(tmp_path, long_table(rows), TASK)
    assert image == "b"  # of b and d the lower one
    assert [title for title, _, _ in pictures][:2] == ["Ground truth", "Degraded"]
    assert {note for _, _, note in pictures[2:]} == {"20.00 dB"}
    with pytest.raises(InputError, match="keep_every"):
        crops(tmp_path, long_table(rows), "sr-x2-2.55")

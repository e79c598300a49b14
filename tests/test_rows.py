import json
from pathlib import Path

import pytest

from benchmarks.rows import ratios, row, save


def test_a_row_is_the_median_and_the_quartiles(capsys: pytest.CaptureFixture[str]) -> None:
    made = row("ours / theirs", [1.0, 2.0, 3.0, 4.0, 100.0], "≥ 2")
    assert (made["low"], made["ratio"], made["high"]) == (2.0, 3.0, 4.0)
    assert made["machine"]["cores"] > 0
    assert "ours / theirs" in capsys.readouterr().out


def test_both_sides_are_run_in_turn() -> None:
    order: list[str] = []
    found = ratios(lambda: order.append("a"), lambda: order.append("b"), 3)
    assert order == ["a", "b"] * 4  # one of each warms up
    assert len(found) == 3


def test_rows_of_this_name_and_machine_are_replaced_and_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "benchmarks.json"

    def made(name: str, ratio: int, cpu: str = "here") -> dict[str, object]:
        return {"name": name, "ratio": ratio, "machine": {"cpu": cpu, "cores": 2}}

    save([made("a", 1), made("b", 2)], path)
    save([made("c", 3), made("a", 4), made("b", 5, "elsewhere")], path)
    merged = [
        (each["name"], each["machine"]["cpu"], each["ratio"])
        for each in json.loads(path.read_text())
    ]
    expected = [("a", "here", 4), ("b", "here", 2), ("c", "here", 3), ("b", "elsewhere", 5)]
    assert merged == expected

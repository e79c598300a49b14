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

    def made(name: str, ratio: int, cpu: str = "here", target: str = "≥ 3") -> dict[str, object]:
        machine = {"cpu": cpu, "cores": 2, "gpus": []}
        return {
            "name": name, "ratio": ratio, "low": ratio - 1, "high": ratio, "target": target,
            "machine": machine,
        }  # fmt: skip

    save([made("a", 1), made("b", 2)], path)
    save([made("c", 4, target="≤ 3"), made("a", 4), made("b", 5, "elsewhere", "report")], path)
    merged = [
        (each["name"], each["machine"]["cpu"], each["ratio"])
        for each in json.loads(path.read_text())
    ]
    expected = [("a", "here", 4), ("b", "here", 2), ("c", "here", 4), ("b", "elsewhere", 5)]
    assert merged == expected
    here, elsewhere = path.with_name("README.md").read_text().split("## elsewhere, 2 cores")
    for line in ("| a | ≥ 3 | 4 [3, 4] | ✓ |", "| b | ≥ 3 | 2 [1, 2] | ✗ |"):
        assert line in here
    assert "| c | ≤ 3 | 4 [3, 4] | ✗ |" in here
    assert "| b | – | 5 [4, 5] |  |" in elsewhere

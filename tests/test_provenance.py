import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reg.provenance import code_of_stages

PIPELINE = """\
stages:
  tune:
    cmd: python -m stages.tune
    deps: [stages/tune.py, reg, "data/${profile}/prepare"]
  train:
    foreach: [a, b]
    do:
      cmd: python -m stages.train ${key}
      deps: [stages/train.py, reg/report.py, "${item.weights}"]
"""
FILES = {
    "dvc.yaml": PIPELINE,
    "reg/report.py": "a file beside a folder of its name\n",
    "reg/report/page.css": "body {}\n",
    "reg/Z.py": "",
    "stages/tune.py": "σ = 1\n",
    "stages/train.py": "train()\n",
}


def git(*arguments: str) -> bytes:
    someone = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    ours = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *someone, *arguments],
        env={**ours, "GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True,
        check=True,
    )
    return done.stdout


def checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "reg" / "report.py").chmod(0o755)
    monkeypatch.chdir(folder)


def test_the_hash_of_a_stage_is_what_git_says_of_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout(tmp_path, monkeypatch)
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "Code")
    (tmp_path / "reg/report/__pycache__").mkdir()
    (tmp_path / "reg/report/__pycache__/page.pyc").write_bytes(b"compiled")
    code = code_of_stages()
    assert code["tune"].paths == ("reg", "stages/tune.py")
    assert code["train"].paths == ("reg/report.py", "stages/train.py")
    for stage in code.values():
        listed = git("ls-tree", "-r", "HEAD", "--", *stage.arguments.split())
        assert listed.count(b"\n") == {"reg": 4, "reg/report.py": 2}[stage.paths[0]]
        assert stage.sha256 == hashlib.sha256(listed).hexdigest()


def test_two_checkouts_of_the_same_code_have_the_same_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in ("one", "two"):
        checkout(tmp_path / name, monkeypatch)
        found.append(code_of_stages())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (lambda: Path("reg/report/page.css").write_text("p {}\n"), {"tune"}),
        (lambda: Path("reg/new.py").write_text(""), {"tune"}),
        (lambda: Path("reg/Z.py").rename("reg/z.py"), {"tune"}),
        (lambda: Path("stages/train.py").write_text("train(2)\n"), {"train"}),
        (lambda: Path("reg/report.py").write_text("other\n"), {"tune", "train"}),
    ],
)
def test_a_hash_changes_with_the_code_of_its_stage_alone(
    change: Callable[[], object],
    stages: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkout(tmp_path, monkeypatch)
    before = code_of_stages()
    change()
    after = code_of_stages()
    assert {name for name in before if before[name] != after[name]} == stages


def test_the_report_reruns_when_the_code_of_any_stage_changes() -> None:
    root = Path(__file__).parents[1]
    code = code_of_stages(root / "dvc.yaml")
    folders = tuple(f"{path}/" for path in code["report"].paths)
    for stage in code.values():
        assert all(f"{path}/".startswith(folders) for path in stage.paths)

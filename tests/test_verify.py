import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reg.cli import main
from reg.verify import compare_reports, tolerance_of
from tests.command_line import assert_one_line_of_error

MAKEFILE = Path(__file__).parents[1] / "Makefile"
RESTORATION = """task,method,metric,iteration,images,mean
deblur-k5-2.55,start,psnr,0,4,24.6
deblur-k5-2.55,pnp-gd,psnr,150,4,27.6
deblur-k5-2.55,pnp-gd,ssim,150,4,0.76
deblur-k5-2.55,pnp-gd,iterations,150,4,100
"""
CONVERGENCE = """task,method,iterations,images,psnr,psnr_oracle,msd
deblur-k3-2.55,pnp-gd,500,4,27.7,27.9,4.3e-15
"""
TUNING = """task,method,parameter,begin,chosen,at_edge,trials,psnr
deblur-k5-2.55,pnp-gd,sigma,2.55,5.1,False,12,24.4
"""
CLAIMS = [
    {"id": "restoration", "measured": -0.24, "interval": [-0.76, 0.2], "images": 4,
     "verdict": "inconclusive", "evidence": {"why": "Behind by -0.24 dB."},
     "parts": {"deblur-k5-2.55": {"rival": "pnp-admm", "difference": -0.33}}},
    {"id": "visual", "measured": -0.008, "images": 4, "verdict": "inconclusive"},
    {"id": "admm-convergence", "measured": 0.38, "images": 4, "verdict": "reproduced"},
]  # fmt: skip
METRICS = {
    "psnr": {"deblur-k5-2.55": {"pnp-gd": 27.6}},
    "claims": {c["id"]: {"verdict": c["verdict"], "measured": c["measured"]} for c in CLAIMS},
}
PROVENANCE = {
    "params": {"lambda": 1.0, "seed": 0},
    "data_sha256": {"data/demo/prepare/manifest.csv": "64"},
    "weights_sha256": {"models/demo/pretrain/denoiser.safetensors": "41"},
    "packages": {"torch": "2.13.0"},
    "precision": "bf16",
    "volatile": {"commit": "7a2db94", "total_seconds": 1039.8},
}


def as_json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def report() -> dict[str, bytes]:
    """A small report, as `compare_reports` takes it."""
    texts = {
        "claims.json": as_json(CLAIMS),
        "claims.md": "Behind by -0.24 dB.\n",
        "metrics.json": as_json(METRICS),
        "provenance.json": as_json(PROVENANCE),
        "tables/convergence.csv": CONVERGENCE,
        "tables/convergence.tex": "27.70\n",
        "tables/restoration.csv": RESTORATION,
        "tables/restoration.tex": "27.60\n",
        "tables/tuning.csv": TUNING,
        "figures/admm.png": "pixels",
        "report.pdf": "pages",
    }
    return {name: text.encode() for name, text in texts.items()}


def edited(files: dict[str, bytes], name: str, *replacements: tuple[str, str]) -> dict[str, bytes]:
    text = files[name].decode()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    return {**files, name: text.encode()}


def edited_json(name: str, edit: Callable[[Any], object]) -> dict[str, bytes]:
    value = json.loads(report()[name])
    edit(value)
    return {**report(), name: as_json(value).encode()}


def states(new: dict[str, bytes], old: dict[str, bytes] | None = None) -> dict[str, str]:
    """The state of every file that is not identical."""
    files = compare_reports(report() if old is None else old, new)
    return {file.name: file.state for file in files if file.state != "identical"}


# --- tolerances ----------------------------------------------------------------------------


def test_every_file_of_the_same_report_is_identical() -> None:
    files = compare_reports(report(), report())
    assert [file.name for file in files] == sorted(report())
    assert {file.state for file in files} == {"identical"}


@pytest.mark.parametrize(
    ("name", "old", "within", "beyond"),
    [
        ("tables/restoration.csv", "4,27.6", "4,27.7", "4,27.70001"),  # PSNR 0.1 dB
        ("tables/restoration.csv", "4,27.6", "4,27.5", "4,27.49999"),
        ("tables/restoration.csv", "4,0.76", "4,0.765", "4,0.76501"),  # SSIM 0.005
        ("tables/restoration.csv", "4,100", "4,150", "4,151"),  # iterations taken, by 1.5
        ("tables/convergence.csv", "27.7,27.9", "27.7,28.0", "27.7,28.01"),
        ("tables/convergence.csv", "4.3e-15", "9e-14", "1.01e-13"),  # 10 times the floor 1e-14
        ("tables/tuning.csv", "2.55,5.1", "2.55,20.4", "2.55,20.5"),  # a step of the search
        ("claims.json", "-0.33", "-0.43", "-0.431"),
        ("claims.json", '"measured": -0.008', '"measured": -0.013', '"measured": -0.0131'),
        ("claims.json", '"measured": 0.38', '"measured": 0.88', '"measured": 0.881'),  # decades
        ("metrics.json", "27.6", "27.7", "27.71"),
        ("metrics.json", "-0.24", "-0.34", "-0.341"),
        ("metrics.json", "-0.008", "-0.013", "-0.0131"),
    ],
)
def test_each_metric_has_its_tolerance(name: str, old: str, within: str, beyond: str) -> None:
    assert states(edited(report(), name, (old, within))) == {name: "within tolerance"}
    assert states(edited(report(), name, (old, beyond))) == {name: "different"}


@pytest.mark.parametrize("column", ["images", "iteration", "iterations", "early", "begin"])
def test_settings_of_an_experiment_have_no_tolerance(column: str) -> None:
    assert tolerance_of(("deblur-k5-2.55", "pnp-gd", column)).share(1000, 1001) == float("inf")


def test_one_percent_is_allowed_of_what_is_not_declared() -> None:
    place = ("deblur-k5-2.55", "seconds")
    assert tolerance_of(place).share(200.0, 202.0) == 1.0
    assert tolerance_of(place).share(200.0, 202.1) > 1


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("tables/restoration.csv", "150,4,27.6", "149,4,27.6"),
        ("tables/restoration.csv", "150,4,27.6", "150,5,27.6"),
        ("tables/restoration.csv", "150,4,27.6", "150,4,nan"),
        ("tables/restoration.csv", "150,4,27.6", "150,4,"),
        ("tables/restoration.csv", "4,27.6\n", "4,27.6\ndeblur-k5-2.55,red,psnr,150,4,27\n"),
        ("tables/restoration.csv", "deblur-k5-2.55,start,psnr,0,4,24.6\n", ""),
        ("tables/convergence.csv", "psnr_oracle", "psnr_first"),
        ("tables/tuning.csv", "2.55,5.1", "2.56,5.1"),
        ("claims.json", '"images": 4', '"images": 5'),
        ("claims.json", '"measured": 0.38', '"measured": null'),
    ],
)
def test_what_has_no_tolerance_is_different(name: str, old: str, new: str) -> None:
    assert states(edited(report(), name, (old, new))) == {name: "different"}


def test_rows_are_compared_by_their_keys_and_not_by_their_place() -> None:
    header, *rows = RESTORATION.splitlines(keepends=True)
    moved = "".join([header, *reversed(rows)])
    tampered = moved.replace("24.6", "25.6")
    assert states({**report(), "tables/restoration.csv": moved.encode()}) == {
        "tables/restoration.csv": "within tolerance"
    }
    files = compare_reports(report(), {**report(), "tables/restoration.csv": tampered.encode()})
    (change,) = next(file.changes for file in files if file.name == "tables/restoration.csv")
    assert change.place == ("deblur-k5-2.55", "start", "psnr", "mean")
    assert (change.old, change.new, change.share) == (24.6, 25.6, pytest.approx(10))


def test_rows_of_equal_keys_are_told_apart() -> None:
    table = "quantity,at,sigma,fixed\nmap_residual,noisy,5,0.9\nmap_residual,noisy,15,0.5\n"
    old = {"tables/diagnostics.csv": table.encode()}
    new = edited(old, "tables/diagnostics.csv", ("15,0.5", "15,0.6"))
    (file,) = compare_reports(old, new)
    assert [change.place[-2:] for change in file.changes] == [("#2", "fixed")]
    assert states(edited(old, "tables/diagnostics.csv", ("15,0.5", "15,0.52")), old) == {
        "tables/diagnostics.csv": "within tolerance"
    }


@pytest.mark.parametrize(
    ("name", "number", "words"),
    [
        ("claims.json", ("-0.33", "-0.34"), ("pnp-admm", "red")),
        ("claims.json", ('"measured": -0.24', '"measured": -0.25'), ("by -0.24", "by -0.25")),
        ("tables/tuning.csv", ("2.55,5.1", "2.55,7.2"), ("False", "True")),
    ],
)
def test_words_may_follow_a_number_but_not_change_alone(
    name: str, number: tuple[str, str], words: tuple[str, str]
) -> None:
    assert states(edited(report(), name, number, words)) == {name: "within tolerance"}
    assert states(edited(report(), name, words)) == {name: "different"}


# --- texts, pictures, provenance, files ----------------------------------------------------


def test_a_text_may_differ_only_where_its_data_moved() -> None:
    tampered = edited(report(), "tables/restoration.tex", ("27.60", "28.60"))
    assert states(tampered) == {"tables/restoration.tex": "different"}
    other = edited(tampered, "tables/convergence.csv", ("27.7,", "27.71,"))
    assert states(other)["tables/restoration.tex"] == "different"
    own = edited(tampered, "tables/restoration.csv", ("27.6", "27.65"))
    assert states(own)["tables/restoration.tex"] == "reprinted"
    prose = edited(report(), "claims.md", ("-0.24", "-0.25"))
    assert states(prose) == {"claims.md": "different"}
    moved = edited(prose, "claims.json", ('"measured": -0.24', '"measured": -0.25'))
    assert states(moved)["claims.md"] == "reprinted"


def test_redrawn_pictures_are_said_and_not_judged() -> None:
    (file,) = (
        file
        for file in compare_reports(report(), {**report(), "figures/admm.png": b"other pixels"})
        if file.state != "identical"
    )
    assert (file.name, file.state, file.share) == ("figures/admm.png", "redrawn", 0)


def test_the_volatile_part_of_provenance_is_ignored() -> None:
    new = edited_json("provenance.json", lambda p: p["volatile"].update(commit="0", cores=64))
    assert states(new) == {}


@pytest.mark.parametrize(
    ("edit", "state"),
    [
        (lambda p: p["weights_sha256"].update(more="42"), "within tolerance"),
        (lambda p: p.update(precision="fp32"), "within tolerance"),
        (lambda p: p.update(code_sha256={"tune": "66"}), "within tolerance"),
        (lambda p: p["packages"].update(torch="2.14.0"), "within tolerance"),
        (lambda p: p["params"].update({"lambda": 1.0001}), "different"),
        (lambda p: p["params"].update(seed=1), "different"),
        (lambda p: p["data_sha256"].update({"data/demo/prepare/manifest.csv": "65"}), "different"),
        (lambda p: p.pop("params"), "different"),
    ],
)
def test_circumstances_may_change_and_inputs_may_not(
    edit: Callable[[Any], object], state: str
) -> None:
    assert states(edited_json("provenance.json", edit)) == {"provenance.json": state}


def test_missing_and_added_files_are_different_but_for_the_optional_one() -> None:
    new = report()
    del new["figures/admm.png"], new["report.pdf"]
    new["tables/extra.csv"] = b"a\n1\n"
    found = {file.name: file for file in compare_reports(report(), new)}
    assert (found["figures/admm.png"].state, found["figures/admm.png"].share) == (
        "missing", float("inf")
    )  # fmt: skip
    assert (found["tables/extra.csv"].state, found["tables/extra.csv"].share) == (
        "added", float("inf")
    )  # fmt: skip
    assert (found["report.pdf"].state, found["report.pdf"].share) == ("missing", 0)


def test_the_text_of_a_table_that_is_gone_is_not_called_tampered() -> None:
    new = edited(report(), "tables/restoration.tex", ("27.60", "28.60"))
    del new["tables/restoration.csv"]
    assert states(new) == {
        "tables/restoration.csv": "missing", "tables/restoration.tex": "reprinted"
    }  # fmt: skip


# --- the command ---------------------------------------------------------------------------


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = Path("reports", "demo", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def commit() -> str:
    git("add", "reports")
    git("-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "-qm", "Reports")
    return git("rev-parse", "HEAD")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: empty, and neither in a repository nor with settings of the user."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clone(folder: Path) -> Path:
    """The working directory is a repository that has the report committed."""
    git("init", "-q", "-b", "main")
    write(report())
    commit()
    return folder


def verify(*arguments: str, profile: str = "demo") -> Result:
    command = ("verify", "--profile", profile, *arguments)
    return CliRunner().invoke(main, command, catch_exceptions=False)


@pytest.mark.usefixtures("clone")
def test_an_untouched_clone_is_identical() -> None:
    write(edited_json("provenance.json", lambda p: p["volatile"].update(commit="0")))
    Path("reports/demo/.DS_Store").write_bytes(b"of a file manager")
    result = verify()
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 2
    assert result.stdout.splitlines()[-1].startswith(f"Identical: {len(report())} files")


@pytest.mark.usefixtures("clone")
def test_other_hardware_is_within_tolerances() -> None:
    new = edited(report(), "tables/restoration.csv", ("27.6", "27.65"))
    new = edited(new, "tables/restoration.tex", ("27.60", "27.65"))
    write({**new, "figures/admm.png": b"other pixels"})
    result = verify()
    assert result.exit_code == 0
    last = result.stdout.splitlines()[-1]
    assert last.startswith("Within tolerances: 1 within tolerance, 1 reprinted, 1 redrawn, ")
    assert "deblur-k5-2.55 pnp-gd psnr mean: 27.6 → 27.65  (0.5)" in result.stdout


@pytest.mark.usefixtures("clone")
def test_a_tampered_table_fails() -> None:
    write(edited(report(), "tables/restoration.csv", ("27.6", "28.6")))
    result = verify()
    assert result.exit_code == 1
    assert "deblur-k5-2.55 pnp-gd psnr mean: 27.6 → 28.6  (10)" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("Different: 1 different, ")


@pytest.mark.usefixtures("clone")
def test_verdict_changes_come_first_then_tables_by_size_of_change() -> None:
    new = edited(report(), "tables/convergence.csv", ("27.7,", "30.7,"))
    new = edited(new, "tables/restoration.csv", ("27.6", "27.9"))
    new = edited(new, "tables/tuning.csv", ("24.4", "24.41"))
    to = ('"verdict": "inconclusive"', '"verdict": "reproduced"')
    write(edited(edited(new, "claims.json", to), "metrics.json", to))
    result = verify()
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[1] == "VERDICT  restoration  inconclusive → reproduced"
    assert sum(line.startswith("VERDICT") for line in lines) == 1
    starts = [line.split()[0] for line in lines[3:-1] if not line.startswith(" ")]
    assert starts == [
        "claims.json", "metrics.json",
        "tables/convergence.csv", "tables/restoration.csv", "tables/tuning.csv",
    ]  # fmt: skip
    assert lines[-1].startswith("Different: 1 verdict changed, 4 different, 1 within tolerance, ")


@pytest.mark.usefixtures("clone")
def test_a_claim_that_is_gone_is_a_change_of_verdict() -> None:
    write(edited_json("claims.json", lambda claims: claims.pop()))
    result = verify()
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1] == "VERDICT  admm-convergence  reproduced → (absent)"


@pytest.mark.usefixtures("clone")
def test_missing_and_added_files_are_reported() -> None:
    Path("reports/demo/tables/tuning.csv").unlink()
    Path("reports/demo/tables/new.csv").write_text("a\n1\n")
    result = verify()
    assert result.exit_code == 1
    rows = [line.split()[:2] for line in result.stdout.splitlines()]
    assert ["tables/tuning.csv", "missing"] in rows
    assert ["tables/new.csv", "added"] in rows
    assert "1 missing, 1 added" in result.stdout.splitlines()[-1]


@pytest.mark.usefixtures("clone")
def test_against_an_older_revision() -> None:
    git("tag", "published")
    write(edited(report(), "tables/restoration.csv", ("27.6", "28.6")))
    newer = commit()
    assert verify().exit_code == 0
    assert verify("--against", newer[:10]).exit_code == 0
    for older in ("HEAD~1", "published"):
        result = verify("--against", older)
        assert result.exit_code == 1
        assert result.stdout.startswith(f"reports/demo against {older} (")
    assert git("status", "--porcelain") == ""


def test_in_a_folder_of_a_larger_repository(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = clone / "papers" / "reg"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    write(report())
    commit()
    write(edited(report(), "tables/restoration.csv", ("27.6", "27.7")))
    result = verify()
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("Within tolerances: 1 within tolerance, ")


@pytest.mark.usefixtures("folder")
def test_not_a_repository() -> None:
    write(report())
    assert_one_line_of_error(verify(), "not a git repository", "clone")


@pytest.mark.usefixtures("folder")
def test_a_repository_without_commits() -> None:
    git("init", "-q")
    write(report())
    assert_one_line_of_error(verify(), "--against HEAD", "no such revision")


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("revision", ["v9", "", "--all", "-h", "HEAD:reports", "HEAD~7"])
def test_no_such_revision(revision: str) -> None:
    result = verify(f"--against={revision}")
    assert_one_line_of_error(result, f"--against {revision}", "no such revision")


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize("profile", ["paper", "..", ".", "", "demo/tables", "/etc"])
def test_no_such_profile(profile: str) -> None:
    # An empty one is the one of params.yaml, which is not there either.
    assert_one_line_of_error(verify(profile=profile))


@pytest.mark.usefixtures("clone")
def test_a_profile_that_was_never_committed() -> None:
    Path("reports/tiny").mkdir()
    Path("reports/tiny/claims.json").write_text("[]\n")
    assert_one_line_of_error(verify(profile="tiny"), "reports/tiny", "HEAD", "demo")


@pytest.mark.usefixtures("clone")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("claims.json", b"[{"),
        ("claims.json", b"7"),
        ("metrics.json", b"\xff"),
        ("provenance.json", b""),
        ("tables/tuning.csv", b""),
        ("tables/tuning.csv", b"task,method\nonly one\n"),
        ("tables/tuning.csv", b"\xff\xfe"),
    ],
)
def test_a_file_that_cannot_be_read(name: str, content: bytes) -> None:
    Path("reports/demo", name).write_bytes(content)
    assert_one_line_of_error(verify(), name, "make reproduce")


@pytest.mark.usefixtures("clone")
def test_a_committed_file_that_cannot_be_read() -> None:
    write({**report(), "claims.json": b"[{"})
    commit()
    write(report())
    assert_one_line_of_error(verify(), "claims.json as committed", "--against")


def make_reproduce() -> list[str]:
    """The lines that `make reproduce` ends with, where dvc does nothing and reg only differs."""
    tools = Path(".venv", "bin")
    tools.mkdir(parents=True)
    for name, code in {"dvc": 0, "reg": 1}.items():
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*"\nexit {code}\n')
        (tools / name).chmod(0o755)
    Path("params.yaml").write_text("profile: demo\n")
    Path("Makefile").write_text(MAKEFILE.read_text(encoding="utf-8"), encoding="utf-8")
    for name in ("requirements.lock", "pyproject.toml", ".venv/.installed"):
        Path(name).touch()
    done = subprocess.run(
        ["make", "--no-print-directory", "reproduce"], check=True, capture_output=True, text=True
    )
    return done.stdout.splitlines()


@pytest.mark.usefixtures("clone")
def test_make_reproduce_ends_with_it_and_does_not_fail_on_it() -> None:
    assert make_reproduce()[-1] == "reg verify"


@pytest.mark.usefixtures("folder")
def test_make_reproduce_has_nothing_to_compare_with_in_an_unpacked_archive() -> None:
    write(report())
    assert make_reproduce()[-1] == "Figures, tables and claims: reports/demo/index.md"

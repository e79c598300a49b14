import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from reg.cli import main
from reg.networks import Denoiser, Regularizer, load_denoiser
from tests.command_line import assert_one_line_of_error

COMMITTED = Path(__file__).parents[1] / "params.yaml"
CLAIMS = [
    {
        "id": "restoration",
        "claim": "PnP-ReG beats the others.",
        "verdict": "not reproduced",
        "evidence": {"why": "It is behind by 1 dB."},
    },
    {
        "id": "unrolled",
        "claim": "ReG is a good start.",
        "verdict": "inconclusive",
        "evidence": {"why": "The interval holds 0."},
    },
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own that holds the committed params.yaml, and is the working directory."""
    (tmp_path / "params.yaml").write_text(COMMITTED.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(old: str, new: str) -> None:
    path = Path("params.yaml")
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


# --- check ---------------------------------------------------------------------------------


def test_check_says_what_would_run() -> None:
    change("profile: demo", "profile: tiny")
    result = call("check")
    assert result.exit_code == 0
    assert result.stdout == (
        "params.yaml is valid. Profile tiny, images from bundled photographs and dead leaves.\n"
    )


def test_check_names_the_data_folder(folder: Path) -> None:
    (folder / "photographs").mkdir()
    change('root: ""', "root: photographs")
    result = call("check")
    assert result.exit_code == 0
    assert "images from photographs" in result.stdout


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("lambda: null", "lambda: -1", ("params.yaml", "lambda = -1", "greater than or equal")),
        ("lambda: null", "lamda: 0.1", ("params.yaml", "unknown key lamda", "spelling")),
        ("profile: demo", "profile: dmo", ("params.yaml", "'dmo'", "use one of demo")),
        ("profile: demo", "profile: [demo", ("params.yaml", "not valid YAML")),
        ('root: ""', "root: nowhere", ("data.root", "nowhere", "no such folder", "params.yaml")),
        ('root: ""', "root: params.yaml", ("data.root", "params.yaml")),
    ],
)
def test_check_refuses_bad_input(old: str, new: str, parts: tuple[str, ...]) -> None:
    change(old, new)
    assert_one_line_of_error(call("check"), *parts)


def test_check_away_from_the_repository() -> None:
    Path("params.yaml").unlink()
    assert_one_line_of_error(call("check"), "params.yaml", "run from the repository")


# --- claims --------------------------------------------------------------------------------


def write_claims(profile: str, text: str) -> None:
    path = Path("reports", profile, "claims.json")
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")


def test_claims_are_printed_with_verdict_and_reason() -> None:
    write_claims("demo", json.dumps(CLAIMS))
    result = call("claims")
    assert result.exit_code == 0
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines == [
        "not reproduced  restoration: PnP-ReG beats the others.",
        "It is behind by 1 dB.",
        "inconclusive  unrolled: ReG is a good start.",
        "The interval holds 0.",
    ]


def test_claims_of_another_profile_need_no_parameters() -> None:
    write_claims("paper", json.dumps(CLAIMS[:1]))
    Path("params.yaml").unlink()
    result = call("claims", "--profile", "paper")
    assert result.exit_code == 0
    assert "restoration" in result.stdout


def test_claims_before_any_report() -> None:
    assert_one_line_of_error(call("claims"), "reports/demo/claims.json", "make reproduce")


@pytest.mark.parametrize("text", ["", "[{", '{"id": 3}', "[1]", '[{"id": "restoration"}]'])
def test_claims_in_a_damaged_file(text: str) -> None:
    write_claims("demo", text)
    assert_one_line_of_error(call("claims"), "reports/demo/claims.json")


def test_claims_with_bad_parameters() -> None:
    change("lambda: null", "lambda: -1")
    assert_one_line_of_error(call("claims"), "params.yaml", "lambda = -1")


# --- weights -------------------------------------------------------------------------------


def test_weights_go_in_and_out() -> None:
    network = Denoiser((4, 6, 8, 10), 1)
    torch.save({"params": network.network.state_dict()}, "drunet_color.pth")
    count = sum(weight.numel() for weight in network.parameters())
    described = f"denoiser, channels 4-6-8-10, blocks 1, {count:,} weights"

    result = call("weights", "import", "drunet_color.pth")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"weights/drunet_color.safetensors: {described}\n"
    assert load_denoiser(Path("weights/drunet_color.safetensors")).network.channels == (4, 6, 8, 10)

    arguments = ("weights/drunet_color.safetensors", "--format", "kair", "-o", "back.pth")
    result = call("weights", "export", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"back.pth: {described}, format kair\n"
    back = torch.load("back.pth", weights_only=True)
    assert all(torch.equal(back[k], v) for k, v in network.network.state_dict().items())


def test_import_to_a_place_of_choice() -> None:
    networks = {"model": Denoiser((2, 2, 2, 2), 1), "model2": Regularizer((2, 2, 2, 2), 1)}
    torch.save({key: net.network.state_dict() for key, net in networks.items()}, "checkpoint.pth")
    target = "weights/paper/train_reg/regularizer.safetensors"
    assert_one_line_of_error(call("weights", "import", "checkpoint.pth"), "--key", "model2")
    result = call("weights", "import", "checkpoint.pth", "--key", "model2", "-o", target)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{target}: regularizer")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["import", "nowhere.pth"], "nowhere.pth"),
        (["import", "params.yaml"], "params.yaml"),
        (["export", "params.yaml", "--format", "kair", "-o", "out.pth"], "params.yaml"),
        (["export", "params.yaml", "--format", "onnx", "-o", "out.onnx"], "params.yaml"),
        (["release", "--profile", "nowhere"], "nowhere"),
        (["download", "nowhere.pth"], "neither a URL nor one of drunet_color.pth"),
        (["download", "https://example.org/a.pth"], "--sha256"),
        (["download", "http://127.0.0.1:9/a.pth", "--sha256", "0" * 64], "cannot be downloaded"),
    ],
)
def test_weights_that_cannot_be_used(
    arguments: list[str], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    assert_one_line_of_error(call("weights", *arguments), part)


def test_weights_that_cannot_be_written() -> None:
    torch.save(Denoiser((2, 2, 2, 2), 1).network.state_dict(), "given.pth")
    result = call("weights", "import", "given.pth", "-o", "params.yaml/out.safetensors")
    assert_one_line_of_error(result, "params.yaml")


# --- the group -----------------------------------------------------------------------------


def test_help_lists_the_commands() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert "check" in result.stdout
    assert "claims" in result.stdout


def test_an_unknown_command_is_refused() -> None:
    result = call("chek")
    assert result.exit_code == 2
    assert "chek" in result.stderr

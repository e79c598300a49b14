import errno
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner, Result

from reg.cli import main
from reg.networks import Denoiser, Regularizer, load_denoiser, save_network
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


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            ("export", "D.safetensors", "--format", "kair", "-o", "D.safetensors"),
            "must end in .pth",
        ),
        (("export", "D.safetensors", "--format", "kair", "-o", "there.pth"), "there.pth: exists"),
        (("export", "D.safetensors", "--format", "onnx", "-o", "D.pth"), "must end in .onnx"),
        (("import", "given.pth", "-o", "given.pth"), "must end in .safetensors"),
        (("import", "given.pth", "-o", "D.safetensors"), "D.safetensors: exists"),
        (("import", "given.pth", "-o", "./link.safetensors", "--force"), "is the input itself"),
        (("import", "D.safetensors", "-o", "again.safetensors"), "copy it"),
    ],
)
def test_weights_are_not_written_over_others(arguments: tuple[str, ...], part: str) -> None:
    network = Denoiser((2, 2, 2, 2), 1)
    save_network(network, Path("D.safetensors"))
    torch.save(network.network.state_dict(), "given.pth")
    Path("there.pth").write_bytes(b"precious")
    Path("link.safetensors").symlink_to("given.pth")
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    assert_one_line_of_error(call("weights", *arguments), part)
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


def test_weights_are_overwritten_by_force() -> None:
    network = Denoiser((2, 2, 2, 2), 1)
    torch.save(network.network.state_dict(), "given.pth")
    for options in ((), ("--force",)):
        assert call("weights", "import", "given.pth", *options).exit_code == 0
    arguments = ("weights/given.safetensors", "--format", "kair", "-o", "given.pth", "--force")
    assert call("weights", "export", *arguments).exit_code == 0
    back = torch.load("given.pth", weights_only=True)
    assert all(torch.equal(back[k], v) for k, v in network.network.state_dict().items())


def test_the_help_of_export_says_what_fits_where() -> None:
    assert "residual form" in call("weights", "export", "--help").stdout


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
        (["release", "--profile", "nowhere"], "models/nowhere: no such folder"),
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


@pytest.mark.parametrize("group", [(), ("weights",)])
def test_summaries_of_commands_are_whole(group: tuple[str, ...]) -> None:
    result = call(*group, "--help")
    assert result.exit_code == 0
    summaries = result.stdout.partition("Commands:")[2].splitlines()[1:]
    assert len(summaries) >= 4
    assert all(line.endswith(".") and not line.endswith("...") for line in summaries)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("chek",), ("chek", "`reg --help`")),
        (("--chek",), ("--chek", "`reg --help`")),
        (("check", "more"), ("more", "`reg check --help`")),
        (("verify", "--against"), ("--against", "`reg verify --help`")),
        (("weights", "exprt"), ("exprt", "`reg weights --help`")),
        (("weights", "--all"), ("--all", "`reg weights --help`")),
        (("weights", "export"), ("FILE", "`reg weights export --help`")),
        (("weights", "export", "x", "--format", "foo", "-o", "y"), ("'foo'", "'kair', 'onnx'")),
        (("weights", "import", "."), ("is a directory", "`reg weights import --help`")),
        (("weights", "import", ""), ("is empty", "`reg weights import --help`")),
        (("restore", "a.png", "-o", "", "--task", "denoise"), ("-o", "is empty")),
        (("degrade",), ("INPUTS", "`reg degrade --help`")),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert_one_line_of_error(result, *parts)
    assert "?." not in result.stderr


def test_a_group_alone_shows_its_commands() -> None:
    for group in ((), ("weights",)):
        result = call(*group)
        assert "Commands:" in result.output
        assert "error:" not in result.output


# --- who reads the output ------------------------------------------------------------------


def test_a_closed_pipe_is_no_error_of_the_user() -> None:
    write_claims("demo", json.dumps(CLAIMS))
    code = "from reg.cli import main; main(['claims'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


@pytest.mark.parametrize(
    ("error", "exit_code", "stderr"),
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: No space left on device\n"),
        (OSError("no device"), 2, "error: no device\n"),
    ],
)
def test_what_cannot_be_printed(
    error: OSError, exit_code: int, stderr: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(text: str) -> None:
        raise error

    torch.save(Denoiser((2, 2, 2, 2), 1).network.state_dict(), "given.pth")
    monkeypatch.setattr(click, "echo", refuse)
    result = call("weights", "import", "given.pth")
    assert (result.exit_code, result.stderr) == (exit_code, stderr)

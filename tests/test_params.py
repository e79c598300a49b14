"""Bad input must end in one line that names the file, the key, the value and the mend."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from reg.errors import InputError
from reg.params import Params, read_params

COMMITTED = Path(__file__).parents[1] / "params.yaml"
Raw = dict[str, Any]


@pytest.fixture
def raw() -> Raw:
    """The committed params.yaml as plain values, with the profile `tiny` alone."""
    content: Raw = YAML(typ="safe", pure=True).load(COMMITTED)
    content["profile"] = "tiny"
    content["profiles"] = {"tiny": content["profiles"]["tiny"]}
    return content


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "params.yaml"


def read(raw: Raw, file: Path) -> Params:
    with file.open("w", encoding="utf-8") as stream:
        YAML(typ="safe", pure=True).dump(raw, stream)
    return read_params(file)


def refused(file: Path) -> str:
    """The message with which params.yaml is refused, without the file that it must begin with."""
    with pytest.raises(InputError) as caught:
        read_params(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    return message.removeprefix(f"{file}: ")


def with_value(raw: Raw, key: str, value: object) -> Raw:
    """Sets a dotted key below the profile `tiny`, or at the top level where it has no dot."""
    *sections, last = key.split(".")
    place = raw["profiles"]["tiny"] if sections else raw
    for section in sections:
        place = place[section]
    place[last] = value
    return raw


# --- what is accepted ----------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["demo", "bsd", "paper", "tiny"])
def test_committed_profiles_are_valid(profile: str, file: Path) -> None:
    text = COMMITTED.read_text(encoding="utf-8")
    chosen, changes = re.subn(r"^profile: \w+$", f"profile: {profile}", text, flags=re.MULTILINE)
    assert changes == 1
    file.write_text(chosen, encoding="utf-8")
    params = read_params(file)
    assert params.active is params.profiles[profile]
    assert params.folder("models", "pretrain") == Path("models", profile, "pretrain")


@pytest.mark.parametrize("profile", ["demo", "bsd", "paper", "tiny"])
def test_test_images_suit_every_task_of_their_profile(profile: str) -> None:
    # Super-resolution needs sides that are multiples of its factor; 12 serves 2, 3 and 4.
    sizes = read_params(COMMITTED).profiles[profile].prepare.sizes
    for side in (sizes.validation, sizes.test):
        assert side is None or side % 12 == 0


@pytest.mark.parametrize("text", ["1e-05", "1.0e-5", "0.00001"])
def test_a_lambda_as_dvc_writes_it_is_a_number(text: str, raw: Raw, file: Path) -> None:
    # `dvc exp run -S lambda=0.00001` writes 1e-05, which YAML 1.1 takes for a string.
    with file.open("w", encoding="utf-8") as stream:
        YAML(typ="safe", pure=True).dump(with_value(raw, "lambda", 12345), stream)
    file.write_text(file.read_text().replace("lambda: 12345", f"lambda: {text}"))
    assert read_params(file).active.train_reg.lambda_ == 1e-5


def test_the_lambda_of_the_top_level_wins(raw: Raw, file: Path) -> None:
    params = read(with_value(raw, "lambda", 0.25), file)
    assert params.active.train_reg.lambda_ == 0.25
    untouched = params.active.model_dump()
    own = params.profiles["tiny"].model_dump()
    assert own["train_reg"].pop("lambda_") == 1.0
    untouched["train_reg"].pop("lambda_")
    assert untouched == own


def test_a_lambda_of_zero_wins_too(raw: Raw, file: Path) -> None:
    assert read(with_value(raw, "lambda", 0), file).active.train_reg.lambda_ == 0


@pytest.mark.parametrize("own", [0.5, 2.0])
def test_null_leaves_each_profile_its_own_lambda(own: float, raw: Raw, file: Path) -> None:
    with_value(with_value(raw, "lambda", None), "train_reg.lambda", own)
    params = read(raw, file)
    assert params.active.train_reg.lambda_ == own


def test_without_the_key_each_profile_has_its_own_lambda(raw: Raw, file: Path) -> None:
    del raw["lambda"]
    assert read(raw, file).active.train_reg.lambda_ == 1.0


def test_a_negative_seed_is_named(raw: Raw, file: Path) -> None:
    with pytest.raises(InputError, match=r"train_reg\.seeds\.1 = -1: .*greater than or equal to 0"):
        read(with_value(raw, "train_reg.seeds", [0, -1]), file)


def test_how_many_seeds_there_are_is_no_part_of_what_one_training_records(
    raw: Raw, file: Path
) -> None:
    records = [
        read(with_value(raw, "train_reg.seeds", seeds), file).active.train_reg.record()
        for seeds in ([0], [0, 1, 5])
    ]
    assert records[0] == records[1]
    assert "seeds" not in records[0]


@pytest.mark.parametrize("value", [-1, "much"])
def test_a_budget_is_a_number_of_megabytes(value: object, raw: Raw, file: Path) -> None:
    raw["data"]["memory_mb"] = value
    with pytest.raises(InputError):
        read(raw, file)
    assert refused(file).startswith(f"data.memory_mb = {value!r}: ")


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["lamda", "pretrain.momentum", "prepare.dead_leaves.number", "prepare.sizes.trian"]
)
def test_an_unknown_key_is_named(key: str, raw: Raw, file: Path) -> None:
    with pytest.raises(InputError):
        read(with_value(raw, key, 3), file)
    full = f"profiles.tiny.{key}" if "." in key else key
    assert refused(file) == f"unknown key {full}; correct its spelling or remove it"


def test_an_unknown_section_is_named(raw: Raw, file: Path) -> None:
    raw["profiles"]["tiny"]["finetune"] = {"steps": 3}
    with pytest.raises(InputError):
        read(raw, file)
    assert refused(file).startswith("unknown key profiles.tiny.finetune;")


@pytest.mark.parametrize("key", ["learning_rate", "iterations", "channels"])
def test_a_misspelling_is_named_rather_than_the_key_that_it_hides(
    key: str, raw: Raw, file: Path
) -> None:
    section = raw["profiles"]["tiny"]["pretrain"]
    section[f"{key}x"] = section.pop(key)
    with pytest.raises(InputError):
        read(raw, file)
    assert f"profiles.tiny.pretrain.{key}x" in refused(file)


@pytest.mark.parametrize(
    "key", ["seed", "profile", "data", "profiles", "tune.trials", "train_reg.lambda"]
)
def test_a_missing_key_is_named(key: str, raw: Raw, file: Path) -> None:
    *sections, last = key.split(".")
    del (raw["profiles"]["tiny"][sections[0]] if sections else raw)[last]
    with pytest.raises(InputError):
        read(raw, file)
    full = f"profiles.tiny.{key}" if sections else key
    assert refused(file).startswith(f"key {full} is missing; add it")


def test_a_missing_section_is_named(raw: Raw, file: Path) -> None:
    del raw["profiles"]["tiny"]["ablate"]
    with pytest.raises(InputError):
        read(raw, file)
    assert refused(file) == "key profiles.tiny.ablate is missing; add it"


@pytest.mark.parametrize(
    ("key", "value", "mend"),
    [
        ("lambda", -0.01, "greater than or equal to 0"),
        ("lambda", "much", "number"),
        ("lambda", [1], "number"),
        ("lambda", float("nan"), ""),
        ("lambda", float("inf"), ""),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 0.5, "integer"),
        ("seed", "zero", "integer"),
        ("profile", None, "string"),
        ("train_reg.lambda", -1.0, "greater than or equal to 0"),
        ("train_reg.seeds", [], "at least 1 item"),
        ("train_reg.seeds", [0, 0], "each listed once"),
        ("train_reg.seeds", [1, 0], "seeds must ascend"),
        ("train_reg.form", "plane", "'plain' or 'residual'"),
        ("train_reg.start", "denoise", "'random' or 'denoiser'"),
        ("train_reg.scale", 0, "greater than 0"),
        ("train_reg.scale", float("inf"), ""),
        ("train_reg.learning_rate", float("nan"), ""),
        ("train_reg.learning_rate", float("inf"), ""),
        ("pretrain.crop", 60, "multiple of 8"),
        ("pretrain.iterations", 0, "greater than 0"),
        ("pretrain.iterations", "many", "integer"),
        ("pretrain.blocks", 0, "greater than 0"),
        ("pretrain.schedule", "cosin", "'cosine' or 'halving'"),
        ("pretrain.precision", "fp16", "'auto', 'fp32' or 'bf16'"),
        ("pretrain.clip_gradient", -1, "greater than 0"),
        ("tune.crop", 50, "multiple of 12"),
        ("tune.trials", 0, "greater than or equal to 1"),
        ("tune.tolerance", -1e-4, "greater than or equal to 0"),
        ("evaluate_denoising.sigmas", [], "at least 1"),
        ("evaluate_denoising.sigmas", [15, 25, 15.0], "list it once"),
        ("evaluate_restoration.tolerance", float("nan"), ""),
        ("evaluate_restoration.methods", ["pnp-gd", "red", "pnp-gd@updated"], "list it once"),
        ("prepare.dead_leaves.radii", [30.0, 3.0], "must ascend"),
        ("seed", 2**62, "less than"),
        ("accelerate.tasks", [], "at least 1"),
        ("accelerate.short", 0, "greater than or equal to 1"),
        ("accelerate.crop", 50, "multiple of 12"),
        ("train_gs.iterations", 0, "greater than 0"),
        ("evaluate_restoration.tasks", [], "at least 1"),
        ("evaluate_restoration.methods", [], "at least 1"),
        ("evaluate_convergence.crop", "all", "integer"),
        ("finetune_unrolled.sigma", 0, "greater than 0"),
        ("finetune_unrolled.steps", 0, "greater than or equal to 1"),
        ("prepare.sizes.train", 8, "greater than or equal to 64"),
        ("prepare.sizes.test", 100, "multiple of 12"),
        ("prepare.sizes.validation", 256, "multiple of 12"),
        ("prepare.dead_leaves.count", -1, "greater than or equal to 0"),
    ],
)
def test_a_bad_value_is_named_with_its_mend(
    key: str, value: object, mend: str, raw: Raw, file: Path
) -> None:
    with pytest.raises(InputError):
        read(with_value(raw, key, value), file)
    message = refused(file)
    full = f"profiles.tiny.{key}" if "." in key else key
    assert message.startswith(f"{full} = {value!r}: ")
    assert mend in message


def test_a_noise_level_that_no_task_name_can_hold_is_named(raw: Raw, file: Path) -> None:
    with pytest.raises(InputError):
        read(with_value(raw, "evaluate_denoising.sigmas", [15, 1e-5]), file)
    assert "evaluate_denoising.sigmas.1 = 1e-05: " in refused(file)


def test_crops_must_suit_the_factor_of_a_task(raw: Raw, file: Path) -> None:
    tasks = with_value(raw, "finetune_unrolled.tasks", ["deblur-k5-2.55", "sr-x3-2.55"])
    with pytest.raises(InputError):
        read(tasks, file)
    message = refused(file)
    assert message.startswith("profiles.tiny.finetune_unrolled: crop must be a multiple of 3")
    assert read(with_value(tasks, "finetune_unrolled.crop", 24), file)


@pytest.mark.parametrize("channels", [[4, 4, 8], [4, 4, 8, 0], [4, -4, 8, 8], [4, 4, 8, "8x"]])
def test_channels_are_four_positive_numbers(channels: list[Any], raw: Raw, file: Path) -> None:
    with pytest.raises(InputError):
        read(with_value(raw, "pretrain.channels", channels), file)
    assert "profiles.tiny.pretrain.channels" in refused(file)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evaluate_restoration.tasks", ["inpaint-20", "deblur-k9-2.55"]),
        ("evaluate_restoration.keep_images", ["deblur-k9-2.55"]),
        ("ablate.tasks", ["deblur-k9-2.55"]),
        ("accelerate.tasks", ["sr-x2-2.55", "deblur-k9-2.55"]),
        ("finetune_unrolled.tasks", ["deblur-k9-2.55"]),
    ],
)
def test_an_unknown_task_is_named_with_the_grammar(
    key: str, value: object, raw: Raw, file: Path
) -> None:
    with pytest.raises(InputError):
        read(with_value(raw, key, value), file)
    message = refused(file)
    assert f"profiles.tiny.{key}" in message
    assert "task 'deblur-k9-2.55'" in message
    assert "deblur-<k0…k7>-<sigma>" in message


@pytest.mark.parametrize("method", ["pnp-gp", "pnp-gd@nowhere", "pnp-gd+x4"])
def test_an_unknown_method_is_named_with_those_known(method: str, raw: Raw, file: Path) -> None:
    with pytest.raises(InputError):
        read(with_value(raw, "evaluate_restoration.methods", ["red", method]), file)
    message = refused(file)
    assert "profiles.tiny.evaluate_restoration.methods" in message
    assert method in message
    assert "must be" in message


def test_methods_with_an_arm_or_turned_otherwise_are_taken(raw: Raw, file: Path) -> None:
    methods = ["pnp-gd", "red", "pnp-admm", "pnp-gd@fixed+x1", "gs-pnp", "tv"]
    params = read(with_value(raw, "evaluate_restoration.methods", methods), file)
    assert params.active.evaluate_restoration.methods == tuple(methods)


def test_an_unknown_profile_is_named_with_those_defined(raw: Raw, file: Path) -> None:
    with pytest.raises(InputError):
        read(with_value(raw, "profile", "tinny"), file)
    assert refused(file) == "profile 'tinny' is not defined, use one of tiny"


def test_a_fault_in_a_profile_that_is_not_in_use_is_named_too(raw: Raw, file: Path) -> None:
    raw["profiles"]["other"] = deepcopy(raw["profiles"]["tiny"])
    raw["profiles"]["other"]["tune"]["trial"] = 3
    with pytest.raises(InputError):
        read(raw, file)
    assert "profiles.other.tune.trial" in refused(file)


def test_several_faults_are_counted_in_the_one_line(raw: Raw, file: Path) -> None:
    with pytest.raises(InputError):
        read(with_value(with_value(raw, "seed", -1), "tune.trials", 0), file)
    message = refused(file)
    assert message.startswith("seed = -1: ")
    assert message.endswith("(and 1 more)")


# --- files that are none -------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["profile: [demo", "seed: 0\nseed: 1\n", "a: b: c", "\tprofile: demo", "profile: \x00"],
)
def test_invalid_yaml_is_one_line_with_its_place(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")
    message = refused(file)
    assert message.startswith("not valid YAML: ")
    assert "line 1" in message or "position" in message


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- demo\n", "demo\n"])
def test_yaml_that_holds_no_keys(text: str, file: Path) -> None:
    file.write_text(text, encoding="utf-8")
    message = refused(file)
    assert not message.startswith(" ")  # there is no key to name
    assert "instance of" not in message  # nor is a Python type of interest


def test_a_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00\x01")
    assert refused(file)


def test_a_missing_file_says_where_to_be(file: Path) -> None:
    message = refused(file)
    assert "No such file" in message
    assert "run from the repository" in message


def test_a_folder_is_no_file(file: Path) -> None:
    file.mkdir()
    assert "directory" in refused(file)

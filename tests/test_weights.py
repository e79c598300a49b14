import argparse
import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from torch import Tensor

import reg.weights
import stages.prepare
import stages.pretrain
import stages.train_reg
from reg.errors import InputError
from reg.networks import (
    Denoiser,
    DRUNet,
    Network,
    Regularizer,
    given_weights,
    imported_from,
    initialise,
    load_denoiser,
    load_regularizer,
    read_metadata,
    save_network,
    write_weights,
)
from reg.params import Params, read_params
from reg.training import seeded
from reg.weights import (
    PUBLISHED,
    Published,
    check_target,
    download,
    export_kair,
    export_onnx,
    find_networks,
    import_weights,
)

ROOT = Path(__file__).parents[1]
CHANNELS, BLOCKS = (4, 6, 8, 10), 2
State = dict[str, Any]


def official_names(blocks: int) -> list[str]:
    """The keys of the official state dicts in their order, written from the published layout."""

    def res(place: str, first: int) -> list[str]:
        return [f"{place}.{first + b}.res.{k}.weight" for b in range(blocks) for k in (0, 2)]

    names = ["m_head.weight"]
    for k in (1, 2, 3):
        names += [*res(f"m_down{k}", 0), f"m_down{k}.{blocks}.weight"]
    names += res("m_body", 0)
    for k in (3, 2, 1):
        names += [f"m_up{k}.0.weight", *res(f"m_up{k}", 1)]
    return [*names, "m_tail.weight"]


def official(
    inputs: int = 4, channels: tuple[int, ...] = CHANNELS, blocks: int = BLOCKS, seed: int = 0
) -> "OrderedDict[str, Tensor]":
    """Random weights in the official layout: names, order and shapes from the published files."""
    generator = torch.Generator().manual_seed(seed)
    level = {"m_body": 3} | {f"m_{way}{k}": k - 1 for way in ("down", "up") for k in (1, 2, 3)}
    state = OrderedDict()
    for name in official_names(blocks):
        place = name.split(".")[0]
        width = channels[level.get(place, 0)]
        shape = (width, width, 3, 3)
        if place == "m_head":
            shape = (width, inputs, 3, 3)
        elif place == "m_tail":
            shape = (3, width, 3, 3)
        elif "res" not in name:  # 2x2 to or from the next coarser scale
            coarse = channels[level[place] + 1]
            shape = (coarse, width, 2, 2)  # torch stores transposed convolutions input first
        state[name] = torch.randn(shape, generator=generator)
    return state


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype
        assert value.shape == other[name].shape
        assert value.numpy().tobytes() == other[name].numpy().tobytes(), name


def reading(path: Path) -> Network:
    kind = read_metadata(path)["kind"]
    return load_denoiser(path) if kind == "denoiser" else load_regularizer(path)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(call: Callable[[], object], *parts: str) -> None:
    """The call ends with one line that names all of `parts`, and leaves no output."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def refused_import(content: object, *parts: str) -> None:
    torch.save(content, "given.pth")
    refused(lambda: import_weights(Path("given.pth"), Path("out.safetensors")), "given.pth", *parts)
    assert not Path("out.safetensors").exists()


# --- import --------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "kind"), [(4, Denoiser), (3, Regularizer)])
def test_head_width_decides_and_sizes_follow_from_shapes(inputs: int, kind: type) -> None:
    state = official(inputs)
    torch.save(state, "given.pth")
    said = import_weights(Path("given.pth"), Path("weights/out.safetensors"))
    network = reading(Path("weights/out.safetensors"))
    for one in (said, network):
        assert isinstance(one, kind)
        assert (one.network.channels, one.network.blocks) == (CHANNELS, BLOCKS)
        assert_same(state, one.network.state_dict())
    if isinstance(network, Regularizer):
        assert (network.form, network.scale) == ("plain", 1.0)
        x = torch.rand(1, 3, 16, 16)
        assert torch.equal(network(x), network.network(x))


@pytest.mark.parametrize("blocks", [1, 3])
def test_any_depth(blocks: int) -> None:
    torch.save(official(3, (2, 2, 2, 2), blocks), "given.pth")
    network = import_weights(Path("given.pth"), Path("out.safetensors"))
    assert (network.network.channels, network.network.blocks) == ((2, 2, 2, 2), blocks)


def test_both_formats_of_pytorch_files() -> None:
    # Files older than torch 1.6 are no zip archives.
    for zipped in (True, False):
        torch.save(official(), "given.pth", _use_new_zipfile_serialization=zipped)
        import_weights(Path("given.pth"), Path("out.safetensors"))
        assert_same(official(), reading(Path("out.safetensors")).network.state_dict())


def prefixed(prefix: str, state: State) -> State:
    return OrderedDict((prefix + name, value) for name, value in state.items())


WRAPPINGS: dict[str, Callable[[State], object]] = {
    "bare": lambda state: state,
    "dict": dict,
    "parameters": lambda state: {k: torch.nn.Parameter(v) for k, v in state.items()},
    "views of one buffer": lambda state: as_views(state),
    **{
        key: lambda state, key=key: {key: state, "epoch": 3, "optimizer": {"state": {0: [1.0]}}}
        for key in ("state_dict", "params", "params_ema", "model", "model_state_dict", "net_g")
    },
    **{
        prefix: lambda state, prefix=prefix: prefixed(prefix, state)
        for prefix in ("module.", "model.", "netG.", "module.netG.", "_orig_mod.")
    },
    "nested": lambda state: {"checkpoint": {"state_dict": prefixed("model.module.", state)}},
}


def as_views(state: State) -> State:
    flat = torch.cat([value.flatten() for value in state.values()])
    parts = flat.split([value.numel() for value in state.values()])
    return {k: part.view(v.shape) for (k, v), part in zip(state.items(), parts, strict=True)}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_wrapping_gives_the_same_file(wrapping: str) -> None:
    torch.save(WRAPPINGS[wrapping](official()), "given.pth")
    import_weights(Path("given.pth"), Path("out.safetensors"))
    assert_same(official(), reading(Path("out.safetensors")).network.state_dict())


def test_layers_that_share_a_tensor() -> None:
    state = official()
    state["m_body.1.res.0.weight"] = state["m_body.0.res.0.weight"]
    torch.save(state, "given.pth")
    import_weights(Path("given.pth"), Path("out.safetensors"))
    assert_same(state, reading(Path("out.safetensors")).network.state_dict())


def checkpoint() -> State:
    """What the authors' training keeps: D, G, Adam, and the states of random generators."""
    denoiser = DRUNet(4, CHANNELS, BLOCKS)
    optimiser = torch.optim.Adam(denoiser.parameters())
    denoiser(torch.rand(1, 4, 8, 8)).sum().backward()
    optimiser.step()
    return {
        "model": official(4),
        "optimizer": optimiser.state_dict(),
        "torch_rng": torch.Generator().get_state(),
        "numpy_rng": np.random.RandomState(0).get_state(),
        "gpu_count": 0,
        "model2": official(3),
        "gen_sigma_method": "sigmas_uni_batch",
    }


@pytest.mark.parametrize(("key", "inputs"), [("model", 4), ("model2", 3)])
def test_a_training_checkpoint_holds_both_networks(key: str, inputs: int) -> None:
    torch.save(checkpoint(), "given.pth")
    import_weights(Path("given.pth"), Path("out.safetensors"), key)
    assert_same(official(inputs), reading(Path("out.safetensors")).network.state_dict())
    assert read_metadata(Path("out.safetensors"))["training"]["key"] == key


def test_a_checkpoint_that_was_written_with_numpy_1() -> None:
    torch.save(checkpoint(), "given.pth", _use_new_zipfile_serialization=False)
    content = Path("given.pth").read_bytes()
    renamed = content.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")
    assert renamed != content
    Path("given.pth").write_bytes(renamed)
    import_weights(Path("given.pth"), Path("out.safetensors"), "model2")
    assert_same(official(3), reading(Path("out.safetensors")).network.state_dict())


def test_several_networks_need_a_choice() -> None:
    refused_import(checkpoint(), "several", "--key", "model, model2")
    refused_import({"params": official(), "params_ema": official()}, "params, params_ema")
    flat = prefixed("denoiser.", official(4)) | prefixed("regularizer.", official(3))
    refused_import(flat, "denoiser, regularizer")
    torch.save(flat, "given.pth")
    network = import_weights(Path("given.pth"), Path("out.safetensors"), "regularizer")
    assert_same(official(3), network.network.state_dict())


def test_a_prefix_may_begin_another_one() -> None:
    for outer, inner in (("", "ema."), ("net.", "net.ema.")):
        torch.save(prefixed(inner, official(3)) | prefixed(outer, official(4)), "given.pth")
        keys = {outer.rstrip(".") or "(bare)": 4, inner.rstrip("."): 3}
        for key, inputs in keys.items():
            network = import_weights(Path("given.pth"), Path("out.safetensors"), key)
            assert_same(official(inputs), network.network.state_dict())


def test_a_key_that_is_not_there() -> None:
    torch.save({"params": official()}, "given.pth")
    refused(
        lambda: import_weights(Path("given.pth"), Path("out.safetensors"), "params_ema"),
        "key params_ema",
        "there is: params",
    )
    refused(
        lambda: import_weights(Path("given.pth"), Path("out.safetensors"), "(bare)"), "key (bare)"
    )


@pytest.mark.parametrize(
    ("dtype", "fits"),
    [
        (torch.float16, True),
        (torch.bfloat16, True),
        (torch.float64, False),
        (torch.int32, False),
        (torch.complex64, False),
    ],
)
def test_only_types_that_float32_holds_exactly(dtype: torch.dtype, fits: bool) -> None:
    state = official()
    state["m_tail.weight"] = state["m_tail.weight"].to(dtype)
    if not fits:
        refused_import(state, "m_tail.weight", str(dtype), "float32")
        return
    torch.save(state, "given.pth")
    import_weights(Path("given.pth"), Path("out.safetensors"))
    tail = reading(Path("out.safetensors")).network.m_tail.weight
    assert torch.equal(tail, state["m_tail.weight"].float())


def test_the_origin_is_recorded() -> None:
    torch.save(official(), "drunet.pth")
    import_weights(Path("drunet.pth"), Path("out.safetensors"))
    sha256 = hashlib.sha256(Path("drunet.pth").read_bytes()).hexdigest()
    record = {"imported": "drunet.pth", "sha256": sha256}
    assert read_metadata(Path("out.safetensors"))["training"] == record
    assert imported_from(Path("out.safetensors")) == {
        "imported": "out.safetensors",
        "sha256": hashlib.sha256(Path("out.safetensors").read_bytes()).hexdigest(),
        "training": record,
    }


def test_the_same_file_gives_the_same_bytes() -> None:
    torch.save(official(), "given.pth")
    for name in ("one", "two"):
        import_weights(Path("given.pth"), Path(name))
    assert Path("one").read_bytes() == Path("two").read_bytes()


def test_importing_leaves_global_randomness_alone() -> None:
    torch.save(official(), "given.pth")
    before = torch.random.get_rng_state()
    import_weights(Path("given.pth"), Path("out.safetensors"))
    assert torch.equal(before, torch.random.get_rng_state())


# --- what does not fit ---------------------------------------------------------------------


def changed(key: str, value: object) -> State:
    return official() | {key: value}


def without(key: str) -> State:
    return {name: value for name, value in official().items() if name != key}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (lambda: {}, ["no DRUNet", "m_head.weight"]),
        (lambda: [official()], ["no DRUNet"]),
        (lambda: torch.zeros(3), ["no DRUNet"]),
        (lambda: {"conv.weight": torch.zeros(4, 3, 3, 3)}, ["no DRUNet"]),
        (lambda: official(2), ["m_head.weight", "(4, 2, 3, 3)", "4 input channels"]),
        (lambda: changed("m_head.weight", torch.zeros(4)), ["m_head.weight", "four dimensions"]),
        (lambda: changed("m_head.weight", 3), ["m_head.weight", "not a tensor"]),
        (lambda: changed("m_head.bias", torch.zeros(4)), ["the key m_head.bias", "bias-free"]),
        (lambda: changed("step", 3), ["the key step"]),
        (lambda: without("m_tail.weight"), ["lacks the key m_tail.weight"]),
        (lambda: without("m_down2.2.weight"), ["lacks the key m_down2.2.weight"]),
        (lambda: without("m_body.1.res.2.weight"), ["lacks the key m_body.1.res.2.weight"]),
        (
            lambda: {k: v for k, v in official().items() if not k.startswith("m_body")},
            ["lacks the key m_down1.0.weight"],
        ),
        (
            lambda: changed("m_up2.0.weight", torch.zeros(8, 5, 2, 2)),
            ["m_up2.0.weight", "(8, 5, 2, 2)", "(8, 6, 2, 2)"],
        ),
        (
            lambda: changed("m_tail.weight", torch.zeros(1, 4, 3, 3)),
            ["m_tail.weight", "(1, 4, 3, 3)", "(3, 4, 3, 3)"],
        ),
        (
            lambda: changed("m_tail.weight", torch.full((3, 4, 3, 3), torch.nan)),
            ["m_tail.weight", "not finite"],
        ),
        (lambda: prefixed("module.", official()) | {"step": 3}, ["the key step"]),
    ],
)
def test_what_does_not_fit_is_named(content: Callable[[], object], parts: list[str]) -> None:
    refused_import(content(), *parts)


class Code:
    """Loaded by an unguarded unpickler, it leaves a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (Code, "mkdir"),
        (lambda: argparse.Namespace(epochs=3), "argparse.Namespace"),
        (lambda: DRUNet(4, CHANNELS, BLOCKS), "reg.networks.DRUNet"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_holds_code_is_refused(
    made: Callable[[], object], name: str, zipped: bool
) -> None:
    content = {"model": official(), "extra": made()}
    torch.save(content, "given.pth", _use_new_zipfile_serialization=zipped)
    refused(
        lambda: import_weights(Path("given.pth"), Path("out.safetensors")),
        "given.pth",
        name,
        "could run code",
    )
    assert not Path("executed").exists()
    # An unguarded reader does run the first one: the test would notice.
    if made is Code:
        torch.load("given.pth", weights_only=False)
        assert Path("executed").is_dir()


def whole() -> bytes:
    torch.save(official(), "whole.pth")
    return Path("whole.pth").read_bytes()


@pytest.mark.parametrize(
    "damaged",
    [
        lambda: b"",
        lambda: b"no weights",
        lambda: b"<!DOCTYPE html><html>Not Found</html>" * 100,
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:8ad8\nsize 130587453\n",
        lambda: whole()[:1000],
        lambda: whole()[: len(whole()) // 2],
        lambda: whole()[:-1],
        lambda: whole()[1000:],
    ],
    ids=["empty", "text", "page", "pointer", "beginning", "half", "less a byte", "end"],
)
def test_damaged_files_are_named(damaged: Callable[[], bytes]) -> None:
    Path("given.pth").write_bytes(damaged())
    refused(
        lambda: import_weights(Path("given.pth"), Path("out.safetensors")), "given.pth", "damaged"
    )


def test_missing_files_and_folders_are_named() -> None:
    missing, target = Path("nowhere.pth"), Path("out.safetensors")
    refused(lambda: import_weights(missing, target), "nowhere.pth", "no such weights file")
    refused(lambda: import_weights(Path("."), target), "cannot be read")
    refused(lambda: export_kair(missing, target), "nowhere.pth", "no such weights file")


def test_weights_of_this_package_are_not_imported() -> None:
    # torch reads their tensors, so that G of the residual form would silently become a plain one.
    save_network(Regularizer((2, 2, 2, 2), 1, "residual", 200.0), Path("G.safetensors"))
    save_network(Denoiser((2, 2, 2, 2), 1), Path("D.pth"))
    for name in ("G.safetensors", "D.pth"):
        refused(
            lambda name=name: import_weights(Path(name), Path("out.safetensors")),
            name,
            "weights file of this package already; copy it",
        )
    assert not Path("out.safetensors").exists()


@pytest.mark.parametrize(
    ("made", "target", "force", "words"),
    [
        ("import", "out.pth", True, "must end in .safetensors"),
        ("import", "out", True, "must end in .safetensors"),
        ("kair", "out.safetensors", True, "must end in .pth or .pt"),
        ("kair", "out.onnx", True, "must end in .pth or .pt"),
        ("onnx", "out.pth", True, "must end in .onnx"),
        ("kair", "there.pth", False, "exists; .* --force"),
        ("kair", "given.pth", True, "is the input itself"),
        ("kair", "folder/../given.pth", True, "is the input itself"),
        ("kair", "link.pt", True, "is the input itself"),
    ],
)
def test_targets_that_are_refused(made: str, target: str, force: bool, words: str) -> None:
    Path("folder").mkdir()
    for name in ("given.pth", "there.pth"):
        Path(name).touch()
    Path("link.pt").symlink_to("given.pth")
    with pytest.raises(InputError, match=rf"^{target}: {words}"):
        check_target(Path("given.pth"), Path(target), made, force=force)


def test_targets_that_are_taken() -> None:
    Path("there.pth").touch()
    given = Path("given.safetensors")
    for made, target, force in (
        ("import", "weights/new.safetensors", False),
        ("kair", "new.PT", False),
        ("kair", "there.pth", True),
        ("onnx", "new.onnx", False),
    ):
        check_target(given, Path(target), made, force=force)


def test_find_networks_names_where_they_are() -> None:
    found = find_networks({"a": {"b": prefixed("module.", official())}, "c": official(3)})
    assert list(found) == ["a.b.module", "c"]
    assert list(found["a.b.module"]) == official_names(BLOCKS)


# --- export --------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [3, 4])
def test_the_round_trip_is_bit_exact(inputs: int) -> None:
    state = official(inputs)
    torch.save(state, "given.pth")
    import_weights(Path("given.pth"), Path("ours.safetensors"))
    export_kair(Path("ours.safetensors"), Path("folder/back.pth"))
    back = torch.load("folder/back.pth", weights_only=True)
    assert list(back) == official_names(BLOCKS)
    assert_same(state, back)
    # The official code loads it without any argument that newer versions have.
    DRUNet(inputs, CHANNELS, BLOCKS).load_state_dict(back, strict=True)


def test_the_scale_of_g_is_folded_into_the_last_layer() -> None:
    regularizer = Regularizer(CHANNELS, BLOCKS, scale=20.0)
    regularizer.network.load_state_dict(official(3))
    save_network(regularizer, Path("ours.safetensors"))
    export_kair(Path("ours.safetensors"), Path("back.pth"))
    back = torch.load("back.pth", weights_only=True)
    assert torch.equal(back["m_tail.weight"], 20 * official(3)["m_tail.weight"])
    assert_same(official(3) | {"m_tail.weight": back["m_tail.weight"]}, back)
    import_weights(Path("back.pth"), Path("again.safetensors"))
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        expected, found = regularizer(x), load_regularizer(Path("again.safetensors"))(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_what_the_official_layout_cannot_hold() -> None:
    save_network(Regularizer(CHANNELS, 1, "residual", 2.0), Path("residual.safetensors"))
    about = {"kind": "unrolled", "channels": CHANNELS, "blocks": 1}
    write_weights(Path("unrolled.safetensors"), {"step": torch.ones(1)}, about)
    torch.save(official(), "official.pth")
    for name, part in (
        ("residual.safetensors", "use --format onnx"),
        ("unrolled.safetensors", "unrolled"),
        ("official.pth", "not a weights file of this package"),
    ):
        refused(lambda name=name: export_kair(Path(name), Path("back.pth")), name, part)
    assert not Path("back.pth").exists()


# --- ONNX ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        Denoiser((4, 6, 8, 10), 1),
        Regularizer((4, 6, 8, 10), 1, "residual", 20.0),
    ],
)
def test_onnx_computes_the_same_for_images_of_any_size(network: Network) -> None:
    pytest.importorskip("onnxscript")
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    initialise(network, seeded(0))
    save_network(network, Path("ours.safetensors"))
    export_onnx(Path("ours.safetensors"), Path("out/ours.onnx"))
    content = Path("out/ours.onnx").read_bytes()
    if isinstance(network, Regularizer):
        export_onnx(Path("ours.safetensors"), Path("again.onnx"))
        assert Path("again.onnx").read_bytes() == content
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert model.opset_import[0].version >= 17
    assert b".py" not in content  # no paths of the machine that made it
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(1)
    for number, height, width in ((1, 8, 8), (2, 16, 24), (3, 17, 33), (1, 40, 9)):
        given = {"x": torch.rand(number, 3, height, width, generator=generator)}
        if isinstance(network, Denoiser):
            given["sigma"] = 0.2 * torch.rand(number, generator=generator)
        with torch.no_grad():
            expected = network(*given.values())
        (found,) = session.run(["out"], {name: value.numpy() for name, value in given.items()})
        assert expected.abs().max() > 1e-2
        assert np.abs(found - expected.numpy()).max() < 1e-4


def test_without_the_exporter_the_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    save_network(Regularizer((2, 2, 2, 2), 1), Path("ours.safetensors"))
    monkeypatch.setattr(reg.weights, "find_spec", lambda name: None)
    refused(lambda: export_onnx(Path("ours.safetensors"), Path("a.onnx")), "extra `onnx`")
    assert not Path("a.onnx").exists()


def test_what_onnx_is_not_made_of() -> None:
    about = {"kind": "unrolled", "channels": CHANNELS, "blocks": 1}
    write_weights(Path("unrolled.safetensors"), {"step": torch.ones(1)}, about)
    refused(lambda: export_onnx(Path("unrolled.safetensors"), Path("a.onnx")), "only D and G")
    refused(lambda: export_onnx(Path("nowhere.safetensors"), Path("a.onnx")), "no such")


# --- the published networks ----------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "count"), [(4, 32_640_960), (3, 32_640_384)])
def test_names_and_sizes_of_the_published_networks(inputs: int, count: int) -> None:
    names = official_names(4)
    assert len(names) == 64
    with torch.device("meta"):
        ours = DRUNet(inputs).state_dict()
    assert list(ours) == names
    assert sum(value.numel() for value in ours.values()) == count


def test_the_full_size_round_trip() -> None:
    with torch.device("meta"):
        shapes = DRUNet(4).state_dict()
    # bfloat16 halves the memory; every one of its values is a float32.
    state = {
        name: torch.full(value.shape, 1 / (1 + k), dtype=torch.bfloat16)
        for k, (name, value) in enumerate(shapes.items())
    }
    torch.save({"params": prefixed("module.", state)}, "given.pth")
    network = import_weights(Path("given.pth"), Path("ours.safetensors"))
    assert (network.network.channels, network.network.blocks) == ((64, 128, 256, 512), 4)
    export_kair(Path("ours.safetensors"), Path("back.pth"))
    back = torch.load("back.pth", weights_only=True, mmap=True)
    assert list(back) == official_names(4)
    assert all(torch.equal(back[name], value.float()) for name, value in state.items())


# --- weights that the pipeline takes instead of training ------------------------------------

PAIR = ("denoiser.safetensors", "regularizer.safetensors")


def test_given_weights_are_taken_all_or_none() -> None:
    given = Path("given")
    assert given_weights(given, *PAIR) == []
    given.mkdir()
    (given / ".gitkeep").touch()
    assert given_weights(given, *PAIR) == []
    (given / PAIR[1]).touch()
    refused(lambda: given_weights(given, *PAIR), "given/denoiser.safetensors", PAIR[1], "add it")
    (given / PAIR[0]).touch()
    assert given_weights(given, *PAIR) == [given / name for name in PAIR]


def test_an_official_file_that_was_not_imported_is_named() -> None:
    Path("given").mkdir()
    Path("given/drunet_color.pth").touch()
    refused(lambda: given_weights(Path("given"), *PAIR), "drunet_color.pth", "reg weights import")


@pytest.fixture
def params(folder: Path, capsys: pytest.CaptureFixture[str]) -> Params:
    """The profile `tiny`, with images prepared in a folder of its own."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(re.sub(r"(?m)^profile: \w+$", "profile: tiny", text))
    params = read_params()
    stages.prepare.work(params)
    capsys.readouterr()
    return params


def tiny_denoiser(params: Params, path: Path, seed: int) -> Denoiser:
    recipe = params.active.pretrain
    denoiser = Denoiser(recipe.channels, recipe.blocks)
    initialise(denoiser, seeded(seed))
    save_network(denoiser, path, {"imported": "drunet_color.pth"})
    return denoiser


def with_the_first_seed_alone(params: Params) -> Params:
    section = params.active.train_reg
    section = section.model_copy(update={"seeds": section.seeds[:1]})
    profile = params.active.model_copy(update={"train_reg": section})
    return params.model_copy(update={"profiles": {params.profile: profile}})


def test_the_stages_take_what_is_given(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    pretrained = tiny_denoiser(params, Path("weights/tiny/pretrain/denoiser.safetensors"), 0)
    stages.pretrain.work(params)
    out = capsys.readouterr().out
    assert out == "  D is imported from weights/tiny/pretrain/denoiser.safetensors, not trained\n"
    made = Path("models/tiny/pretrain/denoiser.safetensors")
    assert_same(pretrained.state_dict(), load_denoiser(made).state_dict())
    training = read_metadata(made)["training"]
    assert training["imported"] == "weights/tiny/pretrain/denoiser.safetensors"
    assert training["training"] == {"imported": "drunet_color.pth"}

    given = Path("weights/tiny/train_reg")
    updated = tiny_denoiser(params, given / "denoiser.safetensors", 1)
    refused(lambda: stages.train_reg.work(params, "updated"), "regularizer.safetensors")
    regularizer = Regularizer(params.active.pretrain.channels, params.active.pretrain.blocks)
    save_network(regularizer, given / "regularizer.safetensors")
    assert len(params.active.train_reg.seeds) > 1
    refused(lambda: stages.train_reg.work(params, "updated"), str(given), "one pair", "seeds")
    stages.train_reg.work(with_the_first_seed_alone(params), "updated")
    out = capsys.readouterr().out
    assert out == "  D and G are imported from weights/tiny/train_reg, not trained\n"
    arm = Path("models/tiny/train_reg/updated/0")
    loaded = load_regularizer(arm / "regularizer.safetensors")
    assert (loaded.form, loaded.scale) == ("plain", 1.0)  # its own, not the profile's
    assert_same(regularizer.state_dict(), loaded.state_dict())
    assert_same(updated.state_dict(), load_denoiser(arm / "denoiser.safetensors").state_dict())
    for name in PAIR:
        origin = read_metadata(arm / name)["training"]["imported"]
        assert origin == f"weights/tiny/train_reg/{name}"
    assert not Path(".checkpoints").exists()


def test_given_weights_of_another_size_are_refused(params: Params) -> None:
    save_network(Denoiser((8, 8, 8, 8), 1), Path("weights/tiny/pretrain/denoiser.safetensors"))
    refused(lambda: stages.pretrain.work(params), "weights/tiny/pretrain", "channels [8, 8, 8, 8]")
    assert not Path("models").exists()


def test_every_profile_has_the_folders_that_dvc_watches() -> None:
    # DVC fails where a dependency does not exist, and git keeps no empty folder.
    yaml = YAML(typ="safe", pure=True)
    for profile in yaml.load(ROOT / "params.yaml")["profiles"]:
        for stage in ("pretrain", "train_reg"):
            assert (ROOT / "weights" / profile / stage / ".gitkeep").is_file()
    pipeline = yaml.load(ROOT / "dvc.yaml")["stages"]
    assert "weights/${profile}/pretrain" in pipeline["pretrain"]["deps"]
    arms = pipeline["train_reg"]["foreach"]
    assert "${item.weights}" in pipeline["train_reg"]["do"]["deps"]
    assert arms["updated"]["weights"] == "weights/${profile}/train_reg"
    assert arms["fixed"]["weights"] != arms["updated"]["weights"]  # G's arrival retrains nothing


# --- download ------------------------------------------------------------------------------

CONTENT = np.random.RandomState(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """Serves CONTENT at every path but /missing; what it was asked for, and how it behaves."""

    url: str = ""
    ranges: bool = True
    cut: int | None = None  # close the connection after so many bytes of the file
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    behaviour = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            behaviour.asked.append(asked)
            if self.path == "/missing":
                self.send_error(404)
                return
            if self.path == "/elsewhere":
                self.send_response(302)
                self.send_header("Location", "/file.pth")
                self.end_headers()
                return
            start = 0
            if asked and behaviour.ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206 if asked and behaviour.ranges else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start : behaviour.cut])

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    monkeypatch.setenv("NO_PROXY", "*")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    behaviour.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    yield behaviour
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def files() -> list[str]:
    return sorted(path.as_posix() for path in Path().rglob("*") if path.is_file())


def test_a_download_is_checked_and_not_repeated(server: Server) -> None:
    for _ in range(2):
        assert download(f"{server.url}/file.pth?raw=1", sha256=SHA256) == Path("weights/file.pth")
        assert Path("weights/file.pth").read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert files() == ["weights/file.pth"]


def test_a_published_file_needs_only_its_name(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {"ReG.pth": Published(f"{server.url}/elsewhere", SHA256)}
    monkeypatch.setattr(reg.weights, "PUBLISHED", published)
    assert download("ReG.pth", Path("here.pth")).read_bytes() == CONTENT
    refused(lambda: download("DRUNet.pth"), "DRUNet.pth", "neither a URL nor one of ReG.pth")


def test_an_interrupted_download_goes_on(server: Server) -> None:
    server.cut = 2_000_000
    refused(lambda: download(f"{server.url}/file.pth", sha256=SHA256), "file.pth", "try again")
    assert files() == [f"weights/file.pth.{SHA256[:8]}.partial"]
    server.cut = None
    assert download(f"{server.url}/file.pth", sha256=SHA256).read_bytes() == CONTENT
    begun = int(re.fullmatch(r"bytes=(\d+)-", str(server.asked[-1]))[1])
    assert 1_000_000 <= begun <= 2_000_000
    assert files() == ["weights/file.pth"]


def test_a_server_that_cannot_continue_sends_all_anew(server: Server) -> None:
    server.cut, server.ranges = 2_000_000, False
    refused(lambda: download(f"{server.url}/file.pth", sha256=SHA256), "try again")
    server.cut = None
    assert download(f"{server.url}/file.pth", sha256=SHA256).read_bytes() == CONTENT


def test_a_partial_file_longer_than_the_file_is_dropped(server: Server) -> None:
    partial = Path("weights", f"file.pth.{SHA256[:8]}.partial")
    partial.parent.mkdir()
    partial.write_bytes(CONTENT + b"more")
    refused(lambda: download(f"{server.url}/file.pth", sha256=SHA256), "416", "try again")
    assert files() == []
    assert download(f"{server.url}/file.pth", sha256=SHA256).read_bytes() == CONTENT


def test_a_partial_file_with_wrong_bytes_does_no_harm(server: Server) -> None:
    partial = Path("weights", f"file.pth.{SHA256[:8]}.partial")
    partial.parent.mkdir()
    partial.write_bytes(b"wrong")
    refused(lambda: download(f"{server.url}/file.pth", sha256=SHA256), "does not match")
    assert files() == []
    assert download(f"{server.url}/file.pth", sha256=SHA256).read_bytes() == CONTENT


def test_a_wrong_hash_leaves_nothing(server: Server) -> None:
    wrong = "0" * 64
    refused(lambda: download(f"{server.url}/file.pth", sha256=wrong), "/file.pth", wrong, SHA256)
    assert files() == []


def test_another_file_is_not_overwritten(server: Server) -> None:
    target = Path("kept.pth")
    target.write_bytes(b"before")
    refused(lambda: download(f"{server.url}/file.pth", target, SHA256), "kept.pth: is another file")
    assert target.read_bytes() == b"before"
    assert files() == ["kept.pth"]
    assert not server.asked


def test_a_download_that_only_lacked_its_name_is_not_repeated(server: Server) -> None:
    partial = Path("weights", f"file.pth.{SHA256[:8]}.partial")
    partial.parent.mkdir()
    partial.write_bytes(CONTENT)
    assert download(f"{server.url}/file.pth", sha256=SHA256).read_bytes() == CONTENT
    assert files() == ["weights/file.pth"]
    assert not server.asked


def test_a_missing_file(server: Server) -> None:
    refused(lambda: download(f"{server.url}/missing", sha256=SHA256), "/missing", "404")
    assert files() == []


def test_no_connection(server: Server) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/file.pth"
    refused(lambda: download(url, sha256=SHA256), url, "ConnectionError", "weights/file.pth")
    assert files() == []


@pytest.mark.parametrize("sha256", [None, "", "12", "g" * 64, f"md5:{'0' * 64}"])
def test_a_url_needs_a_hash(sha256: str | None) -> None:
    refused(lambda: download("https://example.org/file.pth", sha256=sha256), "--sha256")


def test_published_files_have_an_address_and_a_hash() -> None:
    for name, file in PUBLISHED.items():
        assert file.url.startswith("https://github.com/")
        assert file.url.endswith(f"/{name}")
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)

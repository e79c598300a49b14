"""Weights from elsewhere and for elsewhere: the official PyTorch files of DRUNet and of PnP-ReG.

KAIR, DPIR and deepinv share one layout, that of `reg.networks.DRUNet`. Their files come in many
wrappings: a training checkpoint around the state dict, a prefix before every key, two networks in
one file. Nothing in them is ever executed.
"""

import hashlib
import logging
import pickle
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reg.checkpoints import save_state, write_whole
from reg.errors import InputError
from reg.networks import (
    STRIDE,
    Denoiser,
    Network,
    Regularizer,
    load_denoiser,
    load_regularizer,
    read_metadata,
    save_network,
)

HEAD = "m_head.weight"  # the one key that every DRUNet has, whatever its size
BARE = "(bare)"  # what a network without keys or prefix that lead to it is called

# Training checkpoints hold the state of numpy's random generator: an array of plain numbers.
_reconstruct = np.empty(0).__reduce__()[0]
NUMPY_STATE: list[Any] = [
    (_reconstruct, "numpy.core.multiarray._reconstruct"),  # as numpy 1 calls it
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    type(np.dtype(np.uint32)),
]


@dataclass(frozen=True)
class Published:
    """A file on the web and the sha256 of its bytes."""

    url: str
    sha256: str


PNP_REG = "https://github.com/rita442/PnP-ReG/raw/f908be0269d89ec04345ae9c3f94d16f9b5deac0/models/"

# The first is KAIR's D, a release without published hash: this one is what several projects
# recorded of it. The others are the D from which the paper's training starts, and its G; their
# hashes are those of that repository's large files.
PUBLISHED = {
    "drunet_color.pth": Published(
        "https://github.com/cszn/KAIR/releases/download/v1.0/drunet_color.pth",
        "479abe3c5327dfd10ff54a80ec7d4098ca80752a5c9492cdff31cee430bec4b4",
    ),
    "drunet_color_fixed_LR.pth": Published(
        PNP_REG + "DRUNet/drunet_color_fixed_LR.pth",
        "435ef1b73e700f82bf07b3f7cd933197305cfc6b1324644e90672be4b67bf574",
    ),
    "ReG.pth": Published(
        PNP_REG + "regularizers/ReG.pth",
        "8ad8dfa9968799d025ac75ca0b70f98a3413deb62942c94cee09b259678304b5",
    ),
}


SUFFIXES = {"import": (".safetensors",), "kair": (".pth", ".pt"), "onnx": (".onnx",)}


def check_target(source: Path, target: Path, made: str, *, force: bool = False) -> None:
    """InputError unless `target` may be written of `source`, by a key of `SUFFIXES`.

    Its suffix must be of that format, and it must not be the source, by whatever name, nor exist
    (unless it may be overwritten by `force`).
    """
    suffixes = SUFFIXES[made]
    if target.suffix.lower() not in suffixes:
        raise InputError(f"{target}: must end in {' or '.join(suffixes)}; name another output")
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"{target}: is the input itself; name another output")
    if target.exists() and not force:
        raise InputError(f"{target}: exists; name another output, or overwrite it by --force")


# --- import --------------------------------------------------------------------------------


def import_weights(source: Path, target: Path, key: str | None = None) -> Network:
    """Write the network of an official PyTorch file as a weights file of this package.

    The state dict may lie bare or in nested dictionaries, its keys with or without a prefix;
    `key` chooses where the file holds several networks (`model2`, `params_ema`, …). The input
    width of the first layer tells D (4: RGB and the noise level) from G (3, plain with scale 1);
    channels and blocks follow from the shapes. Weights become float32, bit by bit the same.

    Raises InputError, naming the file and the key, for a file that is missing, damaged or no
    PyTorch file, that is of this package already, that holds Python objects, no network or several,
    and for every key that the network lacks, misses, or has in another shape or type.
    """
    if _is_ours(source):  # torch reads its tensors, but not the form and the scale of G
        raise InputError(f"{source}: is a weights file of this package already; copy it")
    networks = find_networks(_read_torch_file(source))
    if not networks:
        raise InputError(f"{source}: holds no DRUNet: no key is {HEAD}, with or without a prefix")
    if key is None and len(networks) > 1:
        raise InputError(f"{source}: holds several networks; choose by --key: {_named(networks)}")
    name = next(iter(networks)) if key is None else key.replace(BARE, "")
    if name not in networks:
        raise InputError(f"{source}: no network is at the key {key}; there is: {_named(networks)}")
    network = network_of(networks[name], source)
    origin = {"imported": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    save_network(network, target, origin | ({"key": key} if key else {}))
    return network


def _is_ours(path: Path) -> bool:
    try:
        read_metadata(path)
    except InputError:
        return False
    return True


def _named(networks: Mapping[str, object]) -> str:
    return ", ".join(name or BARE for name in networks)


def _read_torch_file(path: Path) -> Any:
    """The tensors and plain values of a PyTorch file, of either of its formats."""
    try:
        with torch.serialization.safe_globals(NUMPY_STATE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles that are no PyTorch files
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such weights file; correct the path") from None
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except pickle.UnpicklingError as error:
        if named := re.search(r"GLOBAL (\S+)", str(error)):
            raise InputError(
                f"{path}: holds the Python object {named[1]}, not only tensors and plain values; "
                "it was not loaded, because that could run code: save its state dict alone"
            ) from None
    except Exception:  # torch raises a different type for every way in which a file is broken
        pass
    raise InputError(f"{path}: damaged, or not a PyTorch file; fetch it again")


def find_networks(content: object, name: str = "") -> dict[str, dict[str, Any]]:
    """Every state dict of a DRUNet in nested dictionaries, by the keys and prefix that lead there.

    Keys beside a network that belong to no other stay with it, so that a strict check sees them.
    """
    if not isinstance(content, Mapping):
        return {}
    prefixes = [str(key).removesuffix(HEAD) for key in content if str(key).endswith(HEAD)]
    # A prefix may begin another one: `net.` and `net.ema.`.
    owners = {
        key: max((p for p in prefixes if str(key).startswith(p)), key=len, default=None)
        for key in content
    }
    found = {
        _join(name, prefix): {
            str(key).removeprefix(prefix): content[key]
            for key, owner in owners.items()
            if owner in (prefix, None)
        }
        for prefix in prefixes
    }
    for key, value in content.items():
        found |= find_networks(value, _join(name, str(key)))
    return found


def _join(name: str, key: str) -> str:
    return f"{name}.{key}".strip(".")


def network_of(state: Mapping[str, Any], source: Path) -> Network:
    """The network whose state dict this is; InputError, naming the key, if there is none."""
    head = _shape(state, HEAD, source)
    if len(head) != 4 or head[1] not in (3, 4):
        raise InputError(
            f"{source}: {HEAD} has shape {head}; a colour denoiser's has 4 input channels "
            "(RGB, noise level), a regularizer's 3 (RGB)"
        )
    blocks = len({key.split(".")[1] for key in state if re.match(r"m_body\.\d+\.", key)})
    coarser = [_shape(state, f"m_down{k}.{blocks}.weight", source) for k in (1, 2, 3)]
    channels = [head[0], *(shape[0] for shape in coarser)]
    with torch.device("meta"):  # shapes alone: nothing is drawn or stored
        network = (Denoiser if head[1] == 4 else Regularizer)(channels, blocks)
    expected = network.network.state_dict()
    for key, value in expected.items():
        shape = _shape(state, key, source)
        if shape != tuple(value.shape):
            raise InputError(
                f"{source}: {key} has shape {shape}, but {tuple(value.shape)} is expected"
            )
    if unexpected := [key for key in state if key not in expected]:
        raise InputError(
            f"{source}: has the key {unexpected[0]}, but a bias-free DRUNet of channels {channels} "
            f"and {blocks} blocks has none of that name"
        )
    tensors = {key: _exact(state[key], key, source) for key in expected}
    network.network.load_state_dict(tensors, assign=True)
    return network


def _shape(state: Mapping[str, Any], key: str, source: Path) -> tuple[int, ...]:
    if key not in state:
        raise InputError(f"{source}: lacks the key {key}, which a DRUNet of its size has")
    if not isinstance(state[key], Tensor) or state[key].ndim != 4:
        raise InputError(f"{source}: {key} is not a tensor of four dimensions")
    return tuple(state[key].shape)


def _exact(value: Tensor, key: str, source: Path) -> Tensor:
    """`value` as float32 in memory of its own; InputError if that would round, or is not finite."""
    if not value.is_floating_point() or value.dtype.itemsize > 4:
        raise InputError(f"{source}: {key} is {value.dtype}; float32 is expected")
    exact = value.detach().to(torch.float32, copy=True)
    if not exact.isfinite().all():
        raise InputError(f"{source}: {key} holds values that are not finite")
    return exact


# --- export --------------------------------------------------------------------------------


def export_kair(source: Path, target: Path) -> Network:
    """Write a weights file of this package as a bare state dict, for KAIR, DPIR and deepinv.

    The keys have the official names and order. The scale s of G is folded into the last layer:
    the same function up to rounding, and the same bits where s = 1. Raises InputError if the file
    is none, of another kind, or a G of the residual form, for which that layout has no place.
    """
    network = _load(source)
    if isinstance(network, Regularizer):
        if network.form != "plain":
            raise InputError(
                f"{source}: G has the residual form s·(x − N(x)); the official layout holds only "
                "plain ones, G = s·N(x); use --format onnx"
            )
        network.fold_scale()
    save_state(target, OrderedDict(network.network.state_dict().items()))
    return network


def export_onnx(source: Path, target: Path) -> Network:
    """Write D or G as an ONNX model (opset 18) for any number of images of any size.

    Inputs are `x` (N,3,H,W), values about [0,1], and for D `sigma` (N,), the noise levels in the
    same units; the output `out` is D_σ(x) or G(x), its scale included, (N,3,H,W). Raises InputError
    if the file is none, of another kind, or the exporter is not installed.
    """
    network = _load(source)
    if not (find_spec("onnx") and find_spec("onnxscript")):
        raise InputError("format onnx: needs the extra `onnx`: pip install -e '.[onnx]'")
    n, height, width = (torch.export.Dim(name) for name in ("n", "height", "width"))
    # An example's size of 1 would be taken for a constant.
    inputs, sizes = {"x": torch.zeros(2, 3, 16, 24)}, [{0: n, 2: height, 3: width}]
    if isinstance(network, Denoiser):
        inputs["sigma"] = torch.zeros(2)
        sizes.append({0: n})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about itself
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Padded(network).eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=["out"],
            dynamic_shapes=tuple(sizes),
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # as nothing was asked to be written
    model = program.model_proto
    for part in (model.graph, *model.graph.node, *model.graph.value_info):
        del part.metadata_props[:]  # the file and line of Python behind each operation
    write_whole(target, model.SerializeToString(deterministic=True))
    return network


class _Padded(nn.Module):
    """A network behind a padding to multiples of 8 that depends on the size only through numbers.

    DRUNet's own padding is an `if`, which an export would decide once, at the example's size.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        out: Tensor = self.network(padded) if sigma is None else self.network(padded, sigma)
        return out[..., :height, :width]


def _load(source: Path) -> Network:
    match read_metadata(source)["kind"]:
        case "denoiser":
            return load_denoiser(source)
        case "regularizer":
            return load_regularizer(source)
        case kind:
            raise InputError(f"{source}: holds a {kind}; only D and G can be exported")


# --- download ------------------------------------------------------------------------------


def download(source: str, target: Path | None = None, sha256: str | None = None) -> Path:
    """Fetch a published file by name, or any URL with the sha256 of its bytes.

    Nothing is fetched if `target` (default: weights/<file name>) holds these bytes already; an
    interrupted download goes on where it was, if the server can. The file appears whole and
    checked, or not at all. Raises InputError if the name is unknown, the hash is missing, no hash,
    or another one than the file's, if `target` holds anything else, and if the server or the folder
    fails.
    """
    known = PUBLISHED.get(source)
    if known is None and not source.startswith(("https://", "http://")):
        raise InputError(f"{source}: neither a URL nor one of {', '.join(PUBLISHED)}")
    url = known.url if known else source
    expected = (sha256 or (known.sha256 if known else "")).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", expected):
        raise InputError(f"{source}: give the 64 hexadecimal digits of its sha256 by --sha256")
    target = target or Path("weights", url.partition("?")[0].rpartition("/")[2] or "download")
    pooch.get_logger().setLevel("WARNING")
    # The name holds the hash, so that bytes of different files never mix.
    partial = target.with_name(f"{target.name}.{expected[:8]}.partial")
    if target.exists() and pooch.file_hash(str(target)) != expected:
        raise InputError(f"{target}: is another file; remove it, or name another output")
    # All had come, but for the last moment.
    if partial.exists() and pooch.file_hash(str(partial)) == expected:
        partial.replace(target)
    try:
        pooch.retrieve(
            url,
            f"sha256:{expected}",
            fname=target.name,
            path=target.parent,
            downloader=_Resuming(partial),
        )
    except OSError as error:  # those of requests are such, too
        raise InputError(
            f"{url}: cannot be downloaded ({_reason(error)}); "
            f"try again, or put the file at {target} by other means"
        ) from None
    except ValueError as error:
        raise InputError(f"{url}: {error}") from None
    finally:
        if partial.exists() and not partial.stat().st_size:
            partial.unlink()
    return target


@dataclass(frozen=True)
class _Resuming:
    """A downloader for pooch that keeps what came in `partial`, and asks for the rest."""

    partial: Path

    def __call__(self, url: str, output_file: str, pooch_: object) -> None:
        with self.partial.open("ab") as file:

            def start_anew_unless_continued(response: Any, **_: object) -> None:
                if response.status_code in (200, 416):  # the whole file; no such range
                    file.truncate(0)

            fetch = pooch.HTTPDownloader(
                progressbar=sys.stderr.isatty(),
                chunk_size=1 << 20,
                # Ranges of a file that is compressed on its way would mean nothing.
                headers={"Range": f"bytes={file.tell()}-", "Accept-Encoding": "identity"},
                hooks={"response": start_anew_unless_continued},
            )
            fetch(url, file, None)
        self.partial.replace(output_file)


def _reason(error: OSError) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    return error.strerror or type(error).__name__

"""Bias-free DRUNet, and the two networks built on it: the denoiser D and the regularizer G."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from reg.checkpoints import write_whole
from reg.errors import InputError

Form = Literal["plain", "residual"]
Precision = Literal["auto", "fp32", "bf16"]
STRIDE = 8  # three 2x downsamplings


class ResBlock(nn.Module):
    """x + conv(ReLU(conv(x))), without biases."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.res = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.res(x)
        return out


class DRUNet(nn.Module):
    """The bias-free residual U-Net of DPIR (Zhang et al., TPAMI 2022), any width and depth.

    (N, in_channels, H, W) → (N, 3, H, W) for any H, W: the input is replicate-padded to a
    multiple of 8 and the output cropped. Without biases the map is positively homogeneous:
    N(t·x) = t·N(x) for t > 0. Module names are those of the published weight files.

    Under autocast the first and the last convolution and the skip between them stay in float32 (on
    CUDA in what torch's TF32 setting makes of it): they carry the image itself, where the 8 bits of
    bfloat16 would add an error comparable to a noise of 0.3/255.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int] = (64, 128, 256, 512), blocks: int = 4
    ) -> None:
        super().__init__()
        self.in_channels, self.channels, self.blocks = in_channels, tuple(channels), blocks
        c1, c2, c3, c4 = channels
        self.m_head = nn.Conv2d(in_channels, c1, 3, padding=1, bias=False)
        self.m_down1 = self._down(c1, c2)
        self.m_down2 = self._down(c2, c3)
        self.m_down3 = self._down(c3, c4)
        self.m_body = nn.Sequential(*(ResBlock(c4) for _ in range(blocks)))
        self.m_up3 = self._up(c4, c3)
        self.m_up2 = self._up(c3, c2)
        self.m_up1 = self._up(c2, c1)
        self.m_tail = nn.Conv2d(c1, 3, 3, padding=1, bias=False)

    def _down(self, fine: int, coarse: int) -> nn.Sequential:
        return nn.Sequential(
            *(ResBlock(fine) for _ in range(self.blocks)),
            nn.Conv2d(fine, coarse, 2, stride=2, bias=False),
        )

    def _up(self, coarse: int, fine: int) -> nn.Sequential:
        return nn.Sequential(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False),
            *(ResBlock(fine) for _ in range(self.blocks)),
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        bottom, right = -height % STRIDE, -width % STRIDE
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        with torch.autocast(x.device.type, enabled=False):
            x1 = self.m_head(x)
        half = torch.is_autocast_enabled(x.device.type)
        inner = x1.to(torch.get_autocast_dtype(x.device.type)) if half else x1
        x2 = self.m_down1(inner)
        x3 = self.m_down2(x2)
        x4 = self.m_down3(x3)
        x = self.m_up3(self.m_body(x4) + x4)
        x = self.m_up2(x + x3)
        x = self.m_up1(x + x2)
        x = (x + x1).to(self.m_tail.weight.dtype)
        with torch.autocast(x.device.type, enabled=False):
            x = self.m_tail(x)
        return x[..., :height, :width]


class Denoiser(nn.Module):
    """D_σ(z): a DRUNet that sees the image and a constant noise-level map.

    z: (N,3,H,W), values about [0,1]; sigma: a float or a tensor of N values, the assumed
    standard deviation of the noise in the units of z.
    """

    def __init__(self, channels: Sequence[int] = (64, 128, 256, 512), blocks: int = 4) -> None:
        super().__init__()
        self.network = DRUNet(4, channels, blocks)

    def forward(self, z: Tensor, sigma: float | Tensor) -> Tensor:
        out: Tensor = self.network(torch.cat([z, noise_level_map(z, sigma)], dim=1))
        return out


def noise_level_map(z: Tensor, sigma: float | Tensor) -> Tensor:
    """The constant fourth channel of D's input: (N,1,H,W) filled with σ, one value per image."""
    level = torch.as_tensor(sigma, dtype=z.dtype, device=z.device).reshape(-1, 1, 1, 1)
    return level.expand(z.shape[0], 1, *z.shape[-2:])


class Regularizer(nn.Module):
    """G(x) ≈ ∇φ(x): the regularizing gradient ("ReG"), (N,3,H,W) → (N,3,H,W).

    - ``plain``: G(x) = s·N(x), the paper's network with its output scaled;
    - ``residual``: G(x) = s·(x − N(x)), a trainable RED residual.

    N is a DRUNet without noise-level channel. G's targets (z − D_σ(z))/σ² are of the order of
    1/σ, hence the scale s; it can be folded into the last layer (`fold_scale`).

    As it stands G is a prior for deepinv's optimisers, which look at `explicit_prior` and call
    `grad`; their weight of the prior is then σ².
    """

    explicit_prior = False  # φ itself is unknown, so there is no cost to evaluate

    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256, 512),
        blocks: int = 4,
        form: Form = "plain",
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = DRUNet(3, channels, blocks)
        self.form: Form = form
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x)
        return self.scale * (out if self.form == "plain" else x - out)

    def grad(self, x: Tensor, *_: object) -> Tensor:
        """G(x), whatever parameters of a prior come with it: G has none."""
        out: Tensor = self(x)
        return out

    def fold_scale(self) -> None:
        """Fold s into the last layer of a plain G: the same function with s = 1."""
        if self.form != "plain":
            raise InputError("only the plain form of G can fold its scale into the last layer")
        with torch.no_grad():
            self.network.m_tail.weight.mul_(self.scale)
        self.scale = 1.0


Network = Denoiser | Regularizer
AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


def initialise(network: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight from U(−b, b) with b = 1/√fan_in, torch's own law for convolutions.

    In a short training this is several dB ahead of the orthogonal start of gain 0.2 that the
    DRUNet authors use: through 20 layers without biases that one begins with vanishing signals.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)


def start_from_denoiser(regularizer: Regularizer, denoiser: Denoiser) -> None:
    """Start N from D's weights, less the noise-level channel of the first layer.

    Raises InputError if the two networks differ in width or depth.
    """
    source, target = denoiser.network, regularizer.network
    if (source.channels, source.blocks) != (target.channels, target.blocks):
        raise InputError(
            "G can start from D's weights only if both have the same channels and blocks; "
            "set train_reg's `start: random` or equal sizes"
        )
    state = source.state_dict()
    state["m_head.weight"] = state["m_head.weight"][:, :3]
    target.load_state_dict(state)


# --- files ---------------------------------------------------------------------------------


def save_network(network: Network, path: Path, training: Mapping[str, Any] | None = None) -> None:
    """Write safetensors that carry the architecture and the training parameters as metadata."""
    about: dict[str, Any] = {
        "kind": "denoiser" if isinstance(network, Denoiser) else "regularizer",
        "channels": list(network.network.channels),
        "blocks": network.network.blocks,
        "training": dict(training or {}),
    }
    if isinstance(network, Regularizer):
        about |= {"form": network.form, "scale": network.scale}
    write_weights(path, network.network.state_dict(), about)


def write_weights(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors as float32 safetensors with `about` as metadata; whole or not at all.

    One metadata key holding sorted JSON: several keys would be written in random order.
    """
    stored = {
        name: value.detach().to("cpu", torch.float32).contiguous()
        for name, value in tensors.items()
    }
    write_whole(path, save(stored, metadata={"reg": json.dumps(about, sort_keys=True)}))


def read_metadata(path: Path) -> dict[str, Any]:
    """What `save_network` recorded: kind, channels, blocks, form and scale of G, training."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        about = json.loads(metadata["reg"])
    except FileNotFoundError:
        raise InputError(f"{path}: no such weights file; correct the path") from None
    except OSError:
        raise InputError(f"{path}: cannot be read; it must be a weights file") from None
    except (SafetensorError, KeyError, json.JSONDecodeError):
        about = None
    if not isinstance(about, dict) or not about.keys() >= {"kind", "channels", "blocks"}:
        raise InputError(
            f"{path}: not a weights file of this package (safetensors written by `reg`)"
        )
    return about


def read_weights(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a weights file; InputError unless it holds a `kind`."""
    about = read_metadata(path)
    if about["kind"] != kind:
        raise InputError(f"{path}: holds a {about['kind']}, a {kind} is needed here")
    with safe_open(path, framework="pt") as file:
        return about, {name: file.get_tensor(name) for name in file.keys()}


def fill(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load tensors into a network; InputError naming the file if they do not fit."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip()
        raise InputError(f"{path}: weights do not fit the architecture: {detail}") from None


def load_denoiser(
    path: Path, channels: Sequence[int] | None = None, blocks: int | None = None
) -> Denoiser:
    """Read D from a file of `save_network`.

    Raises InputError if the file is none, of another kind, or not of the channels and blocks that
    are asked for.
    """
    about, tensors = read_weights(path, "denoiser")
    asked = (list(channels or about["channels"]), blocks or about["blocks"])
    if asked != (about["channels"], about["blocks"]):
        raise InputError(
            f"{path}: has channels {about['channels']} and blocks {about['blocks']}, but channels "
            f"{asked[0]} and blocks {asked[1]} are asked for; set pretrain's to those of the file"
        )
    denoiser = Denoiser(about["channels"], about["blocks"])
    fill(denoiser.network, tensors, path)
    return denoiser


def load_regularizer(path: Path) -> Regularizer:
    """Read G from a file of `save_network`; InputError if it is none, or of another kind."""
    about, tensors = read_weights(path, "regularizer")
    regularizer = Regularizer(about["channels"], about["blocks"], about["form"], about["scale"])
    fill(regularizer.network, tensors, path)
    return regularizer


def given_weights(folder: Path, *names: str) -> list[Path]:
    """The files `names` of a folder whose weights replace a training; [] if it holds nothing.

    Raises InputError if it holds some of them, or anything else: a file that is overlooked would
    cost a training.
    """
    present = {path.name for path in folder.glob("[!.]*")}
    if not present:
        return []
    for name in sorted(present - set(names)):
        raise InputError(
            f"{folder / name}: only {' and '.join(names)} can lie here; "
            "`reg weights import` makes them of official files"
        )
    for name in names:
        if name not in present:
            raise InputError(
                f"{folder / name}: no such file, but {', '.join(sorted(present))} is there; "
                "add it, or remove the other to train both"
            )
    return [folder / name for name in names]


def imported_from(path: Path) -> dict[str, Any]:
    """What imported weights record instead of a training: the file, its hash, its own record."""
    return {
        "imported": path.as_posix(),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "training": read_metadata(path).get("training", {}),
    }


# --- precision -----------------------------------------------------------------------------


def resolve_precision(precision: Precision, device: str | torch.device = "cpu") -> str:
    """`auto` → `bf16` where the hardware computes with it natively, else `fp32`."""
    if precision != "auto":
        return precision
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    # Without these instructions oneDNN emulates bf16, slower than fp32.
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "fp32"


@contextmanager
def inference(precision: Precision, device: str | torch.device = "cpu") -> Iterator[None]:
    """No gradients, and bfloat16 autocast where `precision` resolves to it.

    Without, convolutions on CUDA are in float32 proper, not in torch's TF32.
    """
    kind = torch.device(device).type
    bf16 = resolve_precision(precision, device) == "bf16"
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, bf16
    try:
        with torch.no_grad(), torch.autocast(kind, dtype=torch.bfloat16, enabled=bf16):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32


def best_device() -> torch.device:
    """The accelerator of this process, by its place among those of its machine; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    return torch.device("cuda", place % torch.cuda.device_count())


def for_inference(network: AnyNetwork, device: str | torch.device = "cpu") -> AnyNetwork:
    """Freeze a network and lay its weights out for fast inference."""
    network.requires_grad_(False).eval()
    # torch's stubs lack this form of `to`
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network

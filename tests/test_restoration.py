import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from skimage import data
from torch import Tensor
from torch.nn import functional as F

import reg
from reg import restoration
from reg.cli import main
from reg.errors import InputError
from reg.iterations import image_gradient, image_gradient_adjoint, pnp_gd
from reg.networks import Denoiser, Regularizer, initialise, save_network, write_weights
from reg.operators import (
    GAUSSIAN_KERNELS,
    Blur,
    Downsampling,
    Inpainting,
    Operator,
    gaussian_kernel,
)
from reg.photos import Photo, read_photo, write_photo
from reg.problems import Problem, make_problem
from reg.restoration import (
    Degradation,
    Measured,
    Restoration,
    Tiled,
    degrade,
    draw_comparison,
    find_weights,
    load,
    network_file,
    noise_level,
    parameters_of,
    pose,
    random_mask,
    read_mask,
    receptive_radius,
    resolved,
    restore,
    scaled,
    to_kernel,
    to_mask,
    to_tensor,
)
from reg.unrolled import GAIN, Unrolled, load_unrolled, save_unrolled
from tests.command_line import assert_one_line_of_error
from tests.test_photos import BAD

ASTRONAUT = data.astronaut()
CROP = (..., slice(100, 228), slice(150, 278))
UNROLLED = ["deblur-k2-2.55", "deblur-k2-7.65", "deblur-k7-2.55", "sr-x2-2.55", "inpaint-20"]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny random networks: they show that it runs, not that it restores."""
    folder = tmp_path_factory.mktemp("weights")
    generator = torch.Generator().manual_seed(0)
    denoiser, regularizer = Denoiser((4, 4, 4, 4), 1), Regularizer((4, 4, 4, 4), 1)
    for network in (denoiser, regularizer):
        initialise(network, generator)
    save_network(denoiser, folder / "pretrain" / "denoiser.safetensors")
    save_network(regularizer, folder / "train_reg/updated/0/regularizer.safetensors")
    for step, task in enumerate(UNROLLED, start=1):
        unrolled = Unrolled(regularizer, 3, step=step / 10, sigma=0.2)
        save_unrolled(unrolled, folder / f"finetune_unrolled/reg/{task}.safetensors", {})
    return folder


def smoothness(x: Tensor) -> Tensor:
    """∇½‖∇x‖²: a regularizing gradient that nobody need train."""
    return image_gradient_adjoint(image_gradient(x))


def level(x: Tensor, truth: Tensor, where: Tensor) -> float:
    """PSNR in dB of some of the pixels."""
    error = (x.clamp(0, 1) - truth).square()[..., where].mean()
    return float(-10 * torch.log10(error))


def noisy(x: Tensor, sigma: float) -> Tensor:
    return x + sigma / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


# --- unknown borders -------------------------------------------------------------------------


def operators() -> list[tuple[Operator, int]]:
    kernel = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return [(Blur(kernel / kernel.sum()), 1), (Downsampling(2), 2), (Downsampling(3), 3)]


@pytest.mark.parametrize("which", range(3))
def test_measured_operator_has_its_adjoint(which: int) -> None:
    operator, factor = operators()[which]
    measured = Measured(operator, 3, (6, 7), (13, 14))
    x = torch.randn(1, 3, 13 * factor, 14 * factor, dtype=torch.float64)
    y = torch.randn(1, 3, 6, 7, dtype=torch.float64)
    left, right = (measured.A(x) * y).sum(), (x * measured.A_adjoint(y)).sum()
    assert left.item() == pytest.approx(right.item())


@pytest.mark.parametrize("which", range(3))
def test_measurements_do_not_depend_on_what_is_beyond_the_domain(which: int) -> None:
    operator, factor = operators()[which]
    scene = torch.rand(1, 1, 30 * factor, 30 * factor, dtype=torch.float64)
    measured = Measured(operator, 3, (6, 7), (12, 13))
    inside = scene[..., 8 * factor : 20 * factor, 5 * factor : 18 * factor]
    expected = operator.A(scene)[..., 11:17, 8:15]
    torch.testing.assert_close(measured.A(inside), expected)


@pytest.mark.parametrize("gamma", [0.5, 10.0, 1000.0])
@pytest.mark.parametrize("which", range(3))
def test_prox_of_the_measured_operator_solves_its_system(which: int, gamma: float) -> None:
    operator, factor = operators()[which]
    measured = Measured(operator, 3, (6, 7), (12, 13), tolerance=1e-12, steps=500)
    generator = torch.Generator().manual_seed(2)
    for _ in range(2):  # the second time from the solution of another system
        z = torch.randn(1, 1, 12 * factor, 13 * factor, dtype=torch.float64, generator=generator)
        y = torch.randn(1, 1, 6, 7, dtype=torch.float64, generator=generator)
        x = measured.prox_l2(z, y, gamma)
        gradient = gamma * measured.A_adjoint(measured.A(x) - y) + x - z
        assert gradient.norm() < 1e-7 * gamma * z.norm()


def test_three_steps_of_the_prox_do_for_the_interior() -> None:
    exact = Measured(Blur(gaussian_kernel("k2")), 12, (60, 60), (84, 84), 1e-12, 500)
    quick = Measured(Blur(gaussian_kernel("k2")), 12, (60, 60), (84, 84))
    z, y = torch.rand(1, 1, 84, 84, dtype=torch.float64), torch.rand(1, 1, 60, 60).double()
    near = (..., slice(30, 54), slice(30, 54))
    error = (quick.prox_l2(z, y, 10.0) - exact.prox_l2(z, y, 10.0))[near].norm()
    assert error < 0.01 * exact.prox_l2(z, y, 10.0)[near].norm()


@pytest.mark.parametrize("kernel", ["gaussian:1.6", "gaussian:3,1.22,144"])
def test_border_of_a_real_photograph_is_restored_as_if_the_rest_were_known(kernel: str) -> None:
    # The crop is blurred within its photograph, so that what is beyond its border is real.
    photo, blur = to_tensor(ASTRONAUT)[0], Blur(to_kernel(kernel))
    measured = noisy(blur.A(photo), 2.55)
    y, truth = measured[CROP], photo[CROP]
    border = torch.ones(128, 128, dtype=torch.bool)
    border[12:-12, 12:-12] = False

    def descend(problem: Problem) -> Tensor:
        steps = pnp_gd(problem, smoothness, sigma=0.03, step=120.0, descent="accelerated")
        return next(x for k, x in enumerate(steps, 1) if k == 40)

    problem, inner = pose(Degradation("deblur", to_kernel(kernel)), y, 0.01)
    x = descend(problem)[inner]
    wrapped = descend(Problem("", blur, y, 0.01, y, truth))
    whole = descend(Problem("", blur, measured, 0.01, measured, photo))[CROP]
    assert level(x, truth, border) > level(whole, truth, border) - 0.5
    assert level(x, truth, ~border) > level(whole, truth, ~border) - 0.1
    assert level(x, truth, border) > level(y, truth, border) + 1.0
    assert level(x, truth, border) > level(wrapped, truth, border) + 10.0


def test_descent_with_a_weak_prior_is_stable_at_the_border() -> None:
    y = to_tensor(ASTRONAUT)[0][CROP]
    problem, _ = pose(Degradation("deblur", to_kernel("gaussian:3,1.22,144")), y, 0.0)
    steps = pnp_gd(problem, smoothness, sigma=0.003, step=1e4, descent="accelerated")
    *_, previous, last = (x for _, x in zip(range(300), steps, strict=False))
    assert (last - previous).norm() < 1e-2 * last.norm()
    assert last.abs().max() < 100


@pytest.mark.parametrize("factor", [2, 3])
def test_border_of_an_enlarged_photograph(factor: int) -> None:
    size = 120
    photo = to_tensor(ASTRONAUT)[0][..., :510, :510]
    reduced = Downsampling(factor).A(photo)
    at = 120 // factor
    y = reduced[..., at : at + size // factor, at : at + size // factor]
    truth = photo[..., 120 : 120 + size, 120 : 120 + size]
    problem, inner = pose(Degradation("sr", factor=factor), y, 0.0)
    steps = pnp_gd(problem, smoothness, sigma=0.005, step=5000.0, descent="accelerated")
    x = next(x for k, x in enumerate(steps, 1) if k == 30)[inner]
    assert x.shape == truth.shape
    border = torch.ones(size, size, dtype=torch.bool)
    border[6:-6, 6:-6] = False
    start = problem.start[inner]
    assert level(x, truth, border) > level(start, truth, border)
    assert level(x, truth, ~border) > level(start, truth, ~border)


# --- large images ----------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2])
def test_receptive_radius_covers_what_the_network_sees(blocks: int) -> None:
    network = Regularizer((2, 2, 2, 2), blocks).double()
    initialise(network, torch.Generator().manual_seed(0))
    radius, size = receptive_radius(blocks), 320
    reached = 0
    with torch.no_grad():
        for at in (160, 163, 167):  # the grid of 8 has another phase at each
            x = torch.rand(1, 3, size, 8, dtype=torch.float64)
            changed = x.clone()
            changed[..., at, :] += 1
            rows = (network(changed) - network(x)).abs().amax(dim=(0, 1, 3)).nonzero().flatten()
            reached = max(reached, at - int(rows.min()), int(rows.max()) - at)
    assert radius - 16 < reached <= radius


@pytest.mark.parametrize(("height", "width"), [(203, 330), (64, 391), (192, 192)])
def test_tiles_give_what_the_whole_image_gives(height: int, width: int) -> None:
    network = Denoiser((2, 2, 2, 2), 1).double()
    initialise(network, torch.Generator().manual_seed(0))
    seen: list[int] = []

    def watched(x: Tensor, sigma: float) -> Tensor:
        seen.append(max(x.shape[-2:]))
        return network(x, sigma)

    x = torch.rand(1, 3, height, width, dtype=torch.float64)
    said: list[tuple[int, int]] = []

    def notify(done: int, of: int) -> None:
        said.append((done, of))

    with torch.no_grad():
        whole = network(x, 0.1)
        tiled = Tiled(watched, receptive_radius(1), 64)
        torch.testing.assert_close(tiled(x, 0.1, notify=notify), whole, rtol=0, atol=1e-12)
        assert said == [(k, len(seen)) for k in range(1, len(seen) + 1)]
        assert max(seen) <= 64 + 2 * 56
        less = Tiled(network, 8, 64)(x, 0.1)
    assert (less - whole).abs().max() > 1e-9  # the overlap is needed


@pytest.mark.parametrize("options", [{"iterations": 2}, {"method": "unrolled"}])
def test_large_images_are_split_and_restored(
    options: dict[str, Any], weights: Path, monkeypatch: Any
) -> None:
    image = np.ascontiguousarray(ASTRONAUT[:150, :190])
    call = {"kernel": "gaussian:1.6", "sigma": 2.55, "weights": weights, **options}
    whole = restore(image, "deblur", **call)
    monkeypatch.setattr(restoration, "TILE", 64)  # also: one channel after the other
    load.cache_clear()
    split = restore(image, "deblur", **call)
    load.cache_clear()
    assert np.abs(whole.astype(int) - split).max() <= 1


def test_images_beyond_the_memory_are_refused(weights: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(restoration, "BYTES_PER_PIXEL", 1e12)
    with pytest.raises(InputError, match=r"needs some .* GB of memory"):
        restore(ASTRONAUT, "denoise", sigma=5, weights=weights)


@pytest.mark.parametrize("version", restoration.LIMITS)
def test_the_memory_of_a_container_counts(
    version: tuple[str, str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(restoration, "CONTAINER", tmp_path)
    free = restoration._free_memory()
    most, used, kept = (tmp_path / name for name in version)
    most.parent.mkdir(exist_ok=True)
    used.write_text("3000000\n")
    kept.write_text("anon 5\ninactive_file 500000\nactive_file 7\n")
    most.write_text("max\n")
    assert restoration._free_memory() == pytest.approx(free, rel=0.5)
    most.write_text("4000000\n")
    assert restoration._free_memory() == 1_500_000
    with pytest.raises(InputError, match=r"of 512×512 pixels: needs some 0 GB .* 0 GB are free"):
        restoration.check_memory(512, 512)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "hide the GPU"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "the memory is full"),
        (MemoryError(), "the memory is full"),
    ],
)
def test_full_memory_ends_in_one_line(
    error: Exception, words: str, weights: Path, monkeypatch: Any
) -> None:
    def full(*_: object, **__: object) -> Any:
        raise error

    for where, name in ((restoration, "for_inference"), (Tiled, "forward")):
        load.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(where, name, full)
            with pytest.raises(InputError, match=words):
                restore(ASTRONAUT, "denoise", sigma=5, weights=weights)


# --- unrolled networks -----------------------------------------------------------------------


def test_without_borders_the_unrolled_network_is_what_was_trained(weights: Path) -> None:
    mask = random_mask(40, 48, 20, 0)
    image = ASTRONAUT[:40, 150:198]  # of which the holes hide a part
    out = restore(image, "inpaint", mask=mask, sigma=1, method="unrolled", weights=weights)
    truth = to_tensor(image)[0] * torch.from_numpy(mask)
    drawn = make_problem("inpaint-20", truth, ["a"], 0)  # as in training, but with another mask
    hole = drawn.operator.A(torch.ones_like(truth))[0, 0] == 0
    assert drawn.degraded[..., hole].unique() == 0.5
    known = torch.from_numpy(mask)
    gray = torch.where(known, truth, 0.5)
    network = load_unrolled(weights / "finetune_unrolled/reg/inpaint-20.safetensors")
    with torch.no_grad():
        problem = Problem("", Inpainting(known[None, None]), truth, 0.0, gray, truth)
        assert torch.equal(problem.degraded, gray)
        expected = 255 * network(problem)[0].clamp(0, 1).permute(1, 2, 0)
    assert np.abs(out - expected.numpy()).max() < 1.5  # rounding, of bfloat16 in places


@pytest.mark.parametrize(
    ("task", "options", "sigma", "used"),
    [
        ("deblur", {"kernel": to_kernel("gaussian:1.5")}, 2.55, "deblur-k2-2.55"),
        ("deblur", {"kernel": to_kernel("gaussian:1.6")}, 9.0, "deblur-k2-7.65"),
        ("deblur", {"kernel": gaussian_kernel("k7")}, 5.0, "deblur-k7-2.55"),
        ("deblur", {"kernel": F.pad(gaussian_kernel("k7"), (3, 3, 1, 1))}, 1.0, "deblur-k7-2.55"),
        ("sr", {"factor": 2}, 1.0, "sr-x2-2.55"),
        ("inpaint", {"mask": torch.arange(100).view(10, 10) < 25}, 0.0, "inpaint-20"),
    ],
)
def test_the_unrolled_network_of_the_nearest_task_is_taken(
    task: Any, options: dict[str, Any], sigma: float, used: str, weights: Path
) -> None:
    file = network_file(weights, "unrolled", Degradation(task, **options), sigma / 255)
    assert file == weights / f"finetune_unrolled/reg/{used}.safetensors"
    assert (GAIN * load_unrolled(file).log_step).exp()[0].item() == pytest.approx(
        (UNROLLED.index(used) + 1) / 10
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--task", "sr", "--factor", 3), "no network for sr ×3"),
        (("--task", "deblur", "--kernel", "gaussian:3"), "no network for deblur by this kernel"),
        # As wide as k7 and turned by 90 degrees.
        (("--task", "deblur", "--kernel", "gaussian:2.65,2.24,142.2"), "deblur by this kernel"),
        (("--task", "denoise"), "no network for denoise"),
        (("--task", "sr", "--factor", 2, "--sigma", 25), "no network for sr ×2 at sigma 25"),
        (("--task", "sr", "--factor", 2, "--iterations", 5), "iterations: an unrolled network"),
    ],
)
def test_without_an_unrolled_network_the_line_names_those_there_are(
    options: tuple[object, ...], words: str, album: Path, weights: Path
) -> None:
    arguments = ("album/a.png", "-o", "x.png", "--method", "unrolled", "--weights", weights)
    result = call("restore", *arguments, "--sigma", 2, *options)
    assert_one_line_of_error(result, words)
    if "iterations" not in words:
        for suits in ("gaussian:2.65,2.24,52.2 at sigma up to 5.1", "sr ×2", "10% to 30%"):
            assert_one_line_of_error(result, suits)


def test_noise_that_no_unrolled_network_suits_is_refused_before_any_work(
    tmp_path: Path, weights: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    flat = np.full((40, 40, 3), 128, np.uint8)
    loud = np.random.default_rng(0).normal(128, 40, flat.shape).clip(0, 255).astype(np.uint8)
    for name, pixels in (("a", flat), ("b", loud)):
        write_photo(folder / f"{name}.png", Photo(pixels))
    how = ("--task", "sr", "--factor", 2, "--method", "unrolled", "--weights", weights)
    result = call("restore", folder, "-o", tmp_path / "out", *how)
    assert_one_line_of_error(result, "b.png: method unrolled", "no network for sr ×2 at sigma")
    assert not (tmp_path / "out").exists()
    for task in ({"factor": 4}, {"task": "denoise"}):
        with pytest.raises(InputError, match="no network for"):
            Restoration.of(**{"task": "sr", **task}, method="unrolled", weights=weights)


def test_sheets_of_an_interrupted_run_are_drawn_again(
    album: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = ("--task", "denoise", "--weights", weights, "--sigma", 5, "--compare")

    def full(*_: object) -> None:
        raise InputError("a.png cannot be written (No space left on device)")

    with monkeypatch.context() as patch:  # what is written last says that all of it is done
        patch.setattr("reg.photos.write_whole", full)
        assert_one_line_of_error(call("restore", "album/a.png", "-o", "out", *how), "No space left")
    assert [path.name for path in Path("out").iterdir()] == ["a-compare.png"]
    again = call("restore", "album/a.png", "-o", "out", *how, "--skip-existing")
    assert (again.exit_code, Path("out/a.png").exists()) == (0, True)


def test_an_unrolled_network_takes_no_mask_of_many_more_known_pixels(weights: Path) -> None:
    mostly_known = Degradation("inpaint", mask=torch.arange(100).view(10, 10) < 90)
    with pytest.raises(InputError, match=r"no network for inpaint with 90% known"):
        network_file(weights, "unrolled", mostly_known, 0.0)


def test_an_unrolled_network_restores_to_the_border(weights: Path) -> None:
    flat = np.full((40, 50, 3), 100, np.uint8)
    silent = Regularizer((2, 2, 2, 2), 1, scale=1e-6)  # G = 0: only the data term is left
    still = Unrolled(silent, 4, step=1.0, sigma=0.01)
    folder = weights.parent / "silent"
    save_unrolled(still, folder / "finetune_unrolled/reg/deblur-k5-2.55.safetensors", {})
    kernel = gaussian_kernel("k5")
    out = restore(flat, "deblur", kernel=kernel, sigma=1, method="unrolled", weights=folder)
    assert np.abs(out.astype(int) - 100).max() <= 1


# --- parameters ------------------------------------------------------------------------------

TUNED = {
    "deblur-k2-2.55": {"pnp-gd": {"sigma": 2.0, "curvature": 100.0}},
    "deblur-k2-7.65": {"pnp-gd": {"sigma": 4.0, "curvature": 200.0}},
    "deblur-k7-2.55": {"pnp-gd": {"sigma": 1.0, "curvature": 300.0}},
    "sr-x2-2.55": {"pnp-gd": {"sigma": 1.0, "curvature": 400.0}},
    "sr-x3-2.55": {"pnp-gd": {"sigma": 1.5, "curvature": 500.0}},
    "inpaint-20": {"pnp-gd": {"sigma": 0.5, "curvature": 600.0}},
    "inpaint-10": {"pnp-gd": {"sigma": 0.7, "curvature": 700.0}},
}


@pytest.mark.parametrize(
    ("degradation", "noise", "sigma", "curvature"),
    [
        (Degradation("deblur", gaussian_kernel("k2")), 2.55, 2.0, 100),
        (Degradation("deblur", gaussian_kernel("k2")), 5.1, 4.0 / 1.5, 200),
        (Degradation("deblur", gaussian_kernel("k2")), 25.5, 4.0 / 0.3, 200),
        (Degradation("deblur", gaussian_kernel("k7")), 7.65, 3.0, 300),
        (Degradation("sr", factor=2), 5.1, 2.0**0.75, 400),
        (Degradation("sr", factor=4), 2.55, 1.5, 500),
        (Degradation("inpaint", mask=torch.arange(100).view(10, 10) < 12), 0.0, 0.7, 700),
        (Degradation("inpaint", mask=torch.arange(100).view(10, 10) < 90), 3.0, 3.0, 600),
        (Degradation("sr", factor=2), 0.1, 2.55**-0.75, 400),  # no weaker than for a noise of 1
    ],
)
def test_parameters_of_the_nearest_task_follow_the_noise(
    degradation: Degradation, noise: float, sigma: float, curvature: float
) -> None:
    found = scaled(degradation, noise / 255, "pnp-gd", TUNED)
    assert found["sigma"] == pytest.approx(sigma)
    assert found["curvature"] == curvature


def wiener_mean(kernel: Tensor, noise: float) -> float:
    """By a loop over frequencies: the mean gain of Wiener's filter for S ∝ 1/f²."""
    n = 256
    f = np.fft.fftfreq(n)
    power = np.array([[1 / (u * u + v * v) if u or v else 1 / f[1] ** 2 for u in f] for v in f])
    power *= 0.05 / power.mean()
    blur = np.abs(np.fft.fft2(kernel.numpy(), (n, n))) ** 2
    return float((blur * power / (blur * power + noise**2)).mean())


@pytest.mark.parametrize("name", ["k2", "k5"])
def test_what_a_kernel_resolves_is_the_mean_gain_of_wieners_filter(name: str) -> None:
    kernel = gaussian_kernel(name)
    assert resolved(kernel, 0.01) == pytest.approx(wiener_mean(kernel, 0.01), rel=1e-9)
    assert resolved(kernel, 0.1) < resolved(kernel, 0.01) < resolved(torch.ones(1, 1), 0.01) < 1


def test_a_kernel_that_leaves_more_of_the_scene_has_a_stronger_prior() -> None:
    def sigma(kernel: Tensor) -> float:
        return scaled(Degradation("deblur", kernel), 0.01, "pnp-gd", TUNED)["sigma"]

    line = torch.zeros(7, 7, dtype=torch.float64)
    line[3] = 1 / 7
    ratio = wiener_mean(line, 0.01) / wiener_mean(gaussian_kernel("k2"), 0.01)
    assert sigma(line) == pytest.approx(2.0 * ratio ** (1 / 3))
    assert sigma(line) > 1.4 * sigma(gaussian_kernel("k2"))
    point = scaled(Degradation("denoise"), 0.01, "pnp-gd", TUNED)["sigma"]
    assert point == pytest.approx(sigma(torch.ones(1, 1, dtype=torch.float64)))


@pytest.mark.parametrize(("noise", "sigma"), [(60.0, 50.0), (150.0, 4.0 * 150 / 7.65)])
def test_a_prior_is_raised_to_no_more_than_networks_were_trained_for(
    noise: float, sigma: float
) -> None:
    # At 60 the factor of no blur would raise σ = 31 beyond 50; σ = 78 at 150 is not lowered.
    found = scaled(Degradation("denoise"), noise / 255, "pnp-gd", TUNED)["sigma"]
    assert found == pytest.approx(sigma)


def test_a_task_tuned_without_noise_has_a_prior_for_any_kernel() -> None:
    tuned = {"deblur-k2-0": {"pnp-gd": {"sigma": 0.5, "curvature": 100.0}}}
    found = scaled(Degradation("deblur", to_kernel("gaussian:1")), 0.0, "pnp-gd", tuned)
    assert 0.5 < found["sigma"] < 1.5


@pytest.mark.parametrize("method", ["pnp-gd", "admm"])
def test_a_line_is_deblurred_as_well_as_a_gaussian(method: Any) -> None:
    # With the released weights; by the parameters of the Gaussian alone it gains 1 to 3 dB less.
    line = np.zeros((7, 7))
    line[3] = 1
    truth = ASTRONAUT[:128, 160:288]
    y = degrade(truth, "deblur", kernel=line, sigma=2.55)
    levels = [
        float(-10 * np.log10(np.mean((image / 255.0 - truth / 255.0) ** 2)))
        for image in (y, restore(y, "deblur", kernel=line, sigma=2.55, method=method))
    ]
    assert levels[1] > levels[0] + 3.0


@pytest.mark.parametrize("task", ["deblur", "sr", "inpaint", "denoise"])
@pytest.mark.parametrize("method", ["pnp-gd", "pnp-admm"])
def test_without_noise_there_is_still_a_prior(task: Any, method: str) -> None:
    needs: dict[str, Any] = {
        "deblur": {"kernel": to_kernel("gaussian:1")},
        "sr": {"factor": 2},
        "inpaint": {"mask": torch.ones(4, 4).bool()},
    }
    parameters = scaled(Degradation(task, **needs.get(task, {})), 0.0, method, {})
    assert all(value > 0 for value in parameters.values())


def test_tuned_parameters_are_found_beside_the_models(tmp_path: Path) -> None:
    models, chosen = tmp_path / "models" / "mine", tmp_path / "results/mine/tune/chosen.json"
    models.mkdir(parents=True)
    assert parameters_of(models) == {}
    chosen.parent.mkdir(parents=True)
    chosen.write_text(json.dumps(TUNED))
    assert parameters_of(models) == TUNED
    (models / "chosen.json").write_text('{"sr-x2-2.55": {}}')
    assert parameters_of(models) == {"sr-x2-2.55": {}}
    for damaged in ("[1]", "{", '{"sr-x2-2.55": {"pnp-gd": {"sigma": "much"}}}'):
        (models / "chosen.json").write_text(damaged)
        with pytest.raises(InputError, match=r"chosen\.json: cannot be read"):
            parameters_of(models)


@pytest.mark.parametrize("given", [{}, {"sigma": 2.0}, {"sigma": 0.0, "curvature": 800.0}])
def test_parameters_that_are_none_are_named(given: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"chosen\.json: pnp-gd of sr-x2-2\.55 needs sigma and"):
        scaled(Degradation("sr", factor=2), 0.01, "pnp-gd", {"sr-x2-2.55": {"pnp-gd": given}})


def test_a_gray_photograph_has_a_gray_truth() -> None:
    gray, colour = np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(InputError, match="truth: has colour, the photograph is gray"):
        restoration.trimmed(colour, gray)
    assert restoration.trimmed(gray, gray) is not None


def test_the_richest_part_is_where_neighbours_differ_most() -> None:
    x = torch.zeros(1, 3, 200, 300)
    x[..., 50:170, 130:250:2] = 1.0
    rows, columns = restoration._richest(x, 120)
    assert (rows, columns) == (slice(50, 170), slice(129, 249))


def test_noise_is_estimated() -> None:
    for sigma in (5, 20):
        y = noisy(to_tensor(ASTRONAUT)[0], sigma)
        assert 255 * noise_level(y, "denoise", None) == pytest.approx(sigma, rel=0.2)


# --- arrays ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 48), (40, 48, 1), (40, 48, 2), (40, 48, 3), (40, 48, 4)])
@pytest.mark.parametrize("task", ["sr", "denoise"])
def test_arrays_come_back_as_they_were(task: Any, shape: Any, dtype: Any, weights: Path) -> None:
    white = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
    image = (np.random.default_rng(0).random(shape) * white).astype(dtype)
    factor = 2 if task == "sr" else None
    iterations = 1 if task == "sr" else None
    out = restore(image, task, factor=factor, sigma=5, weights=weights, iterations=iterations)
    assert out.dtype == dtype
    scale = factor or 1
    assert out.shape == (40 * scale, 48 * scale, *shape[2:])
    if factor is None and shape[2:] in ((2,), (4,)):
        np.testing.assert_array_equal(out[..., -1], image[..., -1])
    assert np.isfinite(out).all()


def test_enlarged_alpha_follows_the_image(weights: Path) -> None:
    image = np.full((20, 24, 4), 255, np.uint8)
    image[:10, :, 3] = 0
    out = restore(image, "sr", factor=2, sigma=1, weights=weights, iterations=1)
    assert (out[:16, :, 3] == 0).all()
    assert (out[24:, :, 3] == 255).all()


def test_known_pixels_stay_in_noise_free_inpainting(weights: Path) -> None:
    image = np.ascontiguousarray(ASTRONAUT[:60, :60])
    mask = random_mask(60, 60, 40, 0)
    out = restore(image, "inpaint", mask=mask, weights=weights, iterations=2)
    np.testing.assert_array_equal(out[mask], image[mask])
    ignored = restore(image * mask[..., None], "inpaint", mask=mask, weights=weights, iterations=2)
    np.testing.assert_array_equal(out, ignored)  # what holes hold does not matter


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"task": "sharpen"}, "task 'sharpen': must be one of"),
        ({"task": "deblur"}, "deblur: needs a kernel"),
        ({"task": "sr"}, "sr: needs a factor"),
        ({"task": "inpaint"}, "inpaint: needs a mask"),
        ({"task": "denoise", "factor": 2}, "factor: task denoise has none"),
        ({"task": "sr", "factor": 5}, "factor 5: must be 2, 3 or 4"),
        ({"task": "sr", "factor": 2.0}, "factor 2.0: must be 2, 3 or 4"),
        ({"task": "sr", "factor": "2"}, "factor 2: must be 2, 3 or 4"),
        ({"task": "denoise", "sigma": "2"}, "sigma 2: must be auto, or a noise level"),
        ({"task": "denoise", "sigma": [2]}, "sigma .*: must be auto, or a noise level"),
        ({"task": "sr", "factor": 2, "iterations": 2.5}, "iterations 2.5: must be a whole number"),
        ({"task": "inpaint", "mask": "nowhere.png"}, "nowhere.png: cannot be read"),
        ({"task": "inpaint", "mask": [[1, 1], [1]]}, "mask: is no array"),
        ({"task": "deblur", "kernel": [[1, 1], [1]]}, "kernel: must be a 2-D array"),
        ({"task": "deblur", "kernel": [[1j, 1]]}, "kernel: must be a 2-D array"),
        ({"task": "deblur", "kernel": "x" * 300}, "cannot be read as a blur kernel"),
        ({"task": "deblur", "kernel": ""}, "kernel '': no such file; give .* or gaussian:STD"),
        ({"task": "deblur", "kernel": "gaussian"}, "'gaussian': no such file; .* gaussian:STD"),
        ({"task": "denoise", "weights": "nowhere"}, "nowhere: no such folder"),
        ({"task": "denoise", "sigma": float("nan")}, "sigma nan"),
        ({"task": "denoise", "sigma": -1.0}, "sigma -1.0"),
        ({"task": "denoise", "sigma": 300.0}, "sigma 300.0"),
        ({"task": "denoise", "method": "red"}, "method 'red'"),
        ({"task": "sr", "factor": 2, "method": "denoiser"}, "method 'denoiser'"),
        ({"task": "sr", "factor": 2, "iterations": 0}, "iterations 0"),
        ({"task": "inpaint", "mask": np.ones((3, 3))}, "mask of 3×3 pixels"),
        ({"task": "inpaint", "mask": np.zeros((30, 30))}, "no known pixel"),
        ({"task": "inpaint", "mask": np.full((30, 30), 0.5)}, "black .* and white"),
        ({"task": "inpaint", "mask": np.full((30, 30), np.nan)}, "black .* and white"),
        ({"task": "inpaint", "mask": np.ones((30, 30)), "sigma": "auto"}, "sigma auto"),
        ({"task": "deblur", "kernel": np.full((3, 3), np.nan)}, "kernel: must be"),
        ({"task": "deblur", "kernel": np.zeros((3, 3))}, "kernel: must be"),
        ({"task": "deblur", "kernel": -np.ones((3, 3))}, "kernel: must be"),
        ({"task": "deblur", "kernel": np.ones(3)}, "kernel: must be"),
        ({"task": "deblur", "kernel": np.ones((31, 31)), "sigma": 1}, "kernel of 31 pixels"),
        ({"task": "deblur", "kernel": "gaussian:"}, "must be gaussian:STD"),
        ({"task": "deblur", "kernel": "gaussian:1,2"}, "must be gaussian:STD"),
        ({"task": "deblur", "kernel": "gaussian:nan"}, "must be gaussian:STD"),
        ({"task": "deblur", "kernel": "gaussian:0"}, "from 0.1 to 100"),
        ({"task": "deblur", "kernel": "gaussian:1e9"}, "from 0.1 to 100"),
        ({"task": "deblur", "kernel": "nowhere.npy"}, "nowhere.npy"),
        ({"task": "denoise", "weights": Path("nowhere")}, "nowhere: no such folder"),
    ],
)
def test_arguments_that_cannot_be_used(
    arguments: dict[str, Any], words: str, weights: Path
) -> None:
    with pytest.raises(InputError, match=words) as error:
        restore(np.zeros((30, 30), np.uint8), **{"weights": weights, **arguments})
    assert "\n" not in str(error.value)


def test_arguments_of_other_types_are_taken(tmp_path: Path, weights: Path) -> None:
    image = np.ascontiguousarray(ASTRONAUT[:24, 150:180])
    mask = random_mask(24, 30, 50, 0)
    write_photo(tmp_path / "mask.png", Photo(mask[..., None].astype(np.uint8) * 255))
    for task, usual, other in (
        ("inpaint", {"mask": mask}, {"mask": str(tmp_path / "mask.png")}),
        ("inpaint", {"mask": mask}, {"mask": torch.from_numpy(mask)}),
        ("sr", {"factor": 2}, {"factor": np.int64(2)}),
        ("deblur", {"kernel": np.eye(3)}, {"kernel": np.eye(3).tolist()}),
    ):
        call: dict[str, Any] = {"sigma": 2.0, "iterations": 1, "weights": weights}
        expected = restore(image, task, **call, **usual)
        call = {"sigma": np.float32(2), "iterations": np.int32(1), "weights": str(weights)}
        made = restore(torch.from_numpy(image), task, **call, **other)
        np.testing.assert_array_equal(made, expected)
        np.testing.assert_array_equal(
            degrade(torch.from_numpy(image), task, **other), degrade(image, task, **usual)
        )


@pytest.mark.parametrize("sigma", ["auto", "2", None, -1, 300, np.nan])
def test_degrading_needs_a_level_of_noise(sigma: Any) -> None:
    with pytest.raises(InputError, match=r"sigma .*: must be a noise level from 0 to 255"):
        degrade(ASTRONAUT[:9, :9], "denoise", sigma=sigma)


@pytest.mark.parametrize(
    "image",
    [
        [[0.5, 0.5], [0.5]],
        "album/a.png",
        torch.zeros(5, 5, requires_grad=True),
        np.zeros((0, 5), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((5, 5, 5), np.uint8),
        np.zeros((5, 5), np.int32),
        np.full((5, 5), np.nan),
        np.full((5, 5), 255.0),
    ],
)
def test_arrays_that_are_no_images(image: Any, weights: Path) -> None:
    for call in (partial(restore, weights=weights), degrade):
        with pytest.raises(InputError, match=r"^image(:| of)") as error:
            call(image, "denoise", sigma=5)
        assert "\n" not in str(error.value)


def test_a_network_of_another_kind_is_refused(tmp_path: Path, weights: Path) -> None:
    path = tmp_path / "train_reg/updated/0/regularizer.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes((weights / "pretrain/denoiser.safetensors").read_bytes())
    write_weights(
        tmp_path / "finetune_unrolled/reg/sr-x2-2.55.safetensors",
        {"step": torch.ones(1)},
        {"kind": "regularizer", "channels": [2], "blocks": 1},
    )
    for method in ("pnp-gd", "unrolled"):
        with pytest.raises(InputError, match="is needed here"):
            restore(
                np.zeros((30, 30), np.uint8),
                "sr", factor=2, sigma=1, weights=tmp_path, method=method,
            )  # fmt: skip


def test_what_diverges_is_not_returned(weights: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(restoration, "load", lambda *_: lambda x: torch.full_like(x, torch.nan))
    with pytest.raises(InputError, match="deblur by pnp-gd: diverged"):
        restore(
            np.zeros((30, 30), np.uint8), "deblur", kernel="gaussian:1", sigma=1, weights=weights
        )


def test_a_parameter_file_of_another_project_is_not_read(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("train: {epochs: 3}\n")
    shutil.copytree(weights, "weights/released")
    assert find_weights() == Path("weights/released")


def test_a_network_that_was_trained_anew_is_read_anew(tmp_path: Path, weights: Path) -> None:
    folder = shutil.copytree(weights, tmp_path / "mine")
    before = restore(ASTRONAUT[:32, :32], "denoise", sigma=25, weights=folder)
    network = Denoiser((2, 2, 2, 2), 1)
    initialise(network, torch.Generator().manual_seed(9))
    save_network(network, folder / "pretrain" / "denoiser.safetensors")
    after = restore(ASTRONAUT[:32, :32], "denoise", sigma=25, weights=folder)
    assert not np.array_equal(before, after)


def test_a_denoiser_has_no_iterations(weights: Path) -> None:
    with pytest.raises(InputError, match="one pass"):
        restore(ASTRONAUT[:32, :32], "denoise", iterations=7, weights=weights)


@pytest.mark.parametrize("sides", [(1, 36), (36, 1)])
def test_a_mask_may_be_a_line(sides: tuple[int, int], tmp_path: Path) -> None:
    mask = np.arange(36).reshape(sides) % 3 == 0
    write_photo(tmp_path / "mask.png", Photo(mask[..., None].astype(np.uint8) * 255))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask)


def test_masks_are_black_and_white_images(tmp_path: Path) -> None:
    mask = random_mask(20, 30, 50, 0)
    for channels, dtype in (
        (1, np.uint8),
        (2, np.uint8),
        (3, np.uint8),
        (4, np.uint8),
        (1, np.uint16),
    ):
        pixels = np.repeat(mask[..., None], channels, 2) * np.iinfo(dtype).max
        pixels = pixels.astype(dtype)
        write_photo(tmp_path / "mask.png", Photo(pixels))
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask)
    Image.fromarray(mask).save(tmp_path / "mask.png")  # one bit
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), mask)
    Image.fromarray(ASTRONAUT).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png: mask: must be black"):
        read_mask(tmp_path / "mask.png")
    with pytest.raises(InputError):
        to_mask(np.eye(4) * 3)


def test_kernels_from_files(tmp_path: Path) -> None:
    kernel = np.outer([1, 2, 1], [1, 3, 1]).astype(np.uint8)
    np.save(tmp_path / "psf.npy", kernel)
    Image.fromarray(kernel).save(tmp_path / "psf.png")
    for name in ("psf.npy", "psf.png"):
        torch.testing.assert_close(
            to_kernel(str(tmp_path / name)), torch.from_numpy(kernel / kernel.sum())
        )
    assert to_kernel("gaussian:10").shape == (61, 61)


@pytest.mark.parametrize("name", GAUSSIAN_KERNELS)
def test_gaussian_kernels_are_as_large_as_they_matter(name: str) -> None:
    (along, across), angle = GAUSSIAN_KERNELS[name]
    kernel, whole = to_kernel(f"gaussian:{along},{across},{angle}"), gaussian_kernel(name)
    rows, columns = ((25 - side) // 2 for side in kernel.shape)
    padded = F.pad(kernel, (columns, columns, rows, rows))
    assert padded.shape == whole.shape
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(padded, whole, rtol=1e-5, atol=1e-6 * float(whole.max()))
    assert max(kernel.shape) <= min(10.6 * max(along, across) + 1, 25)


def test_a_narrow_blur_fits_a_small_photograph(album: Path, weights: Path) -> None:
    write_photo(Path("small.png"), Photo(np.ascontiguousarray(ASTRONAUT[:5, 150:157])))
    narrow = ("--task", "deblur", "--kernel", "gaussian:0.5")
    assert call("degrade", "small.png", "-o", "y.png", *narrow).exit_code == 0
    result = call("restore", "y.png", "-o", "x.png", *narrow, "--sigma", 2, "--weights", weights)
    assert result.exit_code == 0
    assert read_photo(Path("x.png")).pixels.shape == (5, 7, 3)
    wide = ("--task", "deblur", "--kernel", "gaussian:2")
    assert_one_line_of_error(
        call("degrade", "small.png", "-o", "z.png", *wide), "small.png: ", "choose a smaller STD"
    )


# --- test inputs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "options", "shape"),
    [
        ("deblur", {"kernel": "gaussian:3"}, (61, 80)),
        ("sr", {"factor": 3}, (20, 26)),
        ("denoise", {}, (61, 80)),
    ],
)
def test_degrading_has_no_frame(task: Any, options: dict[str, Any], shape: Any) -> None:
    flat = np.full((61, 80, 3), 77, np.uint8)
    out = degrade(flat, task, **options)
    assert out.shape == (*shape, 3)
    assert (out == 77).all()


def test_degrading_is_seeded() -> None:
    flat = np.full((64, 64, 3), 128, np.uint8)
    once = degrade(flat, "denoise", sigma=10, seed=1)
    np.testing.assert_array_equal(once, degrade(flat, "denoise", sigma=10, seed=1))
    assert (once != degrade(flat, "denoise", sigma=10, seed=2)).any()
    assert once.std() == pytest.approx(10, rel=0.05)
    mask = random_mask(200, 200, 20, 0)
    assert mask.mean() == pytest.approx(0.2, abs=0.01)
    holes = degrade(np.full((200, 200), 200, np.uint8), "inpaint", mask=mask, sigma=2)
    assert (holes[~mask] == 0).all()
    assert holes[mask].mean() == pytest.approx(200, abs=0.2)


# --- the commands ----------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("album").mkdir()
    for name, size in (("a.png", 48), ("b.png", 40)):
        write_photo(Path("album", name), Photo(np.ascontiguousarray(ASTRONAUT[:size, 150:214])))
    return Path("album")


def call(command: str, *arguments: object) -> Result:
    texts = [command, *map(str, arguments)]
    return CliRunner().invoke(main, texts, catch_exceptions=False)


TASKS: dict[str, tuple[object, ...]] = {
    "deblur": ("--kernel", "gaussian:1", "--sigma", 2.55),
    "sr": ("--factor", 2, "--sigma", 2.55),
    "inpaint": ("--mask", "y-mask.png"),
    "denoise": ("--sigma", 10),
}


@pytest.mark.parametrize("task", TASKS)
def test_degrade_then_restore(task: str, album: Path, weights: Path) -> None:
    options = ("--known", 50) if task == "inpaint" else TASKS[task]
    made = call("degrade", "album/a.png", "-o", "y.png", "--task", task, *options)
    assert (made.exit_code, made.stderr, made.stdout) == (0, "", "y.png\n")
    restored = call(
        "restore", "y.png", "-o", "x.png", "--task", task, *TASKS[task], "--weights", weights,
        *(() if task == "denoise" else ("--iterations", 2)), "--truth", "album/a.png", "--compare",
    )  # fmt: skip
    assert (restored.exit_code, restored.stderr) == (0, "")
    assert restored.stdout.startswith("x.png: ")
    assert " dB\n" in restored.stdout
    assert read_photo(Path("x.png")).pixels.shape == (48, 64, 3)
    assert read_photo(Path("x-compare.png")).pixels.shape[0] > 100


def test_metadata_go_through_the_command(album: Path, weights: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[271] = 6, "Maker"
    pixels = np.random.default_rng(0).integers(0, 65535, (20, 30, 4), dtype=np.uint16)
    write_photo(Path("in.tif"), Photo(pixels, {"exif": exif.tobytes(), "icc_profile": b"profile"}))
    result = call(
        "restore", "in.tif", "-o", "out.png", "--task", "denoise", "--sigma", 5,
        "--weights", weights,
    )  # fmt: skip
    assert result.exit_code == 0
    out = read_photo(Path("out.png"))
    assert out.pixels.dtype == np.uint16
    assert out.pixels.shape == (30, 20, 4)
    np.testing.assert_array_equal(out.pixels[..., 3], np.rot90(pixels, -1)[..., 3])
    assert out.metadata["icc_profile"] == b"profile"


def test_folders_are_restored_whole_and_resumed(album: Path, weights: Path) -> None:
    options = ("--task", "denoise", "--sigma", 5, "--weights", weights)
    result = call("restore", album, "-o", "out", *options)
    assert result.exit_code == 0
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["out/a.png", "out/b.png"]
    first = Path("out/a.png").read_bytes()
    assert_one_line_of_error(call("restore", album, "-o", "out", *options), "out/a.png", "--force")
    Path("out/b.png").unlink()
    again = ("album/*.png", "-o", "out", *options, "--skip-existing")
    result = call("restore", *again)
    assert result.stdout.startswith("out/b.png")
    assert result.stdout.splitlines()[1:] == ["1 skipped: their outputs exist"]
    assert call("restore", *again).stdout == "2 skipped: their outputs exist\n"
    assert_one_line_of_error(call("restore", *again, "--force"), "--force", "--skip-existing")
    assert call("restore", album, "-o", "out", *options, "--force").exit_code == 0
    assert Path("out/a.png").read_bytes() == first  # the same bytes from the same input


def test_a_bad_photograph_among_many_stops_before_any_work(album: Path, weights: Path) -> None:
    (album / "z.png").write_bytes(b"")
    result = call(
        "restore", album, "-o", "out", "--task", "denoise", "--sigma", 5, "--weights", weights
    )
    assert_one_line_of_error(result, "album/z.png: is empty")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("denoise", ("--sigma", 5), "sigma 5"),
        ("denoise", (), r"sigma \d+(\.\d+)? \(estimated\)"),
        ("sr", ("--factor", 2, "--sigma", 2.55, "--iterations", 2), "sigma 2.55, 2 iterations"),
        ("sr", ("--factor", 2, "--sigma", 2.55, "--iterations", 1), "sigma 2.55, 1 iteration"),
        ("sr", ("--factor", 2, "--sigma", 0.5, "--method", "unrolled"), "sigma 0.5"),
    ],
)
def test_a_line_says_what_was_done(
    task: str, options: tuple[object, ...], said: str, album: Path, weights: Path
) -> None:
    result = call(
        "restore", "album/a.png", "-o", "x.png", "--task", task, *options, "--weights", weights
    )
    assert result.exit_code == 0
    assert re.fullmatch(rf"x\.png: \d+\.\d s, {said}\n", result.stdout)


def test_files_of_a_folder_that_are_left_out_are_counted(album: Path, weights: Path) -> None:
    Image.fromarray(ASTRONAUT[:9, :9]).save(album / "c.bmp")
    for command, options in (("restore", ("--weights", weights)), ("degrade", ())):
        result = call(command, album, "-o", command, "--task", "denoise", "--sigma", 5, *options)
        assert result.exit_code == 0
        assert result.stdout.splitlines()[2:] == [
            "1 left out: no PNG, JPEG, TIFF or WebP by their suffix"
        ]


def corrupt(name: str, make: Callable[[Path], object]) -> None:
    make(Path(name))


BAD_CALLS: dict[str, tuple[object, ...]] = {
    "no input": ("-o", "x.png", "--task", "denoise"),
    "no output": ("album/a.png", "--task", "denoise"),
    "no task": ("album/a.png", "-o", "x.png"),
    "task": ("album/a.png", "-o", "x.png", "--task", "sharpen"),
    "method": ("album/a.png", "-o", "x.png", "--task", "denoise", "--method", "red"),
    "option": ("album/a.png", "-o", "x.png", "--task", "denoise", "--strength", "3"),
    "sigma": ("album/a.png", "-o", "x.png", "--task", "denoise", "--sigma", "much"),
    "sigma nan": ("album/a.png", "-o", "x.png", "--task", "denoise", "--sigma", "nan"),
    "sigma inf": ("album/a.png", "-o", "x.png", "--task", "denoise", "--sigma", "inf"),
    "factor": ("album/a.png", "-o", "x.png", "--task", "sr", "--factor", "two"),
    "factor 1": ("album/a.png", "-o", "x.png", "--task", "sr", "--factor", "1"),
    "no kernel": ("album/a.png", "-o", "x.png", "--task", "deblur"),
    "missing": ("nowhere.png", "-o", "x.png", "--task", "denoise"),
    "suffix": ("album/a.png", "-o", "x.xyz", "--task", "denoise"),
    "suffix jp2": ("album/a.png", "-o", "x.jp2", "--task", "denoise"),
    "exists": ("album/a.png", "-o", "album/b.png", "--task", "denoise", "--sigma", "5"),
    "itself": ("album/a.png", "-o", "album/a.png", "--task", "denoise", "--sigma", "5"),
    "folder": ("album/a.png", "-o", "/proc/nowhere/x.png", "--task", "denoise", "--sigma", "5"),
    "not a folder": ("album/a.png", "-o", "album/b.png/x.png", "--task", "denoise"),
    "mask size": ("album/a.png", "-o", "x.png", "--task", "inpaint", "--mask", "small.png"),
    "mask gray": ("album/a.png", "-o", "x.png", "--task", "inpaint", "--mask", "album/a.png"),
    "mask file": ("album/a.png", "-o", "x.png", "--task", "inpaint", "--mask", "text.png"),
    "mask missing": ("album/a.png", "-o", "x.png", "--task", "inpaint", "--mask", "no.png"),
    "kernel nan": ("album/a.png", "-o", "x.png", "--task", "deblur", "--kernel", "nan.npy"),
    "kernel huge": ("album/a.png", "-o", "x.png", "--task", "deblur", "--kernel", "huge.npy"),
    "kernel text": ("album/a.png", "-o", "x.png", "--task", "deblur", "--kernel", "text.png"),
    "kernel zip": ("album/a.png", "-o", "x.png", "--task", "deblur", "--kernel", "zip.npy"),
    "kernel object": ("album/a.png", "-o", "x.png", "--task", "deblur", "--kernel", "object.npy"),
    "kernel large": (
        "album/a.png", "-o", "x.png", "--task", "deblur", "--kernel", "large.npy", "--sigma", "1"
    ),
    "kernel folder": ("album/a.png", "-o", "x.png", "--task", "deblur", "--kernel", "album"),
    "text": ("text.png", "-o", "x.png", "--task", "denoise", "--sigma", "5"),
    "truncated": ("cut.png", "-o", "x.png", "--task", "denoise", "--sigma", "5"),
    "16 bits": ("deep.png", "-o", "x.jpg", "--task", "denoise", "--sigma", "5"),
    "truth": (
        "album/a.png", "-o", "x.png", "--task", "denoise", "--sigma", "5", "--truth", "album/b.png"
    ),
    "truth missing": (
        "album/a.png", "-o", "x.png", "--task", "denoise", "--sigma", "5", "--truth", "no.png"
    ),
    "weights": (
        "album/a.png", "-o", "x.png", "--task", "denoise", "--sigma", "5", "--weights", "album"
    ),
}  # fmt: skip


@pytest.mark.parametrize("which", BAD_CALLS)
def test_bad_input_ends_in_one_line_and_changes_nothing(
    which: str, album: Path, weights: Path
) -> None:
    Path("text.png").write_text("no image")
    Path("cut.png").write_bytes(Path("album/a.png").read_bytes()[:900])
    write_photo(Path("small.png"), Photo(np.full((5, 5, 1), 255, np.uint8)))
    write_photo(Path("deep.png"), Photo(np.zeros((20, 20, 3), np.uint16)))
    np.save("nan.npy", np.full((3, 3), np.nan))
    np.save("object.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save("large.npy", np.ones((99, 99)))
    with Path("zip.npy").open("wb") as file:
        np.savez(file, np.ones((3, 3)))
    head = "{'descr': '<f8', 'fortran_order': False, 'shape': (999999, 9999999), }"
    Path("huge.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode()
    )
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    given = BAD_CALLS[which]
    extra = () if "--weights" in given else ("--weights", weights)
    assert_one_line_of_error(call("restore", *given, *extra))
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", BAD)
def test_hostile_photographs_in_every_place(name: str, album: Path, weights: Path) -> None:
    Path(name).write_bytes(BAD[name][0])
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    denoise = ("--task", "denoise", "--sigma", 5)
    for given in (
        ("restore", name, "-o", "x.png", *denoise, "--weights", weights),
        ("restore", "album/a.png", "-o", "x.png", *denoise, "--weights", weights, "--truth", name),
        ("restore", "album/a.png", "-o", "x.png", "--task", "inpaint", "--mask", name),
        ("degrade", name, "-o", "y.png", *denoise),
    ):
        assert_one_line_of_error(call(*given), name)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_palettes_and_mislabelled_photographs_are_restored(album: Path, weights: Path) -> None:
    image = Image.fromarray(ASTRONAUT[:40, 150:198])
    image.quantize(16).save("palette.png")
    image.save("jpeg.png", format="JPEG")
    for name in ("palette.png", "jpeg.png"):
        result = call(
            "restore", name, "-o", f"x-{name}", "--task", "denoise", "--sigma", 5,
            "--weights", weights,
        )  # fmt: skip
        assert result.exit_code == 0
        assert read_photo(Path(f"x-{name}")).pixels.shape == (40, 48, 3)


def test_a_read_only_folder_is_named_before_any_work(
    album: Path, weights: Path, monkeypatch: Any
) -> None:
    Path("locked").mkdir(mode=0o555)
    real = tempfile.TemporaryFile

    def refuse(dir: Path) -> Any:  # root may write even there
        if Path(dir).stat().st_mode & 0o222:
            return real(dir=dir)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("reg.photos.tempfile.TemporaryFile", refuse)
    monkeypatch.setattr(Restoration, "run", lambda *_, **__: pytest.fail("work was begun"))
    options = ("--task", "denoise", "--sigma", 5, "--weights", weights)
    for output, named in (("locked", "locked"), ("locked/x.png", "locked"), ("locked/a/b",) * 2):
        result = call("restore", "album/a.png", "-o", output, *options)
        assert_one_line_of_error(result, f"{named}: cannot be written to (Permission denied)")
    assert list(Path("locked").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--task", "denoise", "--truth", "twins"), "album/b.png: truth of 64×41"),
        (("--task", "denoise", "--truth", "gray"), "album/b.png: truth: is gray"),
        (("--task", "inpaint", "--mask", "mask.png"), "album/b.png: mask of 64×48"),
        (("--task", "deblur", "--kernel", "large.npy"), "album/b.png: kernel of 45 pixels"),
    ],
)
def test_what_suits_only_the_first_of_many_stops_before_any_work(
    options: tuple[object, ...], words: str, album: Path, weights: Path, monkeypatch: Any
) -> None:
    np.save("large.npy", np.ones((45, 45)))
    write_photo(Path("mask.png"), Photo(np.full((48, 64, 1), 255, np.uint8)))
    Path("twins").mkdir()
    for name, height in (("a.png", 48), ("b.png", 41)):
        write_photo(Path("twins", name), Photo(np.zeros((height, 64, 3), np.uint8)))
    Path("gray").mkdir()
    for name, height, channels in (("a.png", 48, 3), ("b.png", 40, 1)):
        write_photo(Path("gray", name), Photo(np.zeros((height, 64, channels), np.uint8)))
    monkeypatch.setattr(Restoration, "run", lambda *_, **__: pytest.fail("work was begun"))
    result = call("restore", album, "-o", "out", "--sigma", 5, "--weights", weights, *options)
    assert_one_line_of_error(result, f"error: {words}")
    assert not Path("out").exists()


def test_what_fails_with_one_of_many_names_it(
    album: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("-o", "out", "--task", "denoise", "--sigma", 5, "--weights", weights)

    def nothing(_: object, noise: float) -> Any:
        return lambda x, noise, **_: torch.full_like(x, torch.nan)

    with monkeypatch.context() as patch:
        patch.setattr(Restoration, "network", nothing)
        assert_one_line_of_error(call("restore", album, *options), "error: album/a.png: denoise by")
    monkeypatch.setattr(restoration, "BYTES_PER_PIXEL", 1e12)
    assert_one_line_of_error(call("restore", album, *options), "error: album/a.png: image of 64×48")
    assert not Path("out").exists()


# Outputs that would be written twice, or over what is read.
OVERWRITING: dict[str, tuple[tuple[object, ...], str]] = {
    "a comparison over a target": (
        ("restore", "c/a.png", "c/a-compare.png", "-o", "out", "--task", "denoise", "--compare"),
        "out/a-compare.png: would be written twice",
    ),
    "a mask over a target": (
        ("degrade", "c/a.png", "c/a-mask.png", "-o", "out", "--task", "inpaint", "--known", 50),
        "out/a-mask.png: would be written twice",
    ),
    "a comparison over a photograph": (
        ("restore", "c/a-compare.png", "b/a.png", "-o", "c", "--task", "denoise", "--compare"),
        "c/a-compare.png: would be written twice",
    ),
    "a comparison over the photograph": (
        ("restore", "c/a-compare.png", "-o", "c/a.png", "--task", "denoise", "--compare"),
        "c/a-compare.png: is read",
    ),
    "a mask over the photograph": (
        ("degrade", "c/a-mask.png", "-o", "c/../c/a.png", "--task", "inpaint", "--known", 50),
        "c/../c/a-mask.png: is read",
    ),
    "a comparison over the truth": (
        ("restore", "c/a.png", "-o", "a.png", "--task", "denoise", "--compare", "--truth", "link"),
        "a-compare.png: is read",
    ),
    "a target over the truth": (
        ("restore", "c/a.png", "-o", "b", "--task", "denoise", "--truth", "b"),
        "b/a.png: is read",
    ),
    "a target over the mask": (
        ("degrade", "c/a.png", "-o", "b/mask.png", "--task", "inpaint", "--mask", "b/mask.png"),
        "b/mask.png: is read",
    ),
    "a target over the kernel": (
        ("degrade", "c/a.png", "-o", "b/psf.png", "--task", "deblur", "--kernel", "b/psf.png"),
        "b/psf.png: is read",
    ),
}


@pytest.mark.parametrize("which", OVERWRITING)
def test_no_output_is_written_over_another_or_over_what_is_read(
    which: str, album: Path, weights: Path
) -> None:
    white = Photo(np.full((48, 64, 1), 255, np.uint8))
    for name in ("c/a.png", "c/a-compare.png", "c/a-mask.png", "b/a.png", "a-compare.png"):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy("album/a.png", name)
    write_photo(Path("b/mask.png"), white)
    write_photo(Path("b/psf.png"), Photo(white.pixels[:3, :3]))
    Path("link").symlink_to("a-compare.png")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    given, words = OVERWRITING[which]
    extra = ("--sigma", 5, "--weights", weights) if given[0] == "restore" else ()
    result = call(str(given[0]), *given[1:], *extra, "--force")
    assert_one_line_of_error(result, words)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_links_that_lead_nowhere_are_outputs_that_exist(album: Path, weights: Path) -> None:
    how = ("--task", "denoise", "--sigma", 5, "--weights", weights)
    for target in ("loop.png", "gone.png"):
        Path("loop.png").symlink_to(target)
        refused = call("restore", album / "a.png", "-o", "loop.png", *how)
        assert_one_line_of_error(refused, "loop.png: exists; ", "--force", "--skip-existing")
        assert call("restore", album / "a.png", "-o", "loop.png", *how, "--force").exit_code == 0
        assert not Path("loop.png").is_symlink()
        Path("loop.png").unlink()


def test_the_mask_is_written_before_what_it_made(album: Path) -> None:
    Path("out").mkdir()
    (Path("out") / "y.png.0.partial").mkdir()  # so that y.png cannot be written
    how = ("--task", "inpaint", "--known", 20)
    assert call("degrade", album / "a.png", "-o", "out/y.png", *how).exit_code == 2
    assert [path.name for path in sorted(Path("out").glob("*.png"))] == ["y-mask.png"]


def test_a_photograph_may_be_restored_in_place(album: Path, weights: Path) -> None:
    before = (album / "a.png").read_bytes()
    options = ("--task", "denoise", "--sigma", 5, "--weights", weights)
    both = ("restore", album, "-o", album, *options, "--truth", "truth", "--compare")
    shutil.copytree(album, "truth")
    assert call(*both, "--force").exit_code == 0
    assert (album / "a.png").read_bytes() != before
    assert (album / "a-compare.png").exists()


@pytest.mark.parametrize("sides", [(300, 1), (1, 300)])
def test_the_comparison_of_a_line_is_a_sheet(sides: tuple[int, int], tmp_path: Path) -> None:
    image = np.ascontiguousarray(ASTRONAUT[: sides[0], : sides[1]])
    draw_comparison(image, image, None, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert max(sheet.size) <= 2000
        # The whole photograph is seen in its margins, not only a part.
        dark = (np.asarray(sheet.convert("L"))[60:-500] < 250).any(axis=1)
        if sides[0] > sides[1]:
            assert dark.mean() > 0.9


def test_degrade_refuses_bad_input(album: Path) -> None:
    for given in (
        ("--task", "inpaint"),
        ("--task", "inpaint", "--known", 0),
        ("--task", "denoise", "--known", 20),
        ("--task", "denoise", "--sigma", "auto"),
        ("--task", "denoise", "--sigma", -3),
        ("--task", "denoise", "--seed", -1),
        ("--task", "sr", "--factor", 9),
    ):
        assert_one_line_of_error(call("degrade", "album/a.png", "-o", "y.png", *given))
        assert not Path("y.png").exists()


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("degrade", ("--task", "inpaint", "--known", 101), "a percentage from above 0 to 100"),
        ("degrade", ("--task", "inpaint", "--known", 1e-6), "known 1e-06: leaves no known pixel"),
        ("degrade", ("--task", "inpaint"), "--mask, or draw one by --known"),
        ("degrade", ("--task", "denoise", "--sigma", -4), "must be a noise level from 0 to 255"),
        ("degrade", ("--task", "deblur"), "needs a kernel; give it by --kernel"),
        (
            "degrade",
            ("--task", "deblur", "--kernel", "no.png"),
            "give psf.png, psf.npy or gaussian",
        ),
        ("restore", ("--task", "denoise", "--sigma", "abc"), "sigma abc: must be auto, or a"),
        ("restore", ("--task", "denoise", "--sigma", -4), "must be auto, or a noise level"),
    ],
)
def test_the_line_says_what_is_allowed(
    command: str, options: tuple[object, ...], words: str, album: Path, weights: Path
) -> None:
    extra = ("--weights", weights) if command == "restore" else ()
    result = call(command, "album/a.png", "-o", "y.png", *options, *extra)
    assert_one_line_of_error(result, words)
    assert "Errno" not in result.stderr
    assert not Path("y.png").exists()


def test_without_weights_the_line_says_how_to_get_them(album: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(restoration, "__file__", str(album / "reg" / "restoration.py"))
    result = call("restore", "album/a.png", "-o", "x.png", "--task", "denoise", "--sigma", 5)
    assert_one_line_of_error(result, "make reproduce", "--weights")


# --- start-up --------------------------------------------------------------------------------


def test_nothing_heavy_is_loaded_until_it_is_needed() -> None:
    code = (
        "import sys, reg; from reg.cli import main\n"
        "try: main(['restore', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'lightning_fabric', 'matplotlib', 'skimage', 'scipy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert callable(reg.restore) and callable(reg.degrade)\n"
        "assert not {'pandas', 'lightning_fabric', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_package_has_the_function() -> None:
    assert reg.restore is restore
    with pytest.raises(AttributeError, match="nothing"):
        _ = reg.nothing


def test_photographs_of_equal_names_do_not_share_a_mask_or_a_comparison(album: Path) -> None:
    Image.open(album / "a.png").convert("RGB").save(album / "a.jpg")
    both = ("album/a.png", "album/a.jpg", "-o", "out", "--task")
    for result in (
        call("degrade", *both, "inpaint", "--known", 30),
        call("restore", *both, "denoise", "--sigma", 5, "--compare"),
    ):
        assert_one_line_of_error(result, "would be written twice")
    assert not any(Path("out").glob("*"))


def test_no_photograph_is_degraded_before_all_are_checked(album: Path) -> None:
    Image.fromarray(np.zeros((1, 40, 3), np.uint8)).save(album / "z.png")
    whole = ("album/a.png", "album/z.png", "-o", "out", "--task")
    assert_one_line_of_error(call("degrade", *whole, "sr", "--factor", 2), "too small to reduce")
    assert_one_line_of_error(
        call("degrade", *whole, "deblur", "--kernel", "gaussian:1"), "larger than the image"
    )
    assert not any(Path("out").glob("*"))


def test_a_seed_that_no_generator_takes_is_one_line(album: Path) -> None:
    given = ("album/a.png", "-o", "y.png", "--task", "denoise", "--seed", 2**70)
    assert_one_line_of_error(call("degrade", *given), "--seed")

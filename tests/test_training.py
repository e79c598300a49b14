import errno
import io
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from fcntl import LOCK_EX, flock
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

import reg
from reg.checkpoints import CHECKPOINTS, forget
from reg.errors import InputError
from reg.losses import DenoisingObjective, Generators, RegObjective
from reg.networks import Denoiser, Regularizer, save_network
from reg.patches import Patches
from reg.recipe import Recipe
from reg.training import crop_generators, no_log, seeded, train

RUN = "run"
SMALL = (4, 4, 4, 4)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # checkpoints are relative to the working folder


def recipe(**options: object) -> Recipe:
    given = {
        "iterations": 8,
        "batch": 2,
        "crop": 16,
        "learning_rate": 1e-2,
        "validate_every": 2,
        "precision": "fp32",
    }
    return Recipe(**(given | options))  # type: ignore[arg-type]


def patches(seed: int = 5) -> Patches:
    images = np.random.default_rng(0).integers(256, size=(3, 20, 24, 3), dtype=np.uint8)
    return Patches(list(images), 16, 2, seed)


def weighted(network: nn.Module) -> None:
    for k, weight in enumerate(network.parameters()):
        with torch.no_grad():
            nn.init.orthogonal_(weight, gain=0.5, generator=torch.Generator().manual_seed(k))


def checkpoints(name: str = RUN) -> list[Path]:
    return sorted((CHECKPOINTS / name).glob("*.pt"))


class KilledError(Exception):
    """Stands for a power cut."""


def killing(
    validate: Callable[[], Mapping[str, float]], at: int | None
) -> Callable[[], Mapping[str, float]]:
    """A validation that ends the run at its n-th call."""
    calls = 0

    def validate_or_end() -> Mapping[str, float]:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KilledError
        return validate()

    return validate_or_end


def run(
    seed: int = 1,
    killed_at: int | None = None,
    joint: bool = False,
    checkpoint: str = RUN,
    **options: object,
) -> tuple[bytes, bytes]:
    """The bytes of the weights files and of the log of a training; its checkpoints stay."""
    denoiser, regularizer = Denoiser(SMALL, 1), Regularizer(SMALL, 1, scale=20.0)
    weighted(denoiser)
    weighted(regularizer)
    objective = (
        RegObjective(denoiser, regularizer, 1.0, update_denoiser=True)
        if joint
        else DenoisingObjective(denoiser)
    )

    def validate() -> Mapping[str, float]:
        return {"size": sum(weight.abs().sum().item() for weight in denoiser.parameters())}

    log = train(
        objective,
        patches(),
        recipe(**options),
        title="test",
        seed=seed,
        checkpoint=checkpoint,
        validate=killing(validate, killed_at),
    )
    save_network(denoiser, Path("denoiser"))
    save_network(regularizer, Path("regularizer"))
    weights = Path("denoiser").read_bytes() + Path("regularizer").read_bytes()
    return weights, log.to_csv(index=False).encode()


# --- determinism and resume ----------------------------------------------------------------


def test_equal_runs_give_equal_bytes() -> None:
    first = run(checkpoint="a")
    torch.manual_seed(7)  # global state decides nothing
    assert run(checkpoint="b") == first
    other = run(checkpoint="c", seed=2)
    assert other[0] != first[0]
    assert other[1] != first[1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"joint": True},
        {"precision": "bf16"},
        {"schedule": "halving", "halve_every": 3, "warmup": 2, "clip_gradient": 0.1},
        {"ema": 0.8, "micro_batch": 1},
    ],
    ids=["fp32", "joint", "bf16", "halving", "ema"],
)
def test_killed_and_resumed_equals_uninterrupted(
    options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Odd: the alternation of the joint objective is at another phase after the interruption.
    options = {"iterations": 9, "validate_every": 3} | options
    whole = run(checkpoint="whole", **options)
    for killed_at in (1, 2, 3):
        with pytest.raises(KilledError):
            run(killed_at=killed_at, **options)
        assert len(checkpoints()) == killed_at - 1
        done: list[int] = []
        count_batches(monkeypatch, done)
        assert run(**options) == whole
        assert done[0] == 3 * (killed_at - 1) + 1  # it did go on from there
        forget(RUN)


def count_batches(monkeypatch: pytest.MonkeyPatch, done: list[int]) -> None:
    """Note which iterations draw crops."""
    batch = Patches.batch

    def counted(self: Patches, iteration: int, share: slice) -> Tensor:
        done.append(iteration)
        return batch(self, iteration, share)

    monkeypatch.setattr(Patches, "batch", counted)


def test_interrupted_twice_equals_uninterrupted() -> None:
    whole = run(checkpoint="whole", iterations=10)
    for killed_at in (2, 3):
        with pytest.raises(KilledError):
            run(iterations=10, killed_at=killed_at)
    assert run(iterations=10) == whole


# Forked from a process that has loaded everything and computed nothing, so that ten runs cost
# ten trainings. The first argument is the file of the tests.
KILLED = """
import importlib.util, os, signal, sys, time
import numpy as np
spec = importlib.util.spec_from_file_location("tests", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tests)

def training(name):
    child = os.fork()
    if child == 0:
        sys.stdout = open(os.devnull, "w")
        whole = tests.run(checkpoint=name, joint=True, iterations=120, validate_every=3, ema=0.9)
        tests.Path(name).write_bytes(b"".join(whole))
        os._exit(0)
    return child

began = time.monotonic()
assert os.waitpid(training("whole"), 0)[1] == 0
seconds = time.monotonic() - began
killed = 0
for share in np.random.default_rng(0).uniform(0.02, 0.09, size=10):
    child = training("killed")
    time.sleep(share * seconds)
    os.kill(child, signal.SIGKILL)
    killed += os.waitpid(child, 0)[1] == signal.SIGKILL
assert os.waitpid(training("killed"), 0)[1] == 0
assert killed == 10, killed
assert tests.Path("whole").read_bytes() == tests.Path("killed").read_bytes()
"""


def test_killed_at_ten_random_moments_equals_uninterrupted(tmp_path: Path) -> None:
    root = str(Path(reg.__file__).parents[1])
    child = subprocess.run(
        [sys.executable, "-c", KILLED, __file__],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr


class Signalling(Patches):
    """Crops whose user asks the process to stop while an iteration is computed."""

    def __init__(self, signals: Mapping[int, list[signal.Signals]]) -> None:
        images = np.random.default_rng(0).integers(256, size=(3, 20, 24, 3), dtype=np.uint8)
        super().__init__(list(images), 16, 2, 5)
        self.signals = signals

    def batch(self, iteration: int, *share: slice) -> Tensor:
        for number in self.signals.get(iteration, []):
            signal.raise_signal(number)
        return super().batch(iteration, *share)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_loses_nothing(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, object] = {"iterations": 9, "validate_every": 4, "joint": True, "ema": 0.5}
    whole = run(checkpoint="whole", **options)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        # Crops are drawn one iteration ahead; 6 lies between two validations.
        patch.setitem(globals(), "patches", lambda: Signalling({7: [number]}))
        with pytest.raises(SystemExit, match="test: stopped after iteration 6 of 9") as caught:
            run(**options)
    assert isinstance(caught.value.code, str)  # a line on stderr and status 1
    assert "\n" not in caught.value.code
    assert [path.stem for path in checkpoints()] == ["000000004", "000000006"]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    done: list[int] = []
    count_batches(monkeypatch, done)
    assert run(**options) == whole
    assert done[0] == 7


def test_a_launcher_that_asks_twice_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(checkpoint="whole")
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "patches", lambda: Signalling({5: [signal.SIGTERM] * 2}))
        with pytest.raises(SystemExit, match="test: stopped after iteration 4"):
            run()
    assert checkpoints()[-1].stem == "000000004"
    assert run() == whole


def test_two_runs_do_not_write_the_same_checkpoints() -> None:
    folder = CHECKPOINTS / RUN
    folder.mkdir(parents=True)
    with (folder / "lock").open("a") as other:
        flock(other, LOCK_EX)
        with pytest.raises(InputError, match=f"{folder}: test is under way in another process"):
            run()
    assert not checkpoints()
    run()


def test_a_run_that_keeps_nothing_leaves_nothing() -> None:
    with pytest.raises(KilledError):
        run(killed_at=1)
    assert not (CHECKPOINTS / RUN).exists()


def test_work_of_other_code_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    run(checkpoint="test-0123456789abcdef")
    run(checkpoint="other-0123456789abcdef")
    capsys.readouterr()
    run(checkpoint="test-fedcba9876543210")
    said = capsys.readouterr().out
    assert (
        "test: .checkpoints/test-0123456789abcdef is of other code, data, parameters or precision; "
        "to go on with it, stop this run and `rm -r .checkpoints/test-fedcba9876543210 && mv "
        ".checkpoints/test-0123456789abcdef .checkpoints/test-fedcba9876543210`"
    ) in said
    assert "other-" not in said
    (command,) = re.findall("`(rm .+)`", said)
    subprocess.run(command, shell=True, check=True)
    run(checkpoint="test-fedcba9876543210", iterations=10)
    assert "resumed after iteration 8" in capsys.readouterr().out


def test_who_asks_twice_need_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "patches", lambda: Signalling({5: [signal.SIGINT] * 2}))
    # A process that a shell started in the background ignores SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert [path.stem for path in checkpoints()] == ["000000002"]


def test_a_full_disk_is_one_line_and_loses_only_what_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run(checkpoint="whole", iterations=12)
    written = 0

    def fsync(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written > 6:  # each checkpoint takes two, for the file and for its folder
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(InputError, match=str(CHECKPOINTS / RUN)) as caught:
            run(iterations=12)
    assert "No space left" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name for path in (CHECKPOINTS / RUN).iterdir()} == {
        "000000004.pt",
        "000000006.pt",
        "lock",
    }
    assert run(iterations=12) == whole


@pytest.mark.parametrize("kept", [0, 100, 0.5, -1])
def test_a_truncated_checkpoint_gives_way_to_the_one_before(
    kept: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(checkpoint="whole")
    with pytest.raises(KilledError):
        run(killed_at=4)
    newest = checkpoints()[-1]
    content = newest.read_bytes()
    newest.write_bytes(content[: int(len(content) * kept) if 0 < kept < 1 else int(kept)])
    done: list[int] = []
    count_batches(monkeypatch, done)
    assert run() == whole
    assert done[0] == 5  # 6 iterations were done, of which the last 2 are lost
    assert str(newest) in capsys.readouterr().out


def test_without_a_whole_checkpoint_training_begins_anew() -> None:
    whole = run(checkpoint="whole")
    with pytest.raises(KilledError):
        run(killed_at=4)
    for path in checkpoints():
        path.write_bytes(b"")
    assert run() == whole


def test_a_half_written_checkpoint_is_no_checkpoint() -> None:
    whole = run(checkpoint="whole")
    with pytest.raises(KilledError):
        run(killed_at=4)
    newest = checkpoints()[-1]
    newest.with_suffix(".partial").write_bytes(newest.read_bytes()[:200])
    assert run() == whole


def test_only_two_checkpoints_are_kept_and_forget_removes_them() -> None:
    run(iterations=10, checkpoint="other/arm")
    run(iterations=10)
    assert len(checkpoints()) == 2
    assert not list((CHECKPOINTS / RUN).glob("*.partial"))
    forget(RUN)
    assert not (CHECKPOINTS / RUN).exists()
    assert len(checkpoints("other/arm")) == 2
    forget(RUN)  # there is nothing left to remove


def test_a_run_that_was_done_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    # KilledError between the last checkpoint and the results: nothing is computed twice.
    whole = run()
    done: list[int] = []
    count_batches(monkeypatch, done)
    assert run() == whole
    assert done == []


# --- what is minimised, and what is logged -------------------------------------------------


class Distance(nn.Module):
    """(w − 3)², with non-finite values at chosen iterations; logs what it was given."""

    def __init__(self, faulty: Callable[[int], bool] = lambda _: False, fault: str = "") -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.unused = nn.Parameter(torch.ones(1), requires_grad=False)
        self.faulty, self.fault = faulty, fault
        self.seen: list[tuple[int, Tensor, Tensor]] = []

    def forward(self, clean: Tensor, iteration: int, generators: Generators) -> dict[str, Tensor]:
        drawn = torch.stack([torch.rand(2, generator=one) for one in generators])
        self.seen.append((iteration, clean.clone(), drawn))
        loss = (self.w - 3).square().expand(len(clean))
        if self.faulty(iteration):
            # `loss`: a loss that is not finite, though its gradient is.
            loss = loss + torch.inf if self.fault == "loss" else loss * float(self.fault)
        return {"loss": loss, "count": torch.full((len(clean),), float(iteration))}


def follow(objective: nn.Module, checkpoint: str = RUN, seed: int = 1, **options: object):
    validate = options.pop("validate", dict)
    return train(
        objective,
        patches(),
        recipe(**options),
        title="distance",
        seed=seed,
        checkpoint=checkpoint,
        validate=validate,  # type: ignore[arg-type]
    )


def values(log: pd.DataFrame, metric: str) -> dict[int, float]:
    return dict(zip(log["iteration"], log[metric], strict=True))


def test_the_objective_is_minimised() -> None:
    objective = Distance()
    log = follow(objective, iterations=150, learning_rate=0.2, validate_every=50)
    assert objective.w.item() == pytest.approx(3, abs=1e-2)
    assert objective.unused.item() == 1
    losses = values(log, "loss")
    assert losses[150] < 1e-2 < losses[50]


def test_the_log_holds_means_since_the_last_validation() -> None:
    levels = iter([21.0, 22.0, 23.0])
    log = follow(
        Distance(),
        iterations=8,
        validate_every=3,
        validate=lambda: {"psnr": next(levels)},
        schedule="halving",
    )
    assert list(log.columns) == ["iteration", "loss", "count", "psnr", "learning_rate"]
    assert log["iteration"].tolist() == [3, 6, 8]
    assert values(log, "count") == {3: 2.0, 6: 5.0, 8: 7.5}
    assert values(log, "psnr") == {3: 21.0, 6: 22.0, 8: 23.0}
    assert list(values(log, "loss")) == [3, 6, 8]
    rates = values(log, "learning_rate")
    assert rates == {k: recipe(iterations=8, schedule="halving").rate(k) for k in (3, 6, 8)}


def test_validation_needs_no_gradients_and_training_goes_on_after_it() -> None:
    denoiser = Denoiser(SMALL, 1)
    seen = []

    def validate() -> Mapping[str, float]:
        seen.append((torch.is_grad_enabled(), denoiser.training))
        return {}

    follow(DenoisingObjective(denoiser), iterations=4, validate=validate)
    assert seen == [(False, False)] * 2
    assert denoiser.training
    assert all(weight.requires_grad for weight in denoiser.parameters())


def test_what_an_iteration_sees_depends_on_seed_and_iteration_only() -> None:
    long, other, short = Distance(), Distance(), Distance()
    before = torch.get_rng_state()
    follow(long, iterations=6)
    assert torch.equal(torch.get_rng_state(), before)
    follow(short, "short", iterations=3)
    follow(other, "other", iterations=6, seed=2)
    assert [k for k, _, _ in long.seen] == [1, 2, 3, 4, 5, 6]
    for (_, clean, drawn), (_, clean_2, drawn_2) in zip(long.seen[:3], short.seen, strict=True):
        assert torch.equal(clean, clean_2)
        assert torch.equal(drawn, drawn_2)
    draws = torch.cat([drawn for _, _, drawn in long.seen + other.seen])
    assert len(draws.unique(dim=0)) == 24  # two crops at each iteration, each with its own
    assert all(torch.equal(clean, patches().batch(k)) for k, clean, _ in long.seen)


def test_gradients_are_clipped_by_their_norm() -> None:
    class Ramp(Distance):
        def forward(self, *arguments: object) -> dict[str, Tensor]:
            return {"loss": 1e3 * self.w}

    # Adam's first step is the rate whatever the gradient, unless that is as small as its epsilon.
    clipped, free = Ramp(), Ramp()
    follow(clipped, "a", iterations=1, learning_rate=0.1, clip_gradient=1e-8)
    follow(free, "b", iterations=1, learning_rate=0.1)
    assert free.w.item() == pytest.approx(-0.1, rel=1e-3)
    assert clipped.w.item() == pytest.approx(-0.05, rel=1e-2)


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_accumulated_steps_are_those_of_the_whole_batch(
    micro_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).integers(256, size=(3, 20, 24, 3), dtype=np.uint8)
    monkeypatch.setitem(globals(), "patches", lambda: Patches(list(images), 16, 4, 5))

    def losses(**options: object) -> pd.DataFrame:
        content = run(checkpoint=str(options), joint=True, iterations=20, batch=4, **options)[1]
        return pd.read_csv(io.BytesIO(content))

    pd.testing.assert_frame_equal(losses(micro_batch=micro_batch), losses(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("beta2", [0.999, 0.9])
def test_steps_are_those_of_adam_whatever_the_layout_of_the_weights(beta2: float) -> None:
    # Layers of unequal sides, so that weights and gradients in different orders would show.
    channels = (4, 6, 8, 10)
    trained, plain = Denoiser(channels, 1).double(), Denoiser(channels, 1).double()
    weighted(trained)
    weighted(plain)
    start = [weight.detach().clone() for weight in plain.parameters()]

    class InDouble(DenoisingObjective):
        def forward(self, clean: Tensor, *arguments: object) -> dict[str, Tensor]:
            return super().forward(clean.double(), *arguments)  # type: ignore[arg-type]

    given = recipe(beta2=beta2)
    train(InDouble(trained), patches(), given, title="test", seed=1, checkpoint=RUN)

    objective, crops = InDouble(plain), patches()
    optimiser = torch.optim.Adam(plain.parameters(), betas=(0.9, beta2), fused=False)
    for k in range(1, 9):
        optimiser.param_groups[0]["lr"] = recipe().rate(k)
        terms = objective(crops.batch(k), k, crop_generators(1, k, 2))
        optimiser.zero_grad()
        terms["loss"].mean().backward()
        optimiser.step()
    for ours, theirs, before in zip(trained.parameters(), plain.parameters(), start, strict=True):
        assert (theirs - before).abs().mean() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_crops_are_not_rounded_when_networks_compute_in_bfloat16() -> None:
    received: list[Tensor] = []

    class Listening(DenoisingObjective):
        def forward(self, clean: Tensor, *arguments: object) -> dict[str, Tensor]:
            received.append(clean.clone())
            return super().forward(clean, *arguments)  # type: ignore[arg-type]

    denoiser = Denoiser((4, 4, 4, 4), 1)
    weighted(denoiser)
    few = recipe(precision="bf16", iterations=2, validate_every=2)
    train(Listening(denoiser), patches(), few, title="test", seed=1, checkpoint=RUN)
    for k, clean in enumerate(received, start=1):
        assert clean.dtype == torch.float32
        torch.testing.assert_close(clean, patches().batch(k), rtol=0, atol=0)


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    # Plain sums, so that the weights of unequal parts show: 3 crops at once of 4.
    class Brightness(Distance):
        def forward(self, clean: Tensor, *arguments: object) -> dict[str, Tensor]:
            return {"loss": self.w * clean.mean(dim=(1, 2, 3)) ** 2}

    gradients = []
    for micro_batch in (None, 3):
        objective = Brightness()
        objective.w.register_post_accumulate_grad_hook(
            lambda w: gradients.append(w.grad.item())  # type: ignore[union-attr]
        )
        images = np.random.default_rng(0).integers(256, size=(3, 20, 24, 3), dtype=np.uint8)
        train(
            objective,
            Patches(list(images), 16, 4, 5),
            recipe(iterations=1, batch=4, micro_batch=micro_batch),
            title="brightness",
            seed=1,
            checkpoint=f"{micro_batch}",
        )
    whole, part, parts = gradients
    assert parts == pytest.approx(whole, rel=1e-6)
    assert part < 0.9 * whole


def test_the_average_of_weights_in_closed_form() -> None:
    class Ramp(Distance):
        def forward(self, *arguments: object) -> dict[str, Tensor]:
            return {"loss": self.w}

    given = {"iterations": 40, "learning_rate": 0.1, "validate_every": 10}
    objective, plain = Ramp(), Ramp()
    follow(plain, "plain", **given)
    log = follow(objective, **given, ema=0.8, validate=lambda: {"w": objective.w.item()})
    # Adam's step on a constant gradient is the rate. The decay rises to 0.8 by iteration 35.
    weights, average, expected = -np.cumsum(rates(recipe(**given))), 0.0, {}
    for k, w in enumerate(weights, start=1):
        decay = min(0.8, (1 + k) / (10 + k))
        average = decay * average + (1 - decay) * w
        expected[k] = average
    assert plain.w.item() == pytest.approx(weights[-1], rel=1e-4)
    assert objective.w.item() == pytest.approx(average, rel=1e-4)  # what is saved
    assert values(log, "w") == pytest.approx({k: expected[k] for k in (10, 20, 30, 40)}, rel=1e-4)


def test_averaging_leaves_the_training_as_it_is() -> None:
    objectives = [Distance(), Distance()]
    logs = [
        follow(objective, f"{ema}", iterations=20, ema=ema)
        for objective, ema in zip(objectives, (0.0, 0.99), strict=True)
    ]
    pd.testing.assert_frame_equal(*logs)
    assert objectives[0].w.item() != objectives[1].w.item()


def test_a_compiled_training_gives_the_same_weights_by_the_same_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = []

    def eager(module: nn.Module, **options: object) -> object:
        compiled.append(module)
        return torch_compile(module, backend="eager")  # no code generator, for it takes minutes

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", eager)
    assert run(iterations=2, compile=True) == run(iterations=2, checkpoint="plain")
    assert compiled
    state = torch.load(checkpoints()[-1], weights_only=True)
    assert all(name.startswith("denoiser.network.") for name in state["objective"])


# --- the live view -------------------------------------------------------------------------


def test_the_log_can_be_read_while_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("results/log.csv")
    seen: list[int] = []

    def validate() -> Mapping[str, float]:
        seen.append(len(pd.read_csv(path)) if path.exists() else 0)
        return {"psnr": 20.0 + len(seen)}

    def training(at: int | None = None) -> pd.DataFrame:
        return train(
            Distance(),
            patches(),
            recipe(),
            title="test",
            seed=1,
            checkpoint=RUN,
            validate=killing(validate, at),
            log=path,
            measure_start=True,
        )

    with pytest.raises(KilledError):
        training(at=4)
    assert seen == [0, 1, 2]
    path.unlink()  # as DVC does before it runs a stage again
    log = training()
    assert seen == [0, 1, 2, 3, 4]
    assert log["iteration"].tolist() == [0, 2, 4, 6, 8]
    assert list(log.columns) == ["iteration", "psnr", "loss", "count", "learning_rate"]
    assert math.isnan(log["loss"][0])
    assert path.read_text() == log.to_csv(index=False, float_format="%.6g")


def test_a_band_without_crops_is_left_empty() -> None:
    class Bands(Distance):
        def forward(
            self, clean: Tensor, iteration: int, generators: Generators
        ) -> dict[str, Tensor]:
            inside = torch.tensor([1.0, 0.0])
            low = torch.stack([inside * iteration, inside])
            return {"loss": self.w.expand(2), "low": low, "high": torch.zeros(2, 2)}

    log = follow(Bands(), iterations=4)
    assert values(log, "low") == {2: 1.5, 4: 3.5}
    assert log["high"].isna().all()


def test_an_imported_network_is_measured_once() -> None:
    log = no_log(lambda: {"psnr25": 30.0})
    assert log.to_dict("records") == [{"iteration": 0, "psnr25": 30.0}]


# --- values that are not finite ------------------------------------------------------------


@pytest.mark.parametrize("fault", ["nan", "inf"])
def test_a_step_that_is_not_finite_is_skipped(
    fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    always = Distance(lambda _: True, fault)
    follow(always, "a", iterations=19)
    assert always.w.item() == 0  # as it began
    assert "iteration 7, its loss or gradient is not finite (7 so far)" in capsys.readouterr().out

    once = Distance(lambda k: k == 5, fault)
    follow(once, "b", iterations=150, learning_rate=0.2, validate_every=50)
    assert once.w.item() == pytest.approx(3, abs=1e-2)


@pytest.mark.parametrize("fault", ["nan", "inf", "loss"])
def test_twenty_in_a_row_end_the_run(fault: str) -> None:
    objective = Distance(lambda k: k > 3, fault)
    with pytest.raises(InputError, match="distance") as caught:
        follow(objective, iterations=100, validate_every=100)
    assert "\n" not in str(caught.value)
    assert "learning_rate" in str(caught.value)
    assert len(objective.seen) == 23


def test_twenty_that_are_not_in_a_row_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    objective = Distance(lambda k: k % 20 != 0, "nan")
    follow(objective, iterations=59, validate_every=59)
    assert len(objective.seen) == 59
    assert "(57 so far)" in capsys.readouterr().out


# --- the recipe ----------------------------------------------------------------------------


def rates(given: Recipe) -> np.ndarray:
    return np.array([given.rate(k) for k in range(1, given.iterations + 1)])


def test_cosine_schedule() -> None:
    rate = rates(recipe(iterations=1000, learning_rate=2e-4))
    assert rate[0] == pytest.approx(2e-4)
    assert rate[500] == pytest.approx(1e-4, rel=1e-2)
    assert np.all(np.diff(rate) < 0)
    assert 0 < rate[-1] < 1e-8
    # Symmetric about its middle, as a cosine is.
    np.testing.assert_allclose(rate[1:] + rate[:0:-1], 2e-4, rtol=1e-9)


def test_halving_schedule() -> None:
    rate = rates(recipe(iterations=35, learning_rate=1e-4, schedule="halving", halve_every=10))
    np.testing.assert_allclose(rate[:10], 1e-4)
    np.testing.assert_allclose(rate[10:20], 5e-5)
    np.testing.assert_allclose(rate[20:30], 2.5e-5)
    np.testing.assert_allclose(rate[30:], 1.25e-5)


@pytest.mark.parametrize("schedule", ["cosine", "halving"])
def test_warm_up_rises_evenly_to_the_schedule(schedule: str) -> None:
    given = {"iterations": 100, "schedule": schedule, "halve_every": 30}
    share = rates(recipe(**given, warmup=10)) / rates(recipe(**given))
    np.testing.assert_allclose(share[10:], 1)
    steps = np.diff(share[:11])
    np.testing.assert_allclose(steps, steps[0])
    assert 0 < share[0] <= 0.1


@pytest.mark.parametrize("seed", [1, 2])
def test_training_follows_the_schedule(seed: int) -> None:
    # Adam's step on a constant gradient is the learning rate.
    class Ramp(Distance):
        def forward(self, *arguments: object) -> dict[str, Tensor]:
            return {"loss": self.w}

    objective = Ramp()
    given = {"iterations": 12, "learning_rate": 0.1, "warmup": 3}
    follow(objective, seed=seed, **given)
    assert objective.w.item() == pytest.approx(-rates(recipe(**given)).sum(), rel=1e-4)


@pytest.mark.parametrize(
    "fault",
    [
        {"iterations": 0},
        {"learning_rate": 0.0},
        {"crop": 20},
        {"crop": 8},
        {"batch": 0},
        {"schedule": "linear"},
        {"validate_every": 0},
        {"ema": 1.0},
        {"beta2": 1.0},
        {"micro_batch": 0},
        {"devices": 0},
        {"iteration": 5},
    ],
    ids=str,
)
def test_impossible_recipes_are_refused(fault: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fault))):
        recipe(**fault)


def test_how_a_training_is_spread_over_devices_is_no_part_of_what_decides_it() -> None:
    spread = recipe(devices=8, nodes=2, micro_batch=1, compile=True)
    assert spread.model_dump() == recipe().model_dump()


# --- seeds ---------------------------------------------------------------------------------


def test_seeded_generators_are_pure_functions_of_their_integers() -> None:
    def draw(*entropy: int) -> tuple[float, ...]:
        return tuple(torch.rand(4, generator=seeded(*entropy), dtype=torch.float64).tolist())

    keys = [(1,), (2,), (1, 1), (1, 2), (2, 1), (1, 1, 1), (1, 1, 2), (12,), (1, 10**9)]
    assert len({draw(*key) for key in keys}) == len(keys)
    assert draw(1, 2) == draw(1, 2)


def test_generators_of_crops_depend_on_seed_iteration_and_place_alone() -> None:
    def draws(seed: int, iteration: int, count: int) -> list[float]:
        return [torch.rand(1, generator=g).item() for g in crop_generators(seed, iteration, count)]

    assert draws(1, 2, 6)[:3] == draws(1, 2, 3)
    everything = [value for seed in (0, 1) for k in (1, 2) for value in draws(seed, k, 4)]
    assert len(set(everything)) == len(everything)

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reg.errors import InputError
from reg.iterations import pnp_gd
from reg.networks import Denoiser, Regularizer, initialise, read_metadata, save_network
from reg.problems import Problem, make_problem
from reg.training import seeded
from reg.unrolled import GAIN, EndToEnd, Unrolled, UnrolledObjective, load_unrolled, save_unrolled

CHANNELS = (4, 4, 8, 8)
SIGMA, STEP, STEPS = 30 / 255, 0.7, 4

tasks = pytest.mark.parametrize("task", ["deblur-k5-2.55", "sr-x2-2.55", "sr-x3-0", "inpaint-20"])


def regularizer(seed: int = 0) -> Regularizer:
    network = Regularizer(CHANNELS, 1, scale=20.0)
    initialise(network, seeded(seed))
    return network


def unrolled(steps: int = STEPS, step: float = STEP, sigma: float = SIGMA) -> Unrolled:
    return Unrolled(regularizer(), steps, step, sigma)


def problem(task: str, dtype: torch.dtype = torch.float32) -> Problem:
    truth = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return make_problem(task, truth, ["a", "b"], 3)


# --- the network ---------------------------------------------------------------------------


@tasks
def test_it_is_that_many_steps_of_gradient_descent(task: str) -> None:
    network, p = unrolled(), problem(task)
    with torch.no_grad():
        restored = network(p)
        p = replace(p, start=p.degraded)
        descent = pnp_gd(p, network.regularizer, sigma=SIGMA, step=STEP, descent="plain")
        expected = next(islice(descent, STEPS - 1, None))
        # The comparison would be empty if G moved nothing.
        without = next(islice(pnp_gd(p, torch.zeros_like, sigma=SIGMA, step=STEP), STEPS - 1, None))
    assert (expected - without).abs().max() > 1e-2
    torch.testing.assert_close(restored, expected, rtol=1e-5, atol=1e-6)


@tasks
def test_every_step_has_its_own_length_and_noise_level(task: str) -> None:
    network, p = unrolled(steps=2), problem(task)
    lengths, levels = [0.3, 0.9], [0.2, 0.05]
    x, A = p.degraded, p.operator
    with torch.no_grad():
        network.log_step.copy_(torch.tensor(lengths).log() / GAIN)
        network.log_sigma.copy_(torch.tensor(levels).log() / GAIN)
        for mu, sigma in zip(lengths, levels, strict=True):
            gradient = A.A_adjoint(A.A(x) - p.y) + sigma**2 * network.regularizer(x)
            x = x - mu * gradient
        torch.testing.assert_close(network(p), x, rtol=1e-5, atol=1e-6)


def test_it_starts_with_the_given_length_and_noise_level() -> None:
    network = unrolled()
    torch.testing.assert_close((GAIN * network.log_step).exp(), torch.full((STEPS,), STEP))
    torch.testing.assert_close((GAIN * network.log_sigma).exp(), torch.full((STEPS,), SIGMA))


def test_lengths_and_noise_levels_stay_positive_whatever_the_optimiser_does() -> None:
    network, p = unrolled(), problem("inpaint-20")
    optimiser = torch.optim.SGD([network.log_step, network.log_sigma], lr=1e3)
    for _ in range(3):
        optimiser.zero_grad()
        (network.log_step.exp().sum() + network.log_sigma.exp().sum()).backward()
        optimiser.step()
    assert bool((network.log_step < -100).all())  # the step was huge indeed
    assert bool((network.log_step.exp() >= 0).all())
    assert bool((network.log_sigma.exp() >= 0).all())
    torch.testing.assert_close(network(p), p.degraded)


@tasks
def test_any_number_of_steps_may_be_taken(task: str) -> None:
    network, p = unrolled(steps=2), problem(task)
    with torch.no_grad():
        network.log_step.copy_(torch.tensor([0.3, 0.9]).log() / GAIN)
        network.log_sigma.copy_(torch.tensor([0.2, 0.05]).log() / GAIN)
        assert torch.equal(network(p, 0), p.degraded)
        first, second, third, fourth = islice(network.iterates(p), 4)
        for count, x in enumerate((first, second, third, fourth), start=1):
            assert torch.equal(network(p, count), x)
        assert torch.equal(network(p), second)
        # Beyond K the last step is taken again.
        descent = pnp_gd(
            replace(p, start=second), network.regularizer, sigma=0.05, step=0.9, descent="plain"
        )
        for x in (third, fourth):
            torch.testing.assert_close(x, next(descent), rtol=1e-5, atol=1e-6)


def test_steps_that_are_not_learnt_keep_their_values() -> None:
    network = Unrolled(regularizer(), 2, STEP, SIGMA, learn_steps=False)
    network(problem("deblur-k5-2.55")).square().mean().backward()
    assert network.log_step.grad is None
    assert network.log_sigma.grad is None
    assert all(weight.grad is not None for weight in network.regularizer.parameters())


# --- gradients -----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_recomputing_changes_no_bit(precision: torch.dtype) -> None:
    p = problem("deblur-k5-2.55")
    found = []
    for recompute in (False, True):
        network = Unrolled(regularizer(), STEPS, STEP, SIGMA, recompute=recompute)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            x = network(p)
            loss = (x - p.truth).abs().mean()
        loss.backward()
        found.append([x.detach(), *(weight.grad for weight in network.parameters())])
    for kept, again in zip(*found, strict=True):
        assert kept is not None
        assert again is not None
        assert torch.equal(kept, again)


def saved_bytes(steps: int, recompute: bool) -> int:
    """What autograd keeps for the backward pass of so many steps, each storage counted once."""
    network, sizes = Unrolled(regularizer(), steps, STEP, SIGMA, recompute=recompute), {}
    p = problem("deblur-k5-2.55")

    def note(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        x = network(p)  # noqa: F841  (its graph must live until all is counted)
    return sum(sizes.values())


def test_recomputing_keeps_the_images_alone() -> None:
    image = 2 * 3 * 24 * 24 * 4
    more = saved_bytes(8, recompute=True) - saved_bytes(2, recompute=True)
    assert more <= 6 * 2 * image
    assert saved_bytes(8, recompute=False) - saved_bytes(2, recompute=False) > 5 * more


@pytest.mark.parametrize("task", ["deblur-k5-2.55", "sr-x2-2.55", "inpaint-20"])
@pytest.mark.parametrize("name", ["log_step", "log_sigma"])
def test_gradients_are_those_of_finite_differences(task: str, name: str) -> None:
    network, p = unrolled().double(), problem(task, torch.float64)
    weight: Tensor = getattr(network, name)

    def loss() -> Tensor:
        error: Tensor = (network(p) - p.truth).square().mean()
        return error

    loss().backward()
    assert weight.grad is not None
    gradient, h = weight.grad.clone(), 1e-5
    for k in range(STEPS):
        with torch.no_grad():
            middle = weight[k].item()
            weight[k] = middle + h
            above = loss()
            weight[k] = middle - h
            below = loss()
            weight[k] = middle
        difference = ((above - below) / (2 * h)).item()
        assert abs(difference) > 1e-9
        # ReLU is not smooth, so that the two agree only about as well as this.
        assert gradient[k].item() == pytest.approx(difference, rel=1e-3)


def test_gradients_reach_every_weight_and_nothing_else() -> None:
    network, p = unrolled(), problem("deblur-k5-2.55")
    network(p).square().mean().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name
    assert not p.y.requires_grad
    assert not p.degraded.requires_grad


# --- the objective -------------------------------------------------------------------------


def generators(iteration: int, seed: int = 0) -> list[torch.Generator]:
    return [seeded(seed, iteration, place) for place in range(4)]


def clean(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 24, 24, generator=torch.Generator().manual_seed(5))


class Spied(Unrolled):
    """Keeps the problems that it is asked to restore."""

    def __init__(self, steps: int = STEPS) -> None:
        super().__init__(regularizer(), steps, STEP, SIGMA)
        self.seen: list[Problem] = []

    def iterates(self, problem: Problem) -> Iterator[Tensor]:
        self.seen.append(problem)
        return super().iterates(problem)


def test_the_loss_is_the_mean_absolute_error_of_what_is_restored() -> None:
    network = Spied()
    terms = UnrolledObjective(network, "inpaint-20", seed=7)(clean(), 3, generators(3))
    assert list(terms) == ["loss"]
    with torch.no_grad():
        expected = (network(network.seen[0]) - clean()).abs().mean(dim=(1, 2, 3))
    torch.testing.assert_close(terms["loss"].detach(), expected)
    assert torch.equal(network.seen[0].truth, clean())


def test_deep_supervision_adds_the_mean_error_of_the_iterates_before() -> None:
    network = Spied()
    objective = UnrolledObjective(network, "inpaint-20", seed=7, supervision=0.3)
    loss = objective(clean(), 3, generators(3))["loss"]
    with torch.no_grad():
        errors = [
            (x - clean()).abs().mean(dim=(1, 2, 3))
            for x in islice(network.iterates(network.seen[0]), STEPS)
        ]
    expected = errors[-1] + 0.3 * (errors[0] + errors[1] + errors[2]) / 3
    torch.testing.assert_close(loss.detach(), expected)


def test_a_single_step_has_nothing_to_supervise_before_it() -> None:
    network = unrolled(steps=1)
    plain, deep = (
        UnrolledObjective(network, "inpaint-20", 7, weight)(clean(), 3, generators(3))["loss"]
        for weight in (0.0, 0.5)
    )
    assert torch.equal(plain, deep)


def test_noise_is_fresh_for_every_crop_and_iteration_and_repeatable() -> None:
    network = Spied(steps=1)
    objective = UnrolledObjective(network, "denoise-25", seed=7)
    for iteration in (1, 2, 1):
        objective(clean(), iteration, generators(iteration))
    UnrolledObjective(network, "denoise-25", seed=8)(clean(), 1, generators(1))
    objective(clean()[2:], 1, generators(1)[2:])  # on another device, in another step
    first, second, again, reseeded, part = (p.y - p.truth for p in network.seen)
    assert torch.equal(first, again)
    every = torch.cat([first, second]).flatten(1)
    correlation = torch.corrcoef(every) - torch.eye(len(every))
    assert correlation.abs().max() < 0.15  # 1728 pixels each: 6 standard deviations
    assert not torch.equal(reseeded, first)
    torch.testing.assert_close(part, first[2:])


def test_compiled_it_is_the_same_loss_and_no_batch_is_traced_anew() -> None:
    objective = UnrolledObjective(unrolled(steps=2), "deblur-k5-2.55", seed=7)
    compiled = torch.compile(objective, backend="eager")
    torch.compiler.reset()  # of what other tests compiled
    # torch gives up, and warns, when one function has been traced eight times.
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for iteration in range(1, 11):
            found = compiled(clean(), iteration, generators(iteration))["loss"]
            expected = objective(clean(), iteration, generators(iteration))["loss"]
            torch.testing.assert_close(found, expected)


# --- the rival -----------------------------------------------------------------------------


@tasks
def test_end_to_end_is_one_pass_over_the_degraded_image(task: str) -> None:
    network, p = EndToEnd(regularizer().network), problem(task)
    assert network.steps == 1
    with torch.no_grad():
        (only,) = network.iterates(p)
        assert torch.equal(network(p), only)
        assert torch.equal(only, network.network(p.degraded))
    loss = UnrolledObjective(network, task, 7, 0.5)(clean(), 3, generators(3))["loss"]
    loss.mean().backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_a_few_iterations_of_training_lower_the_loss() -> None:
    # Flat dark images, whose unknown pixels start at 0.5.
    network, dark = unrolled(steps=2), torch.full((4, 3, 24, 24), 0.2)
    objective = UnrolledObjective(network, "inpaint-20", seed=7)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for iteration in range(1, 31):
        optimiser.zero_grad()
        loss = objective(dark, iteration, generators(iteration))["loss"].mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


# --- files ---------------------------------------------------------------------------------


def test_a_saved_network_restores_alike(tmp_path: Path) -> None:
    network, p = unrolled(), problem("sr-x2-2.55")
    with torch.no_grad():
        network.log_step.add_(torch.linspace(-0.5, 0.5, STEPS))
        network.log_sigma.sub_(torch.linspace(-0.5, 0.5, STEPS))
    path, again = tmp_path / "models" / "unrolled.safetensors", tmp_path / "again.safetensors"
    save_unrolled(network, path, {"learning_rate": 1e-3})
    loaded = load_unrolled(path)
    with torch.no_grad():
        assert torch.equal(loaded(p), network(p))
    assert loaded.regularizer.form == "plain"
    assert loaded.regularizer.scale == 20.0
    about = read_metadata(path)
    assert (about["kind"], about["steps"]) == ("unrolled", STEPS)
    assert about["training"] == {"learning_rate": 1e-3}
    save_unrolled(loaded, again, {"learning_rate": 1e-3})
    assert path.read_bytes() == again.read_bytes()


def test_a_rival_is_saved_with_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rival.safetensors"
    save_unrolled(EndToEnd(regularizer().network), path, {})
    about = read_metadata(path)
    assert (about["kind"], about["steps"], about["channels"]) == ("end-to-end", 1, list(CHANNELS))
    with pytest.raises(InputError, match="holds a end-to-end, a unrolled"):
        load_unrolled(path)


@pytest.mark.parametrize("network", [Denoiser(CHANNELS, 1), Regularizer(CHANNELS, 1)])
def test_other_kinds_of_network_are_refused(
    network: Denoiser | Regularizer, tmp_path: Path
) -> None:
    path = tmp_path / "other.safetensors"
    save_network(network, path)
    kind = type(network).__name__.lower()
    with pytest.raises(InputError, match=f"other.safetensors: holds a {kind}, a unrolled"):
        load_unrolled(path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "unrolled.safetensors"
    network = unrolled()
    network.log_step = torch.nn.Parameter(torch.zeros(STEPS + 1))
    # The number of steps is read off log_step; log_sigma contradicts it.
    save_unrolled(network, path, {})
    with pytest.raises(InputError) as caught:
        load_unrolled(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"no weights"])
def test_what_is_no_weights_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "unrolled.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"unrolled\.safetensors"):
        load_unrolled(path)

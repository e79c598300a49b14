import torch

from benchmarks.iterations import DATA_TERMS, official_way, problem_of
from reg.equivariance import transform_back
from reg.iterations import pnp_gd


def test_both_data_terms_have_the_gradient_of_ours() -> None:
    problem = problem_of(48)
    x = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(1), requires_grad=True)
    for make in DATA_TERMS.values():
        x.grad = None
        make(problem)(x)
        torch.testing.assert_close(x.grad, problem.data_term.gradient(x.detach()))


def test_the_official_way_takes_the_steps_of_ours() -> None:
    problem, seen = problem_of(48), []

    def regularizer(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.clone())
        return x

    for make in DATA_TERMS.values():
        seen.clear()
        official_way(problem, make(problem), regularizer, 6)  # type: ignore[arg-type]
        ours = pnp_gd(problem, lambda x: x, sigma=0.01, step=0.004, descent="adam")
        for k, (x, expected) in enumerate(zip(seen[1:], ours, strict=False), 1):
            torch.testing.assert_close(transform_back(x, k), expected, rtol=1e-4, atol=1e-4)

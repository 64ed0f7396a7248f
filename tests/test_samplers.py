"""Samplers: the same contract for each of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from posteriors import ANALYTIC, compared
from pyro.infer import MCMC

from bayesprof import inference
from bayesprof.inference import Posterior, chains, functions
from bayesprof.inference.kernels import MALA, SplitHMC, State
from bayesprof.inference.lockstep import in_lockstep
from bayesprof.inference.whitening import Whitened

SAMPLERS = {
    "nuts": (inference.nuts, {"draws": 250}),
    "hmc": (inference.hmc, {"draws": 300}),
    "split_hmc": (inference.split_hmc, {"draws": 500}),
    "mala": (inference.mala, {"draws": 3000}),
}
QUICK = {"nuts": 8, "hmc": 8, "split_hmc": 30, "mala": 30}


@pytest.fixture(scope="module")
def skewed() -> Posterior:
    return Posterior(ANALYTIC["skewed"]().model)


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def gaussian() -> None:
    pyro.sample("x", dist.MultivariateNormal(double(3.0, -1.0), torch.tensor([[4.0, 1.9], [1.9, 1.0]]).double()))


def short(name: str, posterior: Posterior, **options: object) -> az.InferenceData:
    options = {"draws": QUICK[name], "warmup": 20, "chains": 3, "seed": 5, "progress": False, **options}
    return SAMPLERS[name][0](posterior, **options)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("target", [pytest.param("correlated_gaussian", marks=pytest.mark.slow), "skewed"])
def test_moments_are_those_known(name, target):
    known = ANALYTIC[target]()
    sampler, options = SAMPLERS[name]
    post = sampler(known.model, seed=3, progress=False, **options)
    rows = compared(post, known)
    assert all(row.agrees for row in rows), rows
    assert min(row.ess for row in rows) > 250


@pytest.fixture(scope="module")
def many_values() -> Posterior:
    """A model whose sums are long enough for torch to split them among threads, which rounds them differently."""
    generator = torch.Generator().manual_seed(8)
    x, noise = torch.randn(2, 100_000, generator=generator, dtype=torch.float64)

    def model() -> None:
        slope = pyro.sample("slope", dist.Normal(double(0.0), 1.0))
        width = pyro.sample("width", dist.LogNormal(double(0.0), 1.0))
        pyro.sample("y", dist.Normal(torch.sin(slope * x), width).to_event(1), obs=torch.sin(0.7 * x) + noise)

    return Posterior(model)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", SAMPLERS)
def test_same_seed_same_draws_on_any_number_of_threads(name, many_values, monkeypatch):
    used = []
    evaluated = Posterior._evaluated

    def counting(posterior: Posterior, function: str, z: torch.Tensor) -> object:
        if function in ("value_and_grad", "expansion"):
            used.append(torch.get_num_threads())
        return evaluated(posterior, function, z)

    monkeypatch.setattr(Posterior, "_evaluated", counting)
    options = {"draws": 3, "chains": 1}  # sums of several chains are split by chain, and round the same
    with threads(1):
        one = short(name, many_values, **options)
    with threads(2):
        two = short(name, many_values, **options)
        other = short(name, many_values, seed=6, **options)
    assert set(used) == {1}
    for site in one.posterior:
        np.testing.assert_array_equal(one.posterior[site], two.posterior[site])
        assert not np.array_equal(one.posterior[site], other.posterior[site])


def test_draws_do_not_depend_on_what_others_had_compiled(skewed, monkeypatch):
    used = []
    monkeypatch.setattr(functions, "interpreted", lambda captured, example: used.append(captured) or captured.graph)
    posterior = Posterior(lambda: pyro.sample("x", dist.StudentT(double(7.0), 1.0, 2.0).expand([5]).to_event(1)))
    options = {"batch": 3, "calls": 1000}
    posterior.prepare("value_and_grad", compile=True, **options)
    assert not used
    posterior.prepare("value_and_grad", compile=False, **options)
    assert len(used) == 1


@pytest.mark.parametrize("method", ["nuts", "hmc", "split_hmc", "mala", "ensemble", "sample", "laplace", "svi"])
def test_a_fit_of_another_model_is_refused(method, skewed):
    other = inference.lm(gaussian)
    options = {} if method in ("laplace", "svi") else {"chains": 4} if method != "ensemble" else {}
    three = Posterior(lambda: pyro.sample("x", dist.Normal(double(1.0, 2.0, 3.0), 1.0).to_event(1)))
    with pytest.raises(
        ValueError, match=r"expected a fit of this model, whose posterior has 3 dimensions, got one of 2"
    ):
        getattr(inference, method)(three, init=other, progress=False, **options)


def test_many_short_chains_are_exported_without_a_warning(skewed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        post = inference.split_hmc(skewed, chains=16, draws=30, warmup=20, progress=False)
    assert dict(post.posterior.sizes)["chain"] == 16


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("stop", [7, 25])
def test_interrupted_run_resumes_to_the_same_draws(name, stop, skewed, tmp_path, monkeypatch):
    whole = short(name, skewed)
    path = tmp_path / "run.h5"
    advance = chains._Run._advance

    def interrupted(run: chains._Run) -> None:
        if run.here.step == stop:
            raise KeyboardInterrupt
        advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(chains._Run, "_advance", interrupted)
        if stop < 20 + 4:  # nothing to return yet
            with pytest.raises(KeyboardInterrupt):
                short(name, skewed, checkpoint=path)
        else:
            part = short(name, skewed, checkpoint=path)
            assert part.attrs["complete"] == 0
            assert "incomplete" in part.attrs["verdict"]
            assert part.posterior.sizes["draw"] == stop - 20
    resumed = short(name, skewed, checkpoint=path)
    assert resumed.attrs["complete"] == 1
    for group in ("posterior", "sample_stats"):
        for variable in whole[group]:
            np.testing.assert_array_equal(whole[group][variable], resumed[group][variable])


def test_a_finished_checkpoint_is_extended(skewed, tmp_path):
    path = tmp_path / "run.h5"
    short("split_hmc", skewed, checkpoint=path)
    longer = short("split_hmc", skewed, checkpoint=path, draws=60)
    whole = short("split_hmc", skewed, draws=60)
    for site in whole.posterior:
        np.testing.assert_array_equal(whole.posterior[site], longer.posterior[site])


def test_a_checkpoint_of_other_data_is_refused(skewed, tmp_path):
    path = tmp_path / "run.h5"
    short("split_hmc", skewed, checkpoint=path)
    name = skewed.observed[0]
    other = skewed.with_data({name: skewed.data[name] + 0.1})
    with pytest.raises(ValueError, match="data"):
        short("split_hmc", other, checkpoint=path)


def test_run_is_extended_until_the_verdict_is_ok_or_the_budget_ends(skewed):
    enough = inference.split_hmc(skewed, draws=60, chains=4, max_draws=2000, seed=1, progress=False)
    assert enough.attrs["verdict"] == "ok"
    assert 120 <= enough.posterior.sizes["draw"] < 2000
    poor = inference.split_hmc(skewed, draws=20, chains=4, max_draws=50, seed=1, progress=False)
    assert poor.posterior.sizes["draw"] == 50
    assert "ESS" in poor.attrs["verdict"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_statistic_is_there(name, skewed):
    post = short(name, skewed)
    expected = {"lp", "energy", "acceptance_rate", "step_size", "n_steps", "diverging"}
    assert expected | ({"tree_depth"} if name == "nuts" else set()) == set(post.sample_stats)
    z = torch.stack([skewed.unconstrain({k: v.values[1, 2] for k, v in post.posterior.items()})])
    assert post.sample_stats.lp.values[1, 2] == pytest.approx(float(skewed.log_density(z)), rel=1e-9)
    assert post.sample_stats.n_steps.dtype.kind == "i"


def test_split_hmc_needs_one_gradient_for_an_independent_draw_of_a_gaussian():
    post = inference.split_hmc(gaussian, draws=500, chains=4, seed=0, progress=False)
    assert float(post.sample_stats.n_steps.max()) == 1
    assert float(post.sample_stats.acceptance_rate.min()) > 1 - 1e-6
    assert float(az.ess(post)["x"].min()) > 1500
    assert float(az.ess(post.posterior["x"] ** 2)["x"].min()) > 1200


class Logistic:
    """Independent standard logistic coordinates, scaled to unit curvature at 0."""

    scale = math.sqrt(0.5)

    def potential(self, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = w / self.scale
        value = (x + 2 * torch.nn.functional.softplus(-x)).sum(-1)
        return value, torch.tanh(x / 2) / self.scale

    def draws(self, count: int, size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return self.scale * torch.logit(torch.rand(count, size, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize(
    ("kernel", "step"), [(SplitHMC(), 2.0), (SplitHMC(), 0.4), (MALA(), 1.1)], ids=["one step", "four steps", "MALA"]
)
def test_a_kernel_leaves_its_target_as_it_is(kernel, step):
    target = Logistic()
    w = target.draws(40_000, 3)
    state = State(w, *target.potential(w))
    for seed in range(4):
        state, stats = kernel.transition(target, state, torch.full((len(w),), step, dtype=torch.float64), seed)
        assert 0.3 < float(stats["acceptance_rate"].mean()) < 0.999
    moved = (state.position - w).abs().mean()
    assert float(moved) > 0.5
    for column in state.position.T:
        assert scipy.stats.kstest(column.numpy() / target.scale, scipy.stats.logistic.cdf).pvalue > 1e-3


def test_chains_in_lockstep_get_the_answers_to_their_own_questions():
    asked = []

    def evaluate(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(points.clone())
        return (points**2).sum(-1), 2 * points

    def task(steps: int):
        def run(ask) -> float:
            torch.manual_seed(steps)
            total = 0.0
            for i in range(steps):
                value, gradient = ask(double(float(i), float(steps)))
                assert gradient.tolist() == [2.0 * i, 2.0 * steps]
                total += float(value) + float(torch.rand(()))
            return total

        return run

    idle = torch.zeros(3, 2, dtype=torch.float64)
    before = torch.get_rng_state()
    together = in_lockstep([task(n) for n in (3, 1, 5)], evaluate, idle)
    alone = [in_lockstep([task(n)], evaluate, idle[:1])[0] for n in (3, 1, 5)]
    assert together == alone
    assert torch.equal(before, torch.get_rng_state())
    assert len(asked) == 5 + 3 + 1 + 5


def test_an_error_in_a_chain_reaches_the_caller():
    def broken(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("the disk is on fire")

    def task(ask) -> None:
        ask(torch.zeros(1))

    with pytest.raises(RuntimeError, match="on fire"):
        in_lockstep([task, task], broken, torch.zeros(2, 1))

    def failing(ask) -> None:
        ask(torch.zeros(1))
        raise RuntimeError("the chain broke")

    with pytest.raises(RuntimeError, match="chain broke"):
        in_lockstep([task, failing, task], lambda points: (points.sum(-1), points), torch.zeros(3, 1))


def test_learned_coordinates_whiten_what_the_hessian_got_wrong():
    posterior = Posterior(gaussian)
    wrong = Whitened(posterior, double(0.0, 0.0), torch.eye(2, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    scale = torch.linalg.cholesky(torch.tensor([[4.0, 1.9], [1.9, 1.0]], dtype=torch.float64))
    z = double(3.0, -1.0) + torch.randn(4, 5000, 2, generator=generator, dtype=torch.float64) @ scale.T
    learned = wrong.learned(wrong.whiten(z), prior_draws=20)
    w = learned.whiten(z).reshape(-1, 2)
    torch.testing.assert_close(w.mean(0), torch.zeros(2).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(w.T.cov(), torch.eye(2).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(learned.unwhiten(learned.whiten(z)), z)


def test_coordinates_that_fit_are_kept_by_however_few_draws():
    size = 7
    whitened = Whitened(Posterior(gaussian), torch.zeros(size).double(), torch.eye(size).double())
    generator = torch.Generator().manual_seed(3)
    kept = [
        whitened.learned(torch.randn(draws, size, generator=generator).double(), prior_draws=3 * size) is whitened
        for draws in (20, 40, 80, 160) * 25
    ]
    assert all(kept)
    # as many that are half as many, the others copies of them
    twice = torch.randn(40, size, generator=generator).double().repeat(2, 1)
    assert whitened.learned(twice, prior_draws=3 * size, independent=0.5) is whitened
    assert whitened.learned(torch.zeros(0, size).double(), prior_draws=3 * size) is whitened


def test_mala_is_a_kernel_of_pyros_mcmc():
    def model() -> None:
        pyro.sample("x", dist.Normal(double(3.0, -1.0), double(1.0, 2.0)).to_event(1))

    mcmc = MCMC(inference.MALA(model), num_samples=1500, warmup_steps=300, disable_progbar=True)
    pyro.set_rng_seed(0)
    mcmc.run()
    draws = mcmc.get_samples()["x"].double()
    torch.testing.assert_close(draws.mean(0), double(3.0, -1.0), atol=0.4, rtol=0)
    torch.testing.assert_close(draws.std(0), double(1.0, 2.0), rtol=0.25, atol=0)
    with pytest.raises(TypeError, match="num_steps"):
        inference.MALA(model, num_steps=3)


def test_sample_uses_the_sampler_only_where_it_must(skewed):
    cheap = inference.sample(gaussian, draws=1000, progress=False)
    assert cheap.attrs["method"] == "Laplace"
    assert cheap.attrs["verdict"] == "ok"

    def heavy_tails() -> None:
        pyro.sample("x", dist.StudentT(double(1.0, 1.0)).to_event(1))

    dear = inference.sample(heavy_tails, draws=800, chains=4, max_draws=400, progress=False)
    assert dear.attrs["method"] == "split HMC"
    assert "k-hat" in dear.attrs["choice"]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sample_gets_the_widths_right_where_importance_sampling_does_not(seed):
    """Of this posterior Laplace's draws are good by their weights alone, and a sixth too narrow."""
    known = ANALYTIC["heavy_tailed"]()
    post = inference.sample(known.model, seed=seed, progress=False)
    assert post.attrs["method"] == "split HMC"
    assert "spread" in post.attrs["choice"]
    rows = compared(post, known)
    assert all(row.agrees for row in rows), rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws >= 1"),
        ({"draws": 2.5}, "draws >= 1"),
        ({"warmup": 3}, "warmup >= 20"),
        ({"chains": 0}, "chains >= 1"),
        ({"chains": True}, "chains >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"max_draws": 5}, "max_draws >= "),
        ({"max_seconds": 0}, "max_seconds > 0"),
        ({"compile": "yes"}, "compile"),
        ({"target_acceptance": 1.0}, "target_acceptance"),
    ],
)
@pytest.mark.parametrize("name", SAMPLERS)
def test_arguments_out_of_range_are_told(name, options, message, skewed):
    with pytest.raises(ValueError, match=f"{name}: expected {message}"):
        short(name, skewed, **options)

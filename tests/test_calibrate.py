"""Simulation-based calibration: correct posteriors pass, and those that are wrong by a known amount fail, by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from posteriors import ANALYTIC, Known, compared, component_scene
from pyro import poutine
from torch import Tensor

from bayesprof import plots
from bayesprof.inference import Posterior, lm
from bayesprof.inference.calibrate import calibrate
from bayesprof.inference.calibration import (
    JOINT,
    LEVELS,
    Calibration,
)
from bayesprof.inference.ranks import coverage, ecdf_band, uniformity

SIZE, REPEATS, PRIOR_SD, NOISE = 6, 4, 3.0, 1.0
DRAWS = 49


def double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# -- conjugate models, and their posteriors in closed form


def locations(noise: float = NOISE) -> Any:
    """Six locations, each measured four times."""

    def model() -> None:
        beta = pyro.sample("beta", dist.Normal(double(0.0), PRIOR_SD).expand([SIZE]).to_event(1))
        pyro.sample(
            "y",
            dist.Normal(beta, noise).expand([REPEATS, SIZE]).to_event(2),
            obs=torch.zeros(REPEATS, SIZE, dtype=torch.float64),
        )

    return model


def exact(posterior: Posterior, seed: int, *, noise: float = NOISE, width: float = 1.0, offset: float = 0.0) -> Tensor:
    """Independent draws from the posterior of :func:`locations`, made `width` times as wide and moved by `offset`
    standard deviations.
    """
    precision = REPEATS / noise**2 + PRIOR_SD**-2
    mean = posterior.data["y"].sum(0) / noise**2 / precision
    normal = torch.from_numpy(np.random.default_rng(seed).normal(size=(DRAWS, SIZE)))
    return mean + (width * normal + offset) / math.sqrt(precision)


class LogNormalWithoutJacobian(dist.LogNormal):
    """Draws as a log-normal distribution, with the density of the logarithm in the place of its own."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + torch.log(value)


def scale_of_one(prior: Any) -> Any:
    def model() -> None:
        scale = pyro.sample("scale", prior(double(0.0), double(0.8)))
        pyro.sample("y", dist.Normal(double(0.0), scale), obs=double(1.0))

    return model


def by_grid(posterior: Posterior, seed: int) -> Tensor:
    """Independent draws of a one-dimensional posterior, from its density on a grid."""
    grid = torch.linspace(-6.0, 6.0, 1024, dtype=torch.float64)
    log_density = posterior.log_density(grid[:, None]).numpy()
    weight = np.exp(log_density - log_density.max())
    uniform = np.random.default_rng(seed).random(DRAWS)
    return torch.from_numpy(np.interp(uniform, np.cumsum(weight) / weight.sum(), grid.numpy()))[:, None]


@pytest.fixture(scope="module")
def of_locations() -> Posterior:
    return Posterior(locations())


def run(model: Any, method: Any, simulations: int, **options: Any) -> Calibration:
    return calibrate(model, method=method, simulations=simulations, draws=DRAWS, seed=4, progress=False, **options)


# -- what is kept


def test_interrupted_or_extended_it_goes_on_to_the_same_ranks(of_locations, tmp_path):
    whole = run(of_locations, exact, 40)
    path, called = tmp_path / "ranks.h5", []

    def until_interrupted(posterior: Posterior, seed: int) -> Tensor:
        called.append(seed)
        if len(called) == 13:
            raise KeyboardInterrupt
        if len(called) == 3:
            raise ZeroDivisionError("a fit without draws")
        return exact(posterior, seed)

    until_interrupted.__qualname__ = "exact"
    with pytest.raises(KeyboardInterrupt):
        run(of_locations, until_interrupted, 20, checkpoint=path)
    half = run(of_locations, until_interrupted, 20, checkpoint=path)
    assert len(called) == len(set(called)) + 1 == 21  # the interrupted one again, and none of the others
    assert half.missing == {"ZeroDivisionError: a fit without draws": 1}
    extended = run(of_locations, exact, 40, checkpoint=path)
    assert extended.missing == half.missing
    for name, ranks in whole.ranks.items():
        assert extended.ranks[name].tolist() == np.delete(ranks, 2).tolist()
    with pytest.raises(ValueError, match=r"expected simulations >= 40, as many as '.*ranks.h5' holds, got 20"):
        run(of_locations, exact, 20, checkpoint=path)
    with pytest.raises(ValueError, match='checkpoint of another run: expected by = "by_grid", found "exact"'):
        run(of_locations, by_grid, 40, checkpoint=path)


def test_a_calibration_without_any_draws_yet_is_kept_as_well(of_locations, tmp_path):
    def failing(posterior: Posterior, seed: int) -> Tensor:
        raise ZeroDivisionError("no draws")

    for _ in range(2):
        with pytest.raises(ValueError, match=r"got none from all 20: {'ZeroDivisionError: no draws': 20}"):
            run(of_locations, failing, 20, checkpoint=tmp_path / "ranks.h5")


# -- what passes and what fails


def test_exact_posterior_of_a_conjugate_model_is_calibrated(of_locations):
    calibration = run(of_locations, exact, 400)
    assert calibration.verdict == "ok"
    assert calibration.ok
    for name, covered in calibration.coverage.items():
        for level in LEVELS:
            # four binomial standard deviations, for 21 of them
            assert abs(covered[level] - level) < 4 * calibration.coverage_error[level], (name, level)


def test_exact_posterior_by_its_density_on_a_grid_is_calibrated():
    assert run(scale_of_one(dist.LogNormal), by_grid, 200).verdict == "ok"


def test_dropped_jacobian_in_the_density_fails_as_biased_high():
    calibration = run(scale_of_one(LogNormalWithoutJacobian), by_grid, 200)
    assert "scale is biased high" in calibration.verdict
    assert calibration.tests["scale"].p_offset < 1e-6


@pytest.mark.parametrize(("factor", "said"), [(1.1, "too wide"), (0.9, "too narrow")])
def test_noise_wrong_by_a_tenth_in_the_likelihood_fails(of_locations, factor, said):
    wrong = Posterior(locations(factor * NOISE))
    calibration = run(
        wrong,
        lambda posterior, seed: exact(posterior, seed, noise=factor * NOISE),
        400,
        simulate=lambda seed: of_locations.predictive(None, seed),
    )
    assert f"the posterior of all parameters is {said}" in calibration.verdict
    assert "noise of the wrong size" in calibration.verdict
    assert (calibration.tests[JOINT].offset > 0) == (factor > 1)


def test_posterior_too_narrow_by_a_fifth_fails_in_every_parameter(of_locations):
    calibration = run(of_locations, lambda posterior, seed: exact(posterior, seed, width=0.8), 400)
    for i in range(SIZE):
        assert f"beta[{i}] is too narrow" in calibration.verdict
        # 1 / 0.8, less what lies beyond the outermost draws
        assert calibration.tests[f"beta[{i}]"].spread == pytest.approx(1.25, abs=0.12)
        assert calibration.coverage[f"beta[{i}]"][0.683] == pytest.approx(2 * scipy.stats.norm.cdf(0.8) - 1, abs=0.1)


def test_posterior_too_wide_by_a_quarter_fails_in_every_parameter(of_locations):
    calibration = run(of_locations, lambda posterior, seed: exact(posterior, seed, width=1.25), 400)
    for i in range(SIZE):
        assert f"beta[{i}] is too wide" in calibration.verdict


def test_posterior_that_lies_too_low_fails_as_biased_low(of_locations):
    calibration = run(of_locations, lambda posterior, seed: exact(posterior, seed, offset=-0.4), 200)
    for i in range(SIZE):
        assert f"beta[{i}] is biased low" in calibration.verdict
        # four standard errors
        assert calibration.tests[f"beta[{i}]"].offset == pytest.approx(0.4, abs=4 / math.sqrt(200))
    assert "high" not in calibration.verdict


def test_posterior_that_ignores_the_data_fails_by_its_density_alone(of_locations):
    def prior(posterior: Posterior, seed: int) -> Tensor:
        return torch.from_numpy(PRIOR_SD * np.random.default_rng(seed).normal(size=(DRAWS, SIZE)))

    calibration = run(of_locations, prior, 200)
    assert "the posterior of all parameters is too wide" in calibration.verdict
    assert "beta" not in calibration.verdict


def test_wrong_shape_of_the_right_mean_and_width_fails():
    ranks = np.random.default_rng(0).choice([15, 16, 83, 84], size=1000)
    test = uniformity(ranks, 99)
    assert min(test.p_offset, test.p_spread) > 0.01
    assert test.p_shape < 1e-9
    calibration = Calibration({"x": ranks}, 99, 1000, {}, {})
    assert "x is of the wrong shape" in calibration.verdict


# those that the others are made of; benchmarks/calibration.py does it for all
CALIBRATED = (("point_source", 128), ("plane_sky", 128))
SLOWER = (("sersic", 128), ("gaussian", 128), ("gaussian_psf", 128))


@pytest.mark.parametrize(
    ("name", "simulations"), [*CALIBRATED, *(pytest.param(*one, marks=pytest.mark.slow) for one in SLOWER)]
)
def test_component_is_calibrated_with_the_default_method(name, simulations):
    calibration = calibrate(component_scene(name), simulations=simulations, seed=1, progress=False)
    assert calibration.verdict == "ok"
    assert not calibration.missing
    assert sum(calibration.flagged.values()) <= 2, calibration.flagged


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["contaminated", "extra_noise", "correlated"])
def test_likelihood_with_parameters_is_calibrated_with_the_default_method(likelihood):
    calibration = calibrate(component_scene("point_source", likelihood), simulations=64, seed=2, progress=False)
    assert calibration.verdict == "ok"
    assert not calibration.missing


def bent() -> None:
    """Of two parameters one point on a parabola is known, of one arm but for one draw in 700."""
    a, b = pyro.sample("a", dist.Normal(double(0.0), 1.0)), pyro.sample("b", dist.Normal(double(0.0), 1.5))
    pyro.sample("y", dist.Normal(b - (a + 3) ** 2 / 4, 0.3), obs=double(0.0))


@pytest.mark.slow
def test_bent_posteriors_are_calibrated_with_the_default_method():
    calibration = calibrate(bent, simulations=100, seed=3, progress=False)
    assert calibration.ok, calibration.verdict


# -- the statistics


def test_simultaneous_band_holds_the_whole_ecdf_as_often_as_it_says():
    count, draws, trials = 100, 49, 4000
    generator = np.random.default_rng(2)
    counts = generator.multinomial(count, np.full(draws + 1, 1 / (draws + 1)), size=trials)
    ecdf = np.cumsum(counts, axis=1)[:, :-1] / count
    for probability in (0.68, 0.95):
        low, high = ecdf_band(count, draws, probability)
        inside = ((ecdf >= low - 1e-9) & (ecdf <= high + 1e-9)).all(axis=1).mean()
        # at least: the counts are whole numbers. Three binomial standard deviations, and steps of the band
        assert probability - 0.011 * 2 < inside < probability + 0.04


def test_simultaneous_band_agrees_with_arviz():
    count, draws = 128, 99
    points = np.arange(1, draws + 1) / (draws + 1)
    theirs = az.stats.ecdf_utils.ecdf_confidence_band(count, points, points, prob=0.95)
    for ours, other in zip(ecdf_band(count, draws, 0.95), theirs, strict=True):
        # one count of 128: they stop at another step of the same ladder
        np.testing.assert_allclose(ours, other, atol=1.5 / count)


def test_probabilities_of_uniform_ranks_are_what_they_say():
    generator = np.random.default_rng(3)
    tests = [uniformity(generator.integers(0, 20, 100), 19) for _ in range(1000)]
    for name in ("p_offset", "p_spread", "p_shape"):
        values = np.array([getattr(test, name) for test in tests])
        for limit in (0.05, 0.2):
            # three binomial standard deviations of 1,000; p_shape may be lower, as counts are whole numbers
            assert (values < limit).mean() < limit + 3 * math.sqrt(limit * (1 - limit) / 1000), name
            assert (values < limit).mean() > 0.5 * limit, name


@pytest.mark.parametrize("draws", [9, 20, 99])
@pytest.mark.parametrize("level", LEVELS)
def test_coverage_of_every_rank_once_is_the_level(draws, level):
    assert coverage(np.arange(draws + 1), draws, level) == pytest.approx(level, abs=1e-12)


def test_coverage_of_truths_at_the_median_is_whole_and_outside_all_draws_nothing():
    assert coverage(np.full(5, 50), 100, 0.5) == pytest.approx(1.0)
    assert coverage(np.array([0, 100, 0]), 100, 0.954) == 0.0


# -- what is counted, and never dropped in silence


def test_fits_that_fail_by_their_own_verdict_are_counted_and_ranked(of_locations):
    calibration = run(of_locations, lambda posterior, seed: (exact(posterior, seed), "doubtful"), 40)
    assert calibration.flagged == {"doubtful": 40}
    assert len(calibration.ranks["beta[0]"]) == 40
    assert calibration.verdict.startswith("40 of 40 fits failed by their own verdict, most often: doubtful")
    assert "40 flagged" in repr(calibration)


def test_fits_without_draws_are_counted_and_fail(of_locations):
    def sometimes(posterior: Posterior, seed: int) -> Tensor:
        draws = exact(posterior, seed)
        if seed % 4 == 0:
            raise ZeroDivisionError("no width")
        return draws * math.nan if seed % 4 == 1 else draws

    calibration = run(of_locations, sometimes, 60)
    assert set(calibration.missing) == {"ZeroDivisionError: no width", "draws that aren't finite"}
    assert len(calibration.ranks[JOINT]) == 60 - sum(calibration.missing.values())
    assert "gave no draws, which hides their ranks" in calibration.verdict
    assert not calibration.ok


def test_fits_in_another_mode_fail_though_their_ranks_do_not_show_it(of_locations):
    def astray(posterior: Posterior, seed: int) -> Tensor:
        return exact(posterior, seed, offset=30.0 if seed % 32 == 0 else 0.0)

    calibration = run(of_locations, astray, 100)
    assert 0 < calibration.lost < 10
    assert not calibration.failed
    assert f"{calibration.lost} of 100 fits ended in a mode far below the truth" in calibration.verdict
    assert run(of_locations, exact, 100).lost == 0


def test_chains_that_are_not_independent_draws_are_flagged(of_locations):
    def slow(posterior: Posterior, seed: int) -> Tensor:
        draws = exact(posterior, seed)
        return draws.repeat_interleave(8, 0)[None].expand(2, -1, -1)

    assert any("ESS below 49" in reason for reason in run(of_locations, slow, 20).flagged)


def test_inference_data_is_ranked_as_its_draws_are(of_locations):
    def as_inference_data(posterior: Posterior, seed: int) -> az.InferenceData:
        draws = exact(posterior, seed).reshape(1, DRAWS, SIZE)
        return az.from_dict(posterior={"beta": draws.numpy()}, attrs={"verdict": "short"})

    plain = run(of_locations, exact, 20)
    calibration = run(of_locations, as_inference_data, 20)
    for name, ranks in plain.ranks.items():
        np.testing.assert_array_equal(calibration.ranks[name], ranks)
    assert calibration.flagged == {"short": 20}


def test_same_seed_gives_same_ranks_and_another_others(of_locations):
    first, again = (run(of_locations, exact, 20) for _ in range(2))
    for name, ranks in first.ranks.items():
        np.testing.assert_array_equal(again.ranks[name], ranks)
    other = calibrate(of_locations, method=exact, simulations=20, draws=DRAWS, seed=5, progress=False)
    assert any((other.ranks[name] != ranks).any() for name, ranks in first.ranks.items())


def test_start_from_the_truth_ends_in_the_same_posterior():
    model = scale_of_one(dist.LogNormal)
    options = {"simulations": 20, "draws": DRAWS, "progress": False}
    here, there = (calibrate(model, start=start, **options) for start in ("model", "truth"))
    # the two ends of a fit agree to its tolerance, so hardly any draw changes sides
    assert np.abs(here.ranks["scale"] - there.ranks["scale"]).max() <= 1


def test_table_has_a_row_for_each_parameter(of_locations):
    table = run(of_locations, exact, 20).table()
    assert table.colnames == ["parameter", "50%", "68.3%", "95.4%", "offset", "spread", "p"]
    assert list(table["parameter"]) == [*(f"beta[{i}]" for i in range(SIZE)), JOINT]


# -- refusals


def factored() -> None:
    mean = pyro.sample("mean", dist.Normal(double(0.0), 1.0))
    pyro.sample("y", dist.Normal(mean, 1.0), obs=double(0.3))
    pyro.factor("penalty", -(mean**2))


def unobserved() -> None:
    pyro.sample("mean", dist.Normal(double(0.0), 1.0))


def scaled() -> None:
    mean = pyro.sample("mean", dist.Normal(double(0.0), 1.0))
    with poutine.scale(scale=0.5):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=double(0.3))


@pytest.mark.parametrize(
    ("model", "options", "error", "said"),
    [
        (factored, {}, ValueError, r"factors \['penalty'\].*take them out"),
        (unobserved, {}, ValueError, "an observed site"),
        (scaled, {}, ValueError, r"a scale at \['y'\]"),
        (locations(), {"simulations": 5}, ValueError, "simulations >= 20"),
        (locations(), {"draws": 3}, ValueError, "draws >= 9"),
        (locations(), {"draws": True}, ValueError, "draws >= 9"),
        (locations(), {"start": "prior"}, ValueError, "'model' or 'truth', got 'prior'"),
        (locations(), {"method": exact, "start": "truth"}, ValueError, "the default method only"),
        (locations(), {"method": "nuts"}, TypeError, "method to be a function, got str"),
        (locations(), {"method": exact, "draws": 60}, ValueError, "60 draws or more, got 49"),
        (locations(), {"method": lambda posterior, seed: torch.zeros(99, 2)}, ValueError, r"\(draws, 6\)"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_with_the_remedy(model, options, error, said):
    with pytest.raises(error, match=said):
        calibrate(model, progress=False, **options)


# -- the picture


def test_picture_has_a_panel_for_each_parameter_and_red_where_it_fails(tmp_path):
    generator = np.random.default_rng(1)
    names = [f"galaxy.parameter_{i}" for i in range(9)]
    ranks = {name: generator.integers(0, 100, 128) for name in names}
    ranks[names[4]] = ranks[names[4]] // 2
    calibration = Calibration(ranks, 99, 128, {}, {})
    figure = plots.calibration(calibration, path=tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").stat().st_size > 10_000
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [panel.get_title().replace("\n", "") for panel in panels] == names
    red = [panel.get_title().replace("\n", "") for panel in panels if panel.lines[1].get_color() == "tab:red"]
    assert red == [names[4]]
    # the step at each rank is the number of truths there
    _, y = panels[0].lines[1].get_data()
    expected = np.cumsum(np.bincount(ranks[names[0]], minlength=100))[:-1] / 128 - np.arange(1, 100) / 100
    np.testing.assert_allclose(y[1:-1], expected, atol=1e-12)


def test_picture_refuses_what_is_no_calibration():
    with pytest.raises(TypeError, match="expected a Calibration, got dict"):
        plots.calibration({})
    ranks = {f"p{i}": np.zeros(20, dtype=int) for i in range(40)}
    with pytest.raises(ValueError, match="at most 36 parameters, got 40"):
        plots.calibration(Calibration(ranks, 9, 20, {}, {}))


# -- the posteriors that methods are tested on


def moments_by_quadrature(
    known: Known, points: int, reach: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Means and standard deviations of up to three unconstrained dimensions by the trapezoid rule, on a grid in the
    coordinates whitened by the Hessian.
    """
    posterior = Posterior(known.model)
    fit = lm(posterior)
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(*[axis] * posterior.size, indexing="ij"), -1).reshape(-1, posterior.size)
    z = fit.z + torch.linalg.solve_triangular(torch.linalg.cholesky(fit.hessian).T, grid.T, upper=True).T
    log_density = torch.cat([posterior.log_density(part) for part in z.split(4096)])
    weight = torch.softmax(log_density, 0)
    mean, sd = {}, {}
    for name, values in posterior.constrain(z).items():
        shaped = weight.reshape(-1, *[1] * (values.ndim - 1))
        mean[name] = (shaped * values).sum(0).numpy()
        sd[name] = (shaped * (values - torch.from_numpy(mean[name])) ** 2).sum(0).sqrt().numpy()
    return mean, sd


@pytest.mark.parametrize("name", ["skewed", "bounded"])
def test_analytic_posterior_has_the_moments_of_its_density(name):
    known = ANALYTIC[name]()
    mean, sd = moments_by_quadrature(known, 301, 20.0)
    for site in known.mean:
        np.testing.assert_allclose(mean[site], known.mean[site], rtol=1e-6)
        np.testing.assert_allclose(sd[site], known.sd[site], rtol=1e-6)


def test_correlated_gaussian_has_the_moments_of_its_fit():
    known = ANALYTIC["correlated_gaussian"]()
    fit = lm(known.model)
    np.testing.assert_allclose(fit.params["beta"], known.mean["beta"], rtol=1e-6)
    np.testing.assert_allclose(fit.std["beta"], known.sd["beta"], rtol=1e-6)
    assert np.linalg.cond(fit.covariance) == pytest.approx(1e4, rel=1e-4)


@pytest.mark.parametrize("name", ANALYTIC)
def test_comparison_tells_draws_of_the_known_moments_from_others(name):
    known = ANALYTIC[name]()
    generator = np.random.default_rng(8)

    def drawn(offset: float, width: float) -> az.InferenceData:
        return az.from_dict(
            posterior={
                site: mean + known.sd[site] * (offset + width * generator.normal(size=(4, 4000, *mean.shape)))
                for site, mean in known.mean.items()
            }
        )

    assert all(one.agrees for one in compared(drawn(0.0, 1.0), known))
    # 16,000 draws: a mean is known to 0.008 of a standard deviation, that to 0.6%
    assert not any(one.agrees for one in compared(drawn(0.06, 1.0), known))
    assert not any(one.agrees for one in compared(drawn(0.0, 1.06), known))


def test_comparison_counts_resampled_draws_as_what_they_are_worth():
    known = ANALYTIC["bounded"]()
    draws = {site: mean + 0.1 * np.random.default_rng(1).normal(size=(4, 1000)) for site, mean in known.mean.items()}
    plain, resampled = (
        compared(az.from_dict(posterior=draws, attrs=attrs), known) for attrs in ({}, {"resampled_ess": 400.0})
    )
    for many, few in zip(plain, resampled, strict=True):
        assert few.ess == 400.0
        assert abs(few.mean_offset) < abs(many.mean_offset)


REFERENCES = sorted((Path(__file__).resolve().parents[1] / "benchmarks" / "references").glob("*.json"))


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.stem)
def test_stored_reference_comes_from_a_run_that_converged(path):
    report = json.loads(path.read_text())
    assert report["verdict"] == "ok"
    for site in report["sites"].values():
        mean, sd, error = (np.asarray(site[key]) for key in ("mean", "sd", "mean_error"))
        assert (np.asarray(site["r_hat"]) < 1.01).all()
        # the effective number of draws, and the error of the mean that goes with it
        assert (np.asarray(site["ess_mean"]) > 1000).all()
        np.testing.assert_allclose(error, sd / np.sqrt(site["ess_mean"]), rtol=0.05)
        quantiles = np.array([site["quantiles"][q] for q in ("0.023", "0.159", "0.5", "0.841", "0.977")])
        assert (np.diff(quantiles, axis=0) > 0).all()
        # a skewed posterior's mean is still within its central 68%
        assert ((quantiles[1] < mean) & (mean < quantiles[3])).all()


def test_there_are_stored_references():
    assert REFERENCES

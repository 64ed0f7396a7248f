"""Posteriors of several modes: maxima found from several starts, and methods that go to all of them."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import Tensor

from bayesprof import inference
from bayesprof.inference import Posterior
from bayesprof.inference.checkpoint import Checkpoint
from bayesprof.inference.modes import modes_at

SHARES = (0.7, 0.3)
CENTRES = ((4.0, 1.0), (-4.0, 0.0))
WIDTHS = ((0.3, 0.5), (1.0, 0.6))


def mixture() -> dist.MixtureSameFamily:
    parts = dist.Normal(torch.tensor(CENTRES, dtype=torch.float64), torch.tensor(WIDTHS, dtype=torch.float64))
    return dist.MixtureSameFamily(
        dist.Categorical(torch.tensor(SHARES, dtype=torch.float64)), dist.Independent(parts, 1)
    )


def two_modes() -> None:
    prior = dist.Normal(torch.zeros(2, dtype=torch.float64), 5.0).to_event(1)
    x = pyro.sample("x", prior)
    pyro.factor("rest", mixture().log_prob(x) - prior.log_prob(x))


@pytest.fixture(scope="module")
def posterior() -> Posterior:
    return Posterior(two_modes)


@pytest.fixture(scope="module")
def fit(posterior) -> inference.Fit:
    return inference.lm(posterior, starts=12)


def test_starts_find_both_maxima_and_tell_their_shares(fit):
    (other,) = fit.others
    np.testing.assert_allclose(fit.z, CENTRES[0], atol=1e-4)
    np.testing.assert_allclose(other.z, CENTRES[1], atol=1e-4)
    assert fit.converged
    assert other.converged
    assert fit.log_density > other.log_density
    assert "About 30% of the probability are at other maxima" in fit.message


def test_the_most_probable_maximum_need_not_be_the_highest(posterior):
    wide = dist.Normal(torch.tensor([[3.0], [-3.0]], dtype=torch.float64), torch.tensor([[0.01], [1.0]]).double())

    def model() -> None:
        prior = dist.Normal(torch.zeros(1, dtype=torch.float64), 5.0).to_event(1)
        x = pyro.sample("x", prior)
        both = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.05, 0.95]).double()), dist.Independent(wide, 1))
        pyro.factor("rest", both.log_prob(x) - prior.log_prob(x))

    posterior = Posterior(model)
    narrow, broad = (inference.lm(posterior, init={"x": torch.tensor([start])}) for start in (3.0, -3.0))
    assert narrow.log_density > broad.log_density
    modes = modes_at(posterior, inference.lm(posterior, init={"x": torch.tensor([3.0])}, starts=8))
    np.testing.assert_allclose(modes.each[0].centre, [-3.0], atol=1e-3)
    np.testing.assert_allclose(modes.shares, [0.95, 0.05], atol=1e-3)


def test_one_maximum_has_no_others_and_further_starts_end_where_it_is_near():
    def model() -> None:
        pyro.sample("x", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))

    fit = inference.lm(Posterior(model), starts=4)
    assert fit.others == ()
    assert "other maxima" not in fit.message
    assert fit.message.count(f"{fit.log_density:.2f}") == 4


@pytest.mark.parametrize(
    ("method", "draws"),
    [
        ("nuts", 250),
        pytest.param("hmc", 400, marks=pytest.mark.slow),
        ("split_hmc", 500),
        pytest.param("mala", 1500, marks=pytest.mark.slow),
        ("laplace", 4000),
    ],
)
def test_every_method_has_the_shares_and_widths_of_both(method, draws, posterior, fit):
    post = getattr(inference, method)(posterior, init=fit, draws=draws, seed=4, progress=False)
    x = post.posterior["x"].values.reshape(-1, 2)
    first = x[:, 0] > 0
    # 0.07 is three times the error of the share of 400 independent draws, which the verdict asks for
    assert post.attrs["verdict"] == "ok"
    assert first.mean() == pytest.approx(SHARES[0], abs=0.07)
    for inside, centre, width in zip((first, ~first), CENTRES, WIDTHS, strict=True):
        np.testing.assert_allclose(x[inside].mean(0), centre, atol=0.25 * max(width))
        np.testing.assert_allclose(x[inside].std(0), width, rtol=0.2)
    if method != "laplace":
        np.testing.assert_array_equal(post.sample_stats["mode"].values.ravel() == 0, first)
        np.testing.assert_allclose(post.sample_stats["lp"].values.ravel(), mixture().log_prob(torch.tensor(x)))


def test_automatic_starts_go_on_until_three_have_reached_the_highest(posterior):
    def one_mode() -> None:
        pyro.sample("x", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))

    def many() -> None:
        pyro.sample("x", dist.Normal(torch.zeros(33, dtype=torch.float64), 1.0).to_event(1))

    assert inference.lm(Posterior(one_mode), starts="auto").starts == 4
    assert inference.lm(Posterior(many), starts="auto").starts == 1
    found = inference.lm(posterior, starts="auto", init={"x": torch.tensor(CENTRES[1])})
    assert len(found.others) == 1
    assert 4 < found.starts <= 16
    # draws of the prior that the two starts have in common lead to the same
    assert inference.lm(posterior, starts=found.starts, init={"x": torch.tensor(CENTRES[1])}).message == found.message


@pytest.mark.parametrize("method", ["svi", "ensemble"])
def test_methods_about_one_maximum_say_what_they_miss(method, posterior, fit):
    options = {"svi": {"steps": 100}, "ensemble": {"draws": 200, "warmup": 50}}[method]
    post = getattr(inference, method)(posterior, init=fit, progress=False, **options)
    assert "other maxima that the fit knows, about which there are 30% of the probability" in post.attrs["verdict"]


def test_what_draws_miss_is_told_by_their_weights(posterior, fit):
    modes = modes_at(posterior, fit)
    z = torch.tensor([*[CENTRES[0]] * 99, CENTRES[1]], dtype=torch.float64)
    assert "30%" in str(modes.unvisited(z))
    weights = torch.tensor([*[0.7 / 99] * 99, 0.3], dtype=torch.float64)
    assert modes.unvisited(z, weights) is None


def test_evidence_is_that_of_both(posterior, fit):
    assert inference.evidence(posterior, init=fit, method="laplace").log_evidence == pytest.approx(0.0, abs=1e-6)
    found = inference.evidence(posterior, init=fit, progress=False)
    assert found.log_evidence == pytest.approx(0.0, abs=4 * found.error)


def test_sample_searches_by_itself(posterior):
    post = inference.sample(posterior, starts=12, progress=False)
    assert (post.posterior["x"].values[..., 0] > 0).mean() == pytest.approx(SHARES[0], abs=0.05)


def test_sample_searches_on_from_a_fit_of_one_start(posterior):
    alone = inference.lm(posterior, init={"x": torch.tensor(CENTRES[1])})
    assert (alone.starts, alone.others) == (1, ())
    post = inference.sample(posterior, init=alone, starts=12, progress=False)
    assert "Best of 12 starts" in post.attrs["fit"]
    assert (post.posterior["x"].values[..., 0] > 0).mean() == pytest.approx(SHARES[0], abs=0.05)


def test_proposals_have_the_density_that_they_say(posterior, fit):
    modes = modes_at(posterior, fit)
    z, log_density = modes.proposals(1000, seed=1)
    fractions = 0.05 + 0.9 * modes.shares.numpy()
    laws = [
        scipy.stats.multivariate_t(centre, np.diag(np.square(width)), df=10)
        for centre, width in zip(CENTRES, WIDTHS, strict=True)
    ]
    expected = sum(fraction * law.pdf(z.numpy()) for fraction, law in zip(fractions, laws, strict=True))
    np.testing.assert_allclose(log_density.exp(), expected, rtol=5e-3)
    assert (z[:, 0] > 0).double().mean() == pytest.approx(fractions[0], abs=0.01)


def test_gradient_of_the_joint_density_is_its_derivative(posterior, fit):
    modes = modes_at(posterior, fit)
    labels = torch.tensor([0, 1, 0, 1])
    # in between, too, where the shares change
    w = torch.tensor([[0.5, -1.0], [0.3, 0.2], [-12.0, 0.0], [5.0, 1.0]], dtype=torch.float64)
    potential, gradient = modes.at(labels).potential(w)
    for axis in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[axis] = 1e-5
        up, down = (modes.at(labels).potential(w + sign * step)[0] for sign in (1, -1))
        torch.testing.assert_close((up - down) / 2e-5, gradient[:, axis], rtol=1e-6, atol=1e-6)

    def joint(z: Tensor) -> Tensor:
        return torch.stack([posterior.log_density(z) + modes.log_ownership(z, torch.full((4,), m))[0] for m in (0, 1)])

    z = modes.unwhiten(w, labels)
    torch.testing.assert_close(joint(z).logsumexp(0), posterior.log_density(z))
    torch.testing.assert_close(-potential, joint(z)[labels, torch.arange(4)])


def test_resumed_run_has_the_same_draws_in_every_mode(posterior, fit, tmp_path, monkeypatch):
    options = {"init": fit, "draws": 40, "warmup": 40, "chains": 4, "seed": 2, "progress": False}
    whole = inference.split_hmc(posterior, **options)
    saves = []
    save = Checkpoint.save

    def once(self, *state):
        saves.append(save(self, *state))
        raise KeyboardInterrupt

    path = tmp_path / "run.h5"
    monkeypatch.setattr(Checkpoint, "due", lambda self: len(saves) == 0)
    monkeypatch.setattr(Checkpoint, "save", once)
    with pytest.raises(KeyboardInterrupt):
        inference.split_hmc(posterior, checkpoint=path, **options)
    monkeypatch.undo()
    assert saves
    resumed = inference.split_hmc(posterior, checkpoint=path, **options)
    for group in ("posterior", "sample_stats"):
        assert whole[group].equals(resumed[group])
    assert len(np.unique(whole.sample_stats["mode"])) == 2

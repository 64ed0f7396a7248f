"""Descriptions of components, functions and scenes: what stands in them is what the model does."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from test_malformed_inputs import Case, assert_refused

import bayesprof as bp
from bayesprof import inference, models
from bayesprof.models.describe import formula, support_of

IMAGE = bp.Image(np.zeros((20, 30)), sigma=1.0, psf=np.ones((3, 3)))


def own() -> bp.light.Light:
    flux = pyro.sample("flux", dist.LogNormal(3.0, 0.5))
    parts = pyro.sample("parts", dist.Dirichlet(torch.ones(2, dtype=torch.float64)))
    radii = pyro.sample("radii", dist.Uniform(1.0, 5.0).expand([2]).to_event(1))
    pyro.deterministic("inner", flux * parts[0])
    return models.Exponential(15, 10, flux * parts[0], radii[0]) + models.Gaussian(15, 10, flux * parts[1], radii[1])


def row(description: models.describe.Description, parameter: str) -> dict[str, str]:
    table = description.table
    found = table[table["parameter"] == parameter]
    assert len(found) == 1
    return {name: str(found[0][name]) for name in table.colnames}


def test_default_given_held_and_derived_parameters_are_told_apart():
    component = models.sersic(n=4.0, flux=dist.LogNormal(3.0, 0.25))
    described = models.describe(component, IMAGE)
    assert row(described, "n") == {
        "parameter": "n", "kind": "held", "prior": "= 4", "support": "in [0.25, 10.0]", "start": "", "unit": "",
    }  # fmt: skip
    flux = row(described, "flux")
    assert (flux["kind"], flux["prior"], flux["support"]) == ("given", "LogNormal(loc=3, scale=0.25)", "> 0")
    r_eff = row(described, "r_eff")
    assert (r_eff["kind"], r_eff["unit"]) == ("default", "pixel")
    assert r_eff["prior"] == component.parameters["r_eff"].default(bp.measurement.measure(IMAGE), IMAGE).formula
    assert row(described, "theta")["kind"] == "derived"
    assert row(described, "theta")["unit"] == "rad"


def test_a_bound_component_says_the_same_as_one_with_its_image():
    component = models.bulge_disk(bulge_n=4.0)
    assert repr(models.describe(component.bind(IMAGE))) == repr(models.describe(component, IMAGE))


def test_rows_of_a_scene_are_its_sites_and_what_is_held():
    components = {"sky": models.flat_sky(), "galaxy": models.bulge_disk(bulge_n=4.0), "mine": own}
    scene = bp.Scene(IMAGE, psf=models.moffat_psf(), **components)
    table = models.describe(scene).table
    posterior = inference.Posterior(scene)
    latent = [
        name for name, kind in zip(table["parameter"], table["kind"], strict=True) if kind in ("default", "given")
    ]
    assert latent == [site.name for site in posterior.sites]
    assert set(table["parameter"][table["kind"] == "derived"]) == set(posterior.deterministic)
    assert {"psf.q", "psf.theta"} <= set(posterior.deterministic)
    assert list(table["parameter"][table["kind"] == "held"]) == ["galaxy.bulge_n"]
    assert set(scene.units) | {"mine.flux", "mine.parts", "mine.radii", "mine.inner"} == set(table["parameter"])


def test_starts_are_those_of_the_scene():
    scene = bp.Scene(IMAGE, galaxy=models.sersic())
    described, starts = models.describe(scene), scene.initial_values()
    assert float(row(described, "galaxy.r_eff")["start"]) == pytest.approx(float(starts["galaxy.r_eff"]), rel=1e-3)
    assert row(described, "galaxy.ellipticity")["start"] == "(0, 0)"


def test_a_function_is_described_by_what_it_draws():
    described = models.describe(own)
    assert row(described, "parts")["prior"] == "Dirichlet(concentration=(1, 1))"
    assert row(described, "parts")["support"] == "simplex"
    assert row(described, "radii")["prior"] == "Uniform(low=(1, 1), high=(5, 5))"
    assert row(described, "radii")["support"] == "1 to 5"
    assert row(described, "inner")["kind"] == "derived"


def test_describing_leaves_random_numbers_and_outer_traces_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with pyro.poutine.trace() as tracer:
        models.describe(own)
    assert torch.equal(torch.rand(1), expected)
    assert not tracer.trace.stochastic_nodes


def test_it_reads_as_a_table_in_text_and_in_a_notebook():
    described = models.describe(bp.Scene(IMAGE, sky=models.flat_sky(level=2.0), galaxy=models.exponential()))
    lines = repr(described).splitlines()
    assert lines[0] == "sky (flat_sky), galaxy (exponential) on image: 5 parameters to fit, 1 held"
    assert len(lines) == 3 + 8
    assert all(line == line.rstrip() for line in lines)
    html = described._repr_html_()
    assert html.count("<tr>") == 1 + 8
    assert "galaxy.r_eff" in html


@pytest.mark.parametrize(
    ("prior", "words", "support"),
    [
        (dist.Normal(0.5, 2.0), "Normal(loc=0.5, scale=2)", "real"),
        (dist.HalfNormal(2.0), "HalfNormal(scale=2)", ">= 0"),
        (
            dist.AffineBeta(1.0, 2.0, 3.0, 4.0),
            "AffineBeta(concentration1=1, concentration0=2, loc=3, scale=4)",
            "3 to 7",
        ),
        (models.Ellipticity(0.4), "Ellipticity(scale=0.4)", "shorter than 1"),
        (dist.StudentT(3.0), "StudentT(df=3, loc=0, scale=1)", "real"),
        (
            dist.MultivariateNormal(torch.zeros(2), torch.eye(2)),
            "MultivariateNormal(loc=(0, 0), covariance_matrix=(1, 0, 0, 1))",
            "real",
        ),
        (dist.Dirichlet(torch.ones(9)), "Dirichlet(concentration=array of shape (9,))", "simplex"),
        (
            dist.TransformedDistribution(dist.Normal(0.0, 1.0), [dist.transforms.ExpTransform()]),
            "TransformedDistribution(Normal(loc=0, scale=1), ExpTransform)",
            "> 0",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, dist.Distribution) else "",
)
def test_distributions_are_put_into_words(prior, words, support):
    assert formula(prior) == words
    assert support_of(prior) == support


MALFORMED = [
    Case(
        "component without an image",
        lambda: models.describe(models.sersic()),
        TypeError,
        ("sersic", "come from an image"),
        "describe(component, image)",
    ),
    Case("light", lambda: models.describe(models.FlatSky(1.0)), TypeError, ("FlatSky",), "wrap it in a function"),
    Case("number", lambda: models.describe(math.pi), TypeError, ("float",), "a component like models.sersic()"),
]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.label)
def test_what_is_no_model_is_refused_with_a_remedy(case):
    assert_refused(case)

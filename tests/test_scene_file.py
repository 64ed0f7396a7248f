"""Scenes saved and loaded again: the same density to the last bit, whatever they are made of; and files kept whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from astropy import units as u
from astropy.wcs import WCS
from pyro.distributions import transforms
from test_components import BASIS, CATALOGUE, by_name
from torch.distributions import biject_to

import bayesprof as bp
from bayesprof import inference, models, scene_file
from bayesprof.encoding import UnwritableError, decoded, encoded
from bayesprof.rendering import renderer_for


@pytest.fixture(scope="module")
def image(simulated) -> bp.Image:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 2.0]
    wcs.wcs.crpix, wcs.wcs.cdelt = [11.0, 6.0], [-5.5e-5, 5.5e-5]
    mask = np.zeros((26, 33), dtype=bool)
    mask[3:5, 20] = True
    light = models.Sersic(17.3, 11.8, 400.0, 3.0, 1.5, q=0.7, theta=0.4) + models.FlatSky(2.0)
    return simulated(light, mask=mask, wcs=wcs, zeropoint=22.5, band="i", name="field")


def fingerprint(scene: bp.Scene) -> str:
    """Of what the density computes and of every number in it."""
    return inference.Posterior(scene).fingerprint


def again(scene: bp.Scene, path: Path, **given) -> bp.Scene:
    scene.save(path)
    return bp.Scene.load(path, **given)[0]


def own(x0: float = 12.0):
    x, flux = pyro.sample("x", dist.Normal(x0, 1.0)), pyro.sample("flux", dist.LogNormal(5.0, 1.0))
    return models.PointSource(x, 9.0, flux)


def test_scene_and_fit_are_the_same_after_a_round_trip(image, tmp_path):
    galaxy = models.sersic(n=dist.LogNormal(0.7, 0.4), x=dist.Normal(17.0, 1.0), q=0.7, theta=dist.Uniform(-1.0, 2.0))
    windows = {"galaxy": bp.Window(3, 2, 30, 24)}
    scene = bp.Scene(image, sky=models.flat_sky(), galaxy=galaxy, windows=windows, likelihood="student_t")
    fit = inference.lm(scene)
    scene = scene.freeze("galaxy.n", fit).started_from(fit)
    part = inference.lm(scene)
    scene.save(tmp_path / "scene.h5", fit=part)
    other, found = bp.Scene.load(tmp_path / "scene.h5")
    assert fingerprint(other) == fingerprint(scene)
    assert other.windows == windows
    assert other.latent == scene.latent
    start, expected = other.initial_values(), scene.initial_values()
    assert start.keys() == expected.keys()
    assert all(torch.equal(start[site], expected[site]) for site in expected)
    assert other.free().latent == scene.free().latent
    assert found.params == part.params
    assert np.array_equal(found.covariance, part.covariance)
    assert torch.equal(found.hessian, part.hessian)
    assert repr(found) == repr(part)
    resumed = inference.lm(other, init=found)
    assert resumed.converged
    assert resumed.iterations <= 2


def test_image_is_the_same_after_a_round_trip(image, tmp_path):
    found = again(bp.Scene(image, sky=models.flat_sky()), tmp_path / "scene.h5").image
    assert repr(found) == repr(image)
    assert vars(found).keys() == vars(image).keys()
    for name in ("data", "sigma", "mask", "valid", "psf"):
        assert torch.equal(getattr(found, name), getattr(image, name)), name
        assert getattr(found, name).dtype == getattr(image, name).dtype
    assert np.array_equal(found.raw, image.raw)
    assert not found.raw.flags.writeable
    here, there = (one.wcs.pixel_to_world(30.0, 20.0) for one in (image, found))
    assert here.separation(there).arcsec == 0.0
    with pytest.raises(AttributeError):
        found.band = "r"


def test_float32_gain_and_varying_psf_survive(tmp_path):
    y, x = np.mgrid[-6:7, -6:7]
    mean = np.exp(-0.5 * (x**2 + y**2) / 1.7**2)
    field = bp.PSFField([mean, 0.1 * mean * (x**2), 0 * mean], 1, offset=(15.0, 12.0), scale=(15.0, 12.0))
    data = np.random.default_rng(1).poisson(50.0, (25, 31)).astype(">f4")
    image = bp.Image(data * u.adu, gain=2.0, read_noise=3.0, psf=field, dtype=torch.float32)
    scene = bp.Scene(image, sky=models.flat_sky(), star=models.point_source(x=15.0, y=12.0))
    other = again(scene, tmp_path / "scene.h5")
    assert fingerprint(other) == fingerprint(scene)
    assert other.image.dtype == torch.float32
    assert other.image.raw.dtype == np.dtype(">f4")
    assert (other.image.gain, other.image.unit) == (2.0, "adu")
    assert np.array_equal(other.image.psf_field.stamp_at(3.0, 4.0), field.stamp_at(3.0, 4.0))


@by_name(CATALOGUE)
def test_every_component_of_the_catalogue_is_made_again(row, image):
    """Its default priors, and its lights with all that is held."""
    for given in ({}, {name: torch.as_tensor(value, dtype=torch.float64) for name, value in row.values.items()}):
        component = row.function(**given)
        other = decoded(encoded(component))
        assert type(other) is type(component)
        assert other.kind == component.kind
        assert list(other.parameters) == list(component.parameters)
        drawn = []
        for one in (component, other):
            bound = one.bind(image)
            torch.manual_seed(3)
            nodes = pyro.poutine.trace(bound).get_trace().nodes
            drawn.append({name: node["value"] for name, node in nodes.items() if node["type"] == "sample"})
            drawn[-1]["image"] = renderer_for(image)(nodes["_RETURN"]["value"])
        assert drawn[0].keys() == drawn[1].keys()
        for name, value in drawn[0].items():
            assert torch.equal(drawn[1][name], value), name


LIKELIHOODS = {
    "extra_noise": lambda: bp.likelihoods.extra_noise(factor=dist.LogNormal(0.0, 0.1)),
    "contaminated": lambda: bp.likelihoods.contaminated(fraction=0.02),
    "correlated": lambda: bp.likelihoods.correlated(bp.NoiseCorrelation([[0, 0.1, 0], [0.3, 1, 0.3], [0, 0.1, 0]])),
}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_likelihoods_and_psfs_are_made_again(likelihood, image, tmp_path):
    psf = models.moffat_psf(beta=3.0, oversampling=2, contains_pixel=False)
    components = {"sky": models.flat_sky(), "galaxy": models.exponential()}
    scene = bp.Scene(image, likelihood=LIKELIHOODS[likelihood](), psf=psf, **components)
    assert fingerprint(again(scene, tmp_path / "scene.h5")) == fingerprint(scene)


PRIORS = {
    "Normal": dist.Normal(torch.tensor(0.1, dtype=torch.float64), 2.0),
    "LogNormal": dist.LogNormal(0.7, 0.4),
    "Beta": dist.Beta(1.5, 4.0),
    "AffineBeta": dist.AffineBeta(2.0, 3.0, 0.5, 7.5),
    "Uniform": dist.Uniform(-0.3, 0.9),
    "HalfNormal": dist.HalfNormal(2.0),
    "Gamma": dist.Gamma(2.0, 0.7),
    "InverseGamma": dist.InverseGamma(3.0, 2.0),
    "StudentT": dist.StudentT(4.0, 1.0, 2.0),
    "StudentT by default": dist.StudentT(4.0),
    "Weibull": dist.Weibull(2.0, 1.3),
    "Dirichlet": dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])),
    "Ellipticity": models.Ellipticity(0.3),
    "Independent": dist.Normal(torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])).to_event(1),
    "Expanded": dist.HalfCauchy(1.0).expand([2, 3]).to_event(2),
    "Multivariate, covariance": dist.MultivariateNormal(torch.ones(2), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
    "Multivariate, factor": dist.MultivariateNormal(
        torch.ones(2).double(), scale_tril=torch.tensor([[1.0, 0.0], [0.3, 2.0]], dtype=torch.float64)
    ),
    "Transformed": dist.TransformedDistribution(
        dist.Normal(0.0, 1.0), [transforms.AffineTransform(1.0, 2.0), transforms.ExpTransform()]
    ),
}


@pytest.mark.parametrize("name", PRIORS)
def test_priors_have_the_same_density_to_the_last_bit(name):
    prior = PRIORS[name]
    other = decoded(encoded(prior))
    assert type(other) is type(prior)
    torch.manual_seed(1)
    values = prior.sample([50])
    assert torch.equal(other.log_prob(values), prior.log_prob(values))
    assert torch.equal(other.log_prob(values.double()), prior.log_prob(values.double()))
    z = biject_to(prior.support).inv(values).double()
    assert torch.equal(biject_to(other.support)(z), biject_to(prior.support)(z))


def test_prior_of_ones_own_class_is_refused():
    class Mine(dist.Normal):
        def log_prob(self, value):
            return super().log_prob(value) - 1.0

    with pytest.raises(UnwritableError, match=r"Mine is neither of pyro\.distributions"):
        encoded(Mine(0.0, 1.0))


def test_quantities_and_basis_images_survive(image, tmp_path):
    galaxy = models.exponential(theta=30 * u.deg, q=0.5, x=17.0, y=12.0)
    scene = bp.Scene(image, fringes=models.basis_images(BASIS), galaxy=galaxy)
    assert fingerprint(again(scene, tmp_path / "scene.h5")) == fingerprint(scene)


def test_scene_of_detections_keeps_what_was_measured(image, tmp_path):
    found = bp.detect(image)
    scene = found.brightest(1).scene(sky=models.flat_sky(), component=models.sersic)
    assert fingerprint(again(scene, tmp_path / "scene.h5")) == fingerprint(scene)


# -- functions of one's own


def laplace(model_image, image):
    return dist.Laplace(model_image, image.sigma)


def test_own_functions_are_given_again(image, tmp_path):
    group = bp.Group(star=own, disk=models.exponential())
    scene = bp.Scene(image, likelihood=laplace, sky=models.flat_sky(), galaxy=group)
    path = tmp_path / "scene.h5"
    scene.save(path)
    with pytest.raises(ValueError, match=r"can't hold galaxy.star \(own\), likelihood \(laplace\)") as caught:
        bp.Scene.load(path)
    assert "Scene.load(path, components={'galaxy.star': own}, likelihood=laplace)" in str(caught.value)
    for components in ({"galaxy.star": own}, {"galaxy": bp.Group(star=own)}):
        other, fit = bp.Scene.load(path, components=components, likelihood=laplace)
        assert fit is None
        assert fingerprint(other) == fingerprint(scene)


def test_held_and_started_parameters_of_own_functions_survive(image, tmp_path):
    scene = bp.Scene(image, sky=models.flat_sky(), star=own)
    scene = scene.freeze("star.x", {"star.x": 11.5}).started_from({"star.flux": 77.0})
    other = again(scene, tmp_path / "scene.h5", components={"star": own})
    assert fingerprint(other) == fingerprint(scene)
    assert float(other.initial_values()["star.flux"]) == 77.0
    assert other.free().latent == ("sky.level", "star.x", "star.flux")


def test_component_with_a_prior_of_ones_own_is_given_again(image, tmp_path):
    class Mine(dist.Normal):
        pass

    scene = bp.Scene(image, sky=models.flat_sky(level=Mine(0.0, 1.0)))
    path = tmp_path / "scene.h5"
    scene.save(path)
    with pytest.raises(ValueError, match=r"sky \(flat_sky: the distribution Mine is neither"):
        bp.Scene.load(path)
    assert fingerprint(bp.Scene.load(path, components={"sky": scene.recipe.components["sky"]})[0])


def test_function_that_draws_something_else_is_refused(image, tmp_path):
    path = tmp_path / "scene.h5"
    bp.Scene(image, sky=models.flat_sky(), star=own).save(path)
    with pytest.raises(ValueError, match=r"draws \['sky.level', 'star.x', 'star.flux'\], with what was given"):
        bp.Scene.load(path, components={"star": lambda: models.PointSource(pyro.sample("y", dist.Normal(9, 1)), 9, 5)})
    with pytest.raises(ValueError, match="has no disk; it has sky, star, likelihood"):
        bp.Scene.load(path, components={"star": own, "disk": own})


# -- files


def test_file_is_not_overwritten_unasked_nor_is_one_of_another_kind(image, tmp_path):
    scene = bp.Scene(image, sky=models.flat_sky())
    path = tmp_path / "scene.h5"
    scene.save(path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        scene.save(path)
    scene.save(path, overwrite=True)
    path.write_text("notes")
    with pytest.raises(FileExistsError, match="isn't a bayesprof scene"):
        scene.save(path, overwrite=True)
    assert path.read_text() == "notes"
    with pytest.raises(ValueError, match="expected a bayesprof scene, got a file that begins with b'notes'"):
        bp.Scene.load(path)
    with pytest.raises(FileNotFoundError, match="doesn't exist"):
        bp.Scene.load(tmp_path / "none.h5")
    with pytest.raises(TypeError, match="expected fit to be a Fit"):
        scene.save(tmp_path / "other.h5", fit={"sky.level": 1.0})


def test_damage_is_noticed(image, tmp_path):
    path = tmp_path / "scene.h5"
    bp.Scene(image, sky=models.flat_sky()).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        bp.Scene.load(path)


def test_full_disk_leaves_the_file_that_was_there(image, tmp_path, monkeypatch):
    path = tmp_path / "scene.h5"
    bp.Scene(image, sky=models.flat_sky()).save(path)
    before = path.read_bytes()

    def full(self, content):
        with open(self, "wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        bp.Scene(image, sky=models.plane_sky()).save(path, overwrite=True)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["scene.h5"]


def test_scene_is_loaded_by_another_process(image, tmp_path):
    scene = bp.Scene(image, sky=models.flat_sky(), galaxy=models.sersic())
    scene.save(tmp_path / "scene.h5")
    script = (
        "import torch; torch.set_num_threads(1); import bayesprof as bp; from bayesprof import inference; "
        "scene, fit = bp.Scene.load('scene.h5'); print(inference.Posterior(scene).fingerprint)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint(scene)


def test_other_versions_are_told(image, tmp_path, monkeypatch):
    path = tmp_path / "scene.h5"
    bp.Scene(image, sky=models.flat_sky()).save(path)
    here = scene_file._versions()
    monkeypatch.setattr(scene_file, "_versions", lambda: {**here, "bayesprof": "9.9"})
    with pytest.warns(UserWarning, match="now 9.9: default priors"):
        bp.Scene.load(path)


def test_arrays_are_open_to_other_readers_of_hdf5(image, tmp_path):
    bp.Scene(image, sky=models.flat_sky()).save(tmp_path / "scene.h5")
    with h5py.File(tmp_path / "scene.h5") as file:
        assert np.array_equal(file["scene/images/of/field/of/data/values"][...], image.data.numpy())

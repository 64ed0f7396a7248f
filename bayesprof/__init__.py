"""Probabilistic programming for galaxy images.

An :class:`Image` and components from :mod:`bayesprof.models` make a :class:`Scene`, which is a Pyro model, and
:func:`detect` makes one with a component for each object of an image;
:mod:`bayesprof.inference` fits and samples it, or any other Pyro model; :mod:`bayesprof.plots` shows the result,
:mod:`bayesprof.storage` writes it. :mod:`bayesprof.datasets` has images to try things on.
Conventions: :mod:`bayesprof.grid`.
"""

from importlib import import_module
from types import ModuleType

from bayesprof.blank_sky import noise_correlation
from bayesprof.bright_windows import bright_windows
from bayesprof.centring import PartlyCentred
from bayesprof.correlation import NoiseCorrelation
from bayesprof.curves import polynomial, spline
from bayesprof.detecting import detect
from bayesprof.detections import Detections
from bayesprof.group import Group
from bayesprof.image import Image
from bayesprof.only_in import only_in
from bayesprof.photometric import photometry
from bayesprof.population import Population
from bayesprof.psf_field import PSFField
from bayesprof.psfex import read_psfex
from bayesprof.scene import Scene
from bayesprof.variation import per_band, per_image, shared
from bayesprof.window import Window

__all__ = [
    "Detections",
    "Group",
    "Image",
    "NoiseCorrelation",
    "PSFField",
    "PartlyCentred",
    "Population",
    "Scene",
    "Window",
    "__version__",
    "bright_windows",
    "datasets",
    "detect",
    "inference",
    "likelihoods",
    "models",
    "noise_correlation",
    "only_in",
    "per_band",
    "per_image",
    "photometry",
    "plots",
    "polynomial",
    "read_psfex",
    "shared",
    "spline",
    "storage",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    # on first use: plots need matplotlib, inference ArviZ, which take a second to import
    if name in ("datasets", "inference", "likelihoods", "models", "plots", "storage"):
        return import_module(f"bayesprof.{name}")
    raise AttributeError(f"module 'bayesprof' has no attribute {name!r}")

"""Probabilistic programming for galaxy images.

An :class:`Image` and components from :mod:`bayesprof.models` make a :class:`Scene`, which is a Pyro model;
:mod:`bayesprof.inference` fits and samples it, or any other Pyro model. Conventions: :mod:`bayesprof.grid`.
"""

from bayesprof.image import Image
from bayesprof.scene import Scene

__all__ = ["Image", "Scene", "__version__"]

__version__ = "0.1.0"

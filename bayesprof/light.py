"""Light: what a component hands to the renderer.

A :class:`Light` is a sum of parts. A part is an :class:`Extended` source (given by its surface brightness and by its
Fourier transform; mostly a :class:`Profile`, elliptical and radial), a :class:`Pointlike` source, or a
:class:`Background` (a smooth function of position). ``+`` joins lights, so that a component
may return ``bulge + disk``.

Parameters are numbers or tensors of one common batch shape (mostly no shape at all); a batch of parameters
gives a batch of images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import is_dataclass
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from bayesprof.grid import (
    Ellipse,
    ellipse_from_axis_ratio,
    ellipse_from_ellipticity,
    elliptical_radius_squared,
    per_pixel,
    wavenumber_squared,
)


class Light:
    """A sum of parts; `parts` is a tuple of :class:`Extended`, :class:`Pointlike` and :class:`Background`."""

    def __init__(self, parts: tuple[Light, ...]) -> None:
        self._parts = parts

    @property
    def parts(self) -> tuple[Light, ...]:
        return self._parts

    def __add__(self, other: Light) -> Light:
        if not isinstance(other, Light):
            return NotImplemented
        return Light(self.parts + other.parts)

    def __radd__(self, other: Any) -> Light:
        # sum([...]) starts from 0
        return self if isinstance(other, int) and other == 0 else NotImplemented


class Part(Light):
    """One indivisible light.

    Those of a class that is `stackable` may be rendered as one, with a batch of parameters: set it where a light of
    your own takes batches.
    """

    stackable: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__(())

    @property
    def parts(self) -> tuple[Light, ...]:
        return (self,)

    def to(self, dtype: torch.dtype, device: torch.device) -> Self:
        """This light with its parameters on another dtype or device."""
        return moved(self, dtype, device)

    def shifted(self, dx: float | Tensor, dy: float | Tensor) -> Self:
        """This light, which is centred at `x`, `y`, elsewhere, pixels."""
        result: Any = copy(self)
        result.x, result.y = result.x + dx, result.y + dy
        return cast(Self, result)


class Pointlike(Part, ABC):
    """A source without extent at (`x`, `y`) with total `flux`."""

    stackable = True

    def __init__(self, x: Any, y: Any, flux: Any) -> None:
        super().__init__()
        self.x, self.y, self.flux = as_tensors(x, y, flux)


class Extended(Part, ABC):
    """A source with extent, known in both spaces: by its surface brightness and by its Fourier transform.

    Beside `x`, `y` and `flux` it has a `radius` (pixels) and an `ellipse` that say roughly where its light is: the
    integration over pixels places its nodes by them.
    """

    x: Tensor
    y: Tensor
    flux: Tensor
    radius: Tensor
    ellipse: Ellipse
    nodes_per_pixel: ClassVar[int] = 2
    """Nodes per axis of the integration over a pixel, away from the centre."""
    radial_nodes: ClassVar[int] = 20
    """Nodes between the centre and the edge of a pixel near to it, of the same integration."""
    smooth: ClassVar[bool] = False
    """Whether its brightness is smooth everywhere but in the centre: without edges, breaks and rings."""

    @abstractmethod
    def transform_at(self, kx: Tensor, ky: Tensor) -> Tensor:
        """Transform with unit flux on the plane of wavenumbers `kx` (1, columns), `ky` (rows, 1), radians per pixel;
        the shift to (x, y) is left out. Real, shape ``batch + (rows, columns)``.
        """

    @abstractmethod
    def brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        """Surface brightness (image units per pixel area) at offsets `dx`, `dy` from the centre."""

    def distant_brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        """As :meth:`brightness_at`, where a hundredth of it is accurate enough: of the periodic copies, which are
        themselves some thousandths of the light.
        """
        return self.brightness_at(dx, dy)


class Profile(Extended):
    """An elliptical radial profile: ``I(d) = flux / (q r^2) f(R / r)`` with ``R`` the elliptical radius.

    Parameters
    ----------
    x, y : centre, pixels.
    flux : total light, image units.
    radius : the scale ``r`` of the profile along the major axis, pixels, > 0.
    q, theta : axis ratio in (0, 1] and angle in radians (see :mod:`bayesprof.grid`).
    ellipticity : vector of shape ``(..., 2)``, in place of `q` and `theta`.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        flux: Any,
        radius: Any,
        *,
        q: Any = None,
        theta: Any = None,
        ellipticity: Any = None,
    ) -> None:
        super().__init__()
        self.x, self.y, self.flux, self.radius = as_tensors(x, y, flux, radius)
        self.ellipse = ellipse_of(type(self).__name__, q, theta, ellipticity, like=self.radius)

    @abstractmethod
    def transform(self, wavenumber_squared: Tensor) -> Tensor:
        """Fourier transform of the circular profile with unit flux and unit `radius`, at squared wavenumbers.

        It is 1 at wavenumber 0. The last two axes of the argument are the frequency plane.
        """

    @abstractmethod
    def brightness(self, radius_squared: Tensor) -> Tensor:
        """``f``: surface brightness of the circular profile with unit flux and unit `radius`, at squared radii.

        The last two axes of the argument are the image plane.
        """

    def transform_at(self, kx: Tensor, ky: Tensor) -> Tensor:
        return self.transform(wavenumber_squared(kx, ky, self.ellipse, self.radius))

    def brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        ellipse = self.ellipse
        q = torch.sqrt(ellipse.xx * ellipse.yy - ellipse.xy**2)
        radius_squared = elliptical_radius_squared(dx, dy, ellipse, self.radius)
        return per_pixel(self.flux / (q * self.radius**2)) * self.brightness(radius_squared)


class Surface(Part, ABC):
    """Light of any shape about a centre, given by its surface brightness alone.

    It may have a cusp at the centre and is smooth elsewhere: on the scale of a pixel at more than 9 pixels from the
    centre, and on that of a tenth of the distance nearer to it.

    Parameters
    ----------
    x, y : centre, pixels.
    radius : the scale of the light, pixels, > 0; without a PSF, quadrature near the centre is adapted to it.

    `ellipse`, for the same purpose: rough contours of the light.
    """

    nodes_per_pixel: ClassVar[int] = 2
    """Nodes per axis of the integration over a pixel, away from the centre."""
    radial_nodes: ClassVar[int] = 20
    """Nodes between the centre and the edge of a pixel near to it, of the same integration."""

    def __init__(self, x: Any, y: Any, radius: Any, *, ellipse: Ellipse | None = None) -> None:
        super().__init__()
        self.x, self.y, self.radius = as_tensors(x, y, radius)
        circle = Ellipse(torch.ones_like(self.radius), torch.zeros_like(self.radius), torch.ones_like(self.radius))
        self.ellipse = circle if ellipse is None else ellipse

    @abstractmethod
    def brightness_at(self, dx: Tensor, dy: Tensor) -> Tensor:
        """Surface brightness (image units per pixel area) at offsets `dx`, `dy` from the centre, whose last two axes
        broadcast; shape ``batch + (rows, columns)``. Never asked for in the very centre.
        """


class Lattice(Part):
    """Light given by `values` (..., rows, columns), image units per pixel area, on a square lattice of `step` pixels
    centred at (`x`, `y`); between the nodes it is a cubic B-spline surface (:mod:`bayesprof.lattices`).
    """

    def __init__(self, values: Tensor, x: Tensor, y: Tensor, step: float) -> None:
        super().__init__()
        self.values, self.x, self.y, self.step = values, x, y, float(step)

    def nodes(self) -> tuple[Tensor, Tensor]:
        """Positions of the columns along x and of the rows along y, shape ``batch + (nodes,)``."""
        rows, columns = (
            torch.arange(size, dtype=self.values.dtype, device=self.values.device) - 0.5 * (size - 1)
            for size in self.values.shape[-2:]
        )
        return self.x[..., None] + self.step * columns, self.y[..., None] + self.step * rows


class Background(Part, ABC):
    """Light that varies slowly over the whole image."""

    @abstractmethod
    def brightness_at(self, x: Tensor, y: Tensor) -> Tensor:
        """Brightness (image units per pixel) at positions `x` of shape (1, nx) and `y` of shape (ny, 1)."""


def as_tensors(*values: Any) -> list[Tensor]:
    """Numbers and tensors as floating tensors of one dtype and device; a number follows the tensors."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    dtype = torch.float64
    device = None
    if tensors:
        dtype = max((value.dtype for value in tensors), key=lambda kind: torch.finfo(kind).bits)
        device = max((value for value in tensors), key=lambda value: value.device.type != "cpu").device
    return [torch.as_tensor(value, dtype=dtype, device=device) for value in values]


def moved(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """A value with every floating tensor in it, however deep in lights, tuples and dataclasses, moved."""
    if isinstance(value, Tensor):
        return value.to(dtype=dtype, device=device) if value.is_floating_point() else value
    if isinstance(value, tuple):
        entries = (moved(entry, dtype, device) for entry in value)
        return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
    if isinstance(value, Light) or is_dataclass(value):
        result = copy(value)
        for name, entry in vars(value).items():
            object.__setattr__(result, name, moved(entry, dtype, device))  # a dataclass may be frozen
        return result
    return value


def stacked(values: Sequence[Any]) -> Any:
    """Lights of one kind, whose parameters are single numbers, as one with a batch of them; None where they differ in
    anything but those.
    """
    first = values[0]
    if any(type(value) is not type(first) for value in values):
        return None
    if isinstance(first, Tensor):
        return torch.stack(list(values)) if all(value.ndim == 0 for value in values) else None
    if isinstance(first, tuple):
        if any(len(value) != len(first) for value in values):
            return None
        entries = [stacked(entry) for entry in zip(*values, strict=True)]
        if any(entry is None for entry in entries):
            return None
        return type(first)(*entries) if hasattr(first, "_fields") else tuple(entries)
    if isinstance(first, Light) or is_dataclass(first):
        result = copy(first)
        for name in vars(first):
            entry = stacked([vars(value)[name] for value in values])
            if entry is None:
                return None
            object.__setattr__(result, name, entry)
        return result
    simple = isinstance(first, str | int | float)
    return first if all(value is first or (simple and value == first) for value in values) else None


def ellipse_of(kind: str, q: Any, theta: Any, ellipticity: Any, *, like: Tensor) -> Ellipse:
    """The ellipse of `q` and `theta`, or of an `ellipticity` in their place, for a light called `kind`; a circle where
    all are None. `like`: a tensor of its dtype and device.

    Raises
    ------
    ValueError
        For both, and for an ellipticity that isn't a vector.
    """
    if ellipticity is None:
        q = 1.0 if q is None else q
        theta = 0.0 if theta is None else theta
        q, theta = (torch.as_tensor(value, dtype=like.dtype, device=like.device) for value in (q, theta))
        return ellipse_from_axis_ratio(q, theta)
    if q is not None or theta is not None:
        raise ValueError(f"{kind}: expected either ellipticity or q and theta, got both; leave one of them out")
    vector = torch.as_tensor(ellipticity, dtype=like.dtype, device=like.device)
    if vector.ndim == 0 or vector.shape[-1] != 2:
        raise ValueError(
            f"{kind}: expected ellipticity of shape (..., 2), the vector (e1, e2), got shape {tuple(vector.shape)}"
        )
    return ellipse_from_ellipticity(vector[..., 0], vector[..., 1])

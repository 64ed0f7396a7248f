"""Parameters that are smooth in wavelength: polynomials and splines (:mod:`bayesprof.variation`).

A curve is drawn in the space where the prior of the parameter has the whole line as its support: for positive
parameters a polynomial is one of the logarithm, so that it stays positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from scipy.interpolate import CubicSpline
from torch import Tensor
from torch.distributions import biject_to

from bayesprof.image import Image
from bayesprof.variation import Asked, Axis, Drawn, Variation, Varied, beside, scaled, start_of, zeropoint_factors

_BEND = 0.5
"""Standard deviation of the coefficients of a curve: of a positive parameter, half of its logarithm over half of the
range of wavelengths."""
_NOTHING = 1e-9  # of a coefficient: rounding


@dataclass(frozen=True)
class Powers:
    """Powers 1 to `order` of the distance from the `middle`, in units of `half` the range."""

    middle: float
    half: float
    order: int

    def __call__(self, wavelengths: np.ndarray) -> np.ndarray:
        powers: np.ndarray = ((wavelengths - self.middle) / self.half)[:, None] ** np.arange(1, self.order + 1)
        return powers


@dataclass(frozen=True)
class Cardinals:
    """Natural cubic splines that are 1 at one of the `knots` and 0 at all others, for all but the knot `reference`."""

    knots: tuple[float, ...]
    reference: int

    @property
    def others(self) -> list[int]:
        return [i for i in range(len(self.knots)) if i != self.reference]

    def __call__(self, wavelengths: np.ndarray) -> np.ndarray:
        if len(self.knots) == 2:  # a line
            here, there = self.knots[self.reference], self.knots[self.others[0]]
            return np.asarray((wavelengths - here) / (there - here))[:, None]
        unit = np.eye(len(self.knots))[:, self.others]
        return np.asarray(CubicSpline(self.knots, unit, bc_type="natural")(wavelengths))


@dataclass(frozen=True)
class Curve(Variation):
    """A smooth function of wavelength, by coefficients of functions that vanish in the middle.

    `basis`: from wavelengths, shape (images,), to those functions (images, terms); `labels` of the terms and the
    `axis` they lie along.
    """

    kind: str
    wavelengths: Any
    basis: Powers | Cardinals
    axis: str
    labels: tuple[Any, ...]
    middle: float
    prior: Any = None
    coefficients: Any = None
    scale: float = _BEND

    def over(self, asked: Asked) -> Varied:
        wavelengths = np.array([self._of(asked, i) for i in range(len(asked.seen))])
        nearest = int(np.argmin(np.abs(wavelengths - self.middle)))
        default = asked.defaults[nearest]
        like = asked.seen[0]
        basis = torch.as_tensor(self.basis(wavelengths), dtype=like.dtype, device=like.device)
        source = default.prior if self.prior is None else asked.checked(self.prior)
        if not isinstance(source, TorchDistributionMixin):
            raise TypeError(
                f"{self.kind}: expected a prior of the {asked.name} in the middle, got {source!r}; give "
                f"{self.kind}(..., prior=...), or hold {asked.name} with per_image"
            )
        transform = biject_to(source.support)
        factors = zeropoint_factors(asked, [nearest] * len(asked.seen)) if asked.per_unit else None
        started, coefficients = self._starts(asked, transform, basis, factors, source)
        shape = (len(self.labels), *asked.shape)
        bends = self._bends(shape, like)
        terms = (Axis(f"{asked.name}_{self.axis}", self.labels), *asked.axes)
        middle, bent = f"{asked.name}_middle", f"{asked.name}_coefficients"
        words = f"{default.formula} (at {self.middle:g})" if self.prior is None else ""
        sites = {
            middle: asked.drawn(source, started, words, asked.axes),
            bent: Drawn(
                bends,
                coefficients,
                f"Normal(0, {self.scale:g}) each" if self.coefficients is None else "",
                "",
                terms,
                "finite",
            ),
        }

        def values(drawn: Mapping[str, Tensor]) -> Tensor:
            rest = len(asked.axes)
            centre, coefficients = transform.inv(drawn[middle]), drawn[bent]
            # the axis of terms, behind any batch, goes last for the product and the one of images takes its place
            moved = coefficients.movedim(-1 - rest, -1) @ basis.mT
            curve = transform(centre.unsqueeze(-1 - rest) + moved.movedim(-1, -1 - rest))
            return scaled(curve, factors, rest)

        return Varied(sites, values, recorded=True)

    def _of(self, asked: Asked, i: int) -> float:
        image = asked.seen[i].name
        if isinstance(self.wavelengths, Mapping):
            if image not in self.wavelengths:
                raise ValueError(
                    f"{self.kind}: expected a wavelength of every image, got none of {image!r}; add it to "
                    f"{list(self.wavelengths)}"
                )
            return float(self.wavelengths[image])
        if len(self.wavelengths) != len(asked.seen):
            raise ValueError(
                f"{self.kind}: expected {len(asked.seen)} wavelengths, of {[one.name for one in asked.seen]}, got "
                f"{len(self.wavelengths)}; give them by name: {{{image!r}: ...}}"
            )
        return float(self.wavelengths[i])

    def _bends(self, shape: tuple[int, ...], like: Image) -> Any:
        if self.coefficients is None:
            zero = torch.zeros(shape, dtype=like.dtype, device=like.device)
            return dist.Normal(zero, torch.full_like(zero, self.scale)).to_event(len(shape))
        given = self.coefficients
        if not isinstance(given, TorchDistributionMixin) or tuple(given.shape()) not in ((), shape):
            raise ValueError(
                f"{self.kind}: expected coefficients as a Pyro distribution of shape {shape}, or of one number for "
                f"each of them, got {given!r}"
            )
        return given if tuple(given.shape()) == shape else given.expand(shape).to_event(len(shape))

    def _starts(
        self, asked: Asked, transform: Any, basis: Tensor, factors: Tensor | None, source: Any
    ) -> tuple[Any, Tensor]:
        """Where a fit starts: the curve nearest to what was measured on each image."""
        starts = [default.start for default in asked.defaults]
        zero = torch.zeros(basis.shape[1], *asked.shape, dtype=basis.dtype, device=basis.device)
        if any(start is None for start in starts):
            return None, zero
        measured = torch.stack([torch.as_tensor(start, dtype=torch.float64) for start in starts]).to(basis)
        if factors is not None:
            measured = measured / beside(factors, len(asked.axes))
        design = torch.cat([torch.ones_like(basis[:, :1]), basis], dim=1)
        if not bool(transform.codomain.check(measured).all()):
            return None, zero
        free = transform.inv(measured).reshape(len(measured), -1)
        found = torch.linalg.pinv(design) @ free
        found = torch.where(found.abs() < _NOTHING, torch.zeros_like(found), found)
        middle = transform(found[0].reshape(asked.shape))
        measured_all = all(default.measured for default in asked.defaults)
        start = start_of(source, middle, given=self.prior is not None, measured=measured_all)
        return start, found[1:].reshape(zero.shape) if start is not None else zero


def polynomial(
    wavelengths: Mapping[str, float] | Sequence[float],
    order: int = 1,
    *,
    prior: Any = None,
    coefficients: Any = None,
    scale: float = _BEND,
) -> Variation:
    """A polynomial in wavelength.

    ``u(wavelength) = u_middle + sum over k = 1 .. order of c_k s^k``, with s from -1 to 1 over the wavelengths and u
    the parameter without its bounds: its logarithm where it is positive. Sites ``<parameter>_middle``, its value in the
    middle, and ``<parameter>_coefficients``; the values in the images are recorded as ``<parameter>``. A flux is in the
    unit of the image nearest to the middle, and in the others by their zero points.

    Parameters
    ----------
    wavelengths : mapping from names of images, or in their order; any unit.
    order : >= 1; with one less than the number of images they are free.
    prior : Pyro distribution of the value in the middle, or None for its default.
    coefficients : Pyro distribution of the coefficients c_k, together or of each, or None: Normal(0, `scale`).
    scale : > 0.

    Raises
    ------
    ValueError
        For an order or a scale out of range, or fewer than two wavelengths.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.sersic(n=polynomial({"g": 0.47, "r": 0.62, "z": 0.90}, order=2))
    """
    low, high = _range_of("polynomial", wavelengths, scale)
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"polynomial: expected order as a whole number >= 1, got {order!r}; give a prior for order 0")
    middle, half = 0.5 * (low + high), 0.5 * (high - low)

    basis, labels = Powers(middle, half, order), tuple(range(1, order + 1))
    return Curve("polynomial", wavelengths, basis, "power", labels, middle, prior, coefficients, scale)


def spline(
    wavelengths: Mapping[str, float] | Sequence[float],
    knots: Sequence[float],
    *,
    prior: Any = None,
    coefficients: Any = None,
    scale: float = _BEND,
) -> Variation:
    """A natural cubic spline in wavelength through the values at `knots`, two wavelengths at least.

    As :func:`polynomial`, but that the middle is a knot, the one of the middle, and a coefficient is by how much the
    parameter without its bounds differs at another knot.

    Examples
    --------
    >>> from bayesprof import models
    >>> galaxy = models.sersic(r_eff=spline({"g": 0.47, "r": 0.62, "i": 0.75, "z": 0.90}, knots=[0.47, 0.65, 0.90]))
    """
    _range_of("spline", wavelengths, scale)
    places = np.array(knots, dtype=float).ravel()
    if len(places) < 2 or not np.isfinite(places).all() or not (np.diff(places) > 0).all():
        raise ValueError(f"spline: expected two or more knots, ascending wavelengths, got {knots!r}")
    basis = Cardinals(tuple(float(place) for place in places), len(places) // 2)
    labels = tuple(basis.knots[i] for i in basis.others)
    middle = basis.knots[basis.reference]
    return Curve("spline", wavelengths, basis, "knot", labels, middle, prior, coefficients, scale)


def _range_of(kind: str, wavelengths: Any, scale: float) -> tuple[float, float]:
    try:
        values = [float(value) for value in (wavelengths.values() if isinstance(wavelengths, Mapping) else wavelengths)]
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{kind}: expected wavelengths as a mapping from names of images, or a list, got {wavelengths!r}"
        ) from error
    if len(set(values)) < 2 or not np.isfinite(values).all():
        raise ValueError(f"{kind}: expected two or more different wavelengths, got {values}; use a prior alone")
    if not scale > 0:
        raise ValueError(f"{kind}: expected scale > 0, got {scale!r}")
    return min(values), max(values)

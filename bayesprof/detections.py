"""The objects found on an image: their segments and catalogue, and the scene that they make."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from astropy.table import Table
from scipy import ndimage

from bayesprof import checking
from bayesprof.background import checked_image, measured_background
from bayesprof.catalogue import catalogue_of, windows_of
from bayesprof.image import Image
from bayesprof.light import Light
from bayesprof.likelihood import Likelihood
from bayesprof.measurement import Measurement
from bayesprof.scene import Scene
from bayesprof.window import Window

REACH = 0.03
"""Surface brightness at the edge of a window, in units of the noise of a pixel."""

# Standard deviations of the priors of a scene: of 28 crowded galaxies on a simulated image, 27 are found, their fluxes
# within a factor of 2.4 of the truth, half of them within 1.07, and their sizes within 5.4 and 1.28
_LOG_FLUX = 1.0
_LOG_R_EFF = 0.7


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects of an image, from :func:`bayesprof.detect` or :meth:`from_segmentation`.

    Attributes
    ----------
    image : Image
    segmentation : int array [ny, nx]
        The label of the object that each pixel belongs to, 0 for the sky; read-only. It keeps every object, whichever
        are selected.
    background : array [ny, nx]
        What was taken off before measuring, image units per pixel.
    catalogue : astropy.table.Table
        The selected objects, a row each (below).

    Notes
    -----
    The columns of the catalogue:

    ==============  ===============================================================================================
    label           number in the segmentation map
    x, y            centroid under a Gaussian window, or in the segment where that has left it; pixels
    flux            in the Kron aperture (2.5 Kron radii, light of neighbours replaced by that of the pixels opposite),
                    or in the segment where that is more; image units. flux_error: its standard deviation
    r_eff           half-light radius along the major axis, pixels; that of the PSF is taken off in quadrature, and
                    0.5 is the least
    q, theta        axis ratio and angle of the major axis (radians), of the second moments in the segment, as seen
                    through the PSF; e1, e2: the same as a vector (conventions: :mod:`bayesprof.grid`)
    area            unmasked pixels of the segment
    snr             light of the segment over its standard deviation
    sky, noise      background, and standard deviation of a pixel of the sky around; image units
    x0, y0, x1, y1  of the window, as those of :class:`bayesprof.Window`
    ==============  ===============================================================================================

    They are what photutils' SourceCatalog measures, where it has the quantity. Centroids, Kron apertures and half-light
    radii are rough for objects that overlap: they start a fit, they don't replace it.

    Selections are Detections too: ``found[7]`` and ``found[[7, 3]]`` by label, ``found[found.catalogue["snr"] > 20]``
    by a boolean mask, ``found.brightest(10)``. Iteration goes over the labels.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models
    >>> y, x = np.mgrid[:60, :80]
    >>> blobs = sum(50 * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 18) for x0, y0 in [(20, 31), (56, 24)])
    >>> noise = np.random.default_rng(0).normal(size=blobs.shape)
    >>> found = bp.detect(bp.Image(blobs + noise, sigma=1.0))
    >>> scene = found.scene(sky=models.flat_sky(), component=models.sersic)
    >>> list(scene.components)
    ['sky', 'object_1', 'object_2']
    >>> found.brightest(1).scene(component=models.exponential).image.n_valid < 60 * 80  # the other one is masked
    True
    """

    image: Image
    segmentation: np.ndarray = field(repr=False)
    background: np.ndarray = field(repr=False)
    catalogue: Table = field(repr=False)

    @classmethod
    def from_segmentation(cls, image: Image, segmentation: Any, *, background: Any = None) -> Detections:
        """Detections from the segmentation map of SExtractor, or anybody's.

        Parameters
        ----------
        image : Image
            With noise.
        segmentation : int array_like [ny, nx]
            The label of the object that each pixel belongs to, 0 for the sky.
        background : number or array_like [ny, nx], optional
            Image units per pixel; the clipped median of the pixels outside the segments when left out.

        Raises
        ------
        TypeError, ValueError
            For an image without noise, a map of another shape or type, or one without an unmasked segment.

        Warns
        -----
        UserWarning
            For segments that lie wholly under the mask, which are left out.

        Examples
        --------
        >>> import numpy as np, bayesprof as bp
        >>> y, x = np.mgrid[:40, :50]
        >>> blob = 100 * np.exp(-((x - 20) ** 2 + (y - 22) ** 2) / 18.0)
        >>> found = bp.Detections.from_segmentation(bp.Image(blob, sigma=1.0), (blob > 2).astype(int))
        >>> round(found.catalogue["x"][0]), round(found.catalogue["y"][0])
        (20, 22)
        """
        checked_image(image, "Detections")
        segments = _checked_map(segmentation, image)
        sky = measured_background(image, segments, background, None, "Detections")
        table = catalogue_of(image, segments, sky, REACH)
        for array in (segments, sky):
            array.flags.writeable = False
        return cls(image, segments, sky, table)

    @property
    def labels(self) -> np.ndarray:
        """Labels of the selected objects, in the order of the catalogue."""
        return np.asarray(self.catalogue["label"])

    def __len__(self) -> int:
        return len(self.catalogue)

    def __iter__(self) -> Iterator[int]:
        return iter(self.labels.tolist())

    def __getitem__(self, selected: Any) -> Detections:
        chosen = np.asarray(selected)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise ValueError(
                    f"Detections: expected a boolean mask of {len(self)} objects, got one of shape {chosen.shape}; "
                    'make it from a column: found[found.catalogue["snr"] > 20]'
                )
            return replace(self, catalogue=self.catalogue[chosen])
        if (chosen.dtype.kind not in "iu" and chosen.size) or chosen.ndim > 1:
            raise TypeError(
                "Detections: expected a label, several labels or a boolean mask, got "
                f"{type(selected).__name__}; for example found[[3, 7]]"
            )
        wanted = np.atleast_1d(chosen).tolist()
        rows = {label: row for row, label in enumerate(self)}
        unknown = [label for label in wanted if label not in rows]
        if unknown:
            raise KeyError(f"Detections: no object has the label {_few(unknown)}; the labels are {_few(list(rows))}")
        if len(set(wanted)) < len(wanted):
            raise ValueError(f"Detections: expected labels once each, got {_few(wanted)}; leave the repeated ones out")
        return replace(self, catalogue=self.catalogue[[rows[label] for label in wanted]])

    def brightest(self, n: int) -> Detections:
        """The `n` of the largest flux, or all where there are fewer, the brightest first."""
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"Detections: expected a whole number of objects from 1, got {n!r}")
        return replace(self, catalogue=self.catalogue[np.argsort(-np.asarray(self.catalogue["flux"]))[:n]])

    def windows(self, *, reach: float = REACH) -> dict[int, Window]:
        """Window of each selected object, by label.

        It goes out to where the exponential profile of the object's measured flux, size and shape falls below `reach`
        times the noise of a pixel, and to where its flux in a point would do so through the PSF; it holds the object's
        segment, enlarged by a half. A profile with more light outside, as of a large Sersic index, is cut at a
        brightness above `reach`.
        """
        reach = checking.check_number(reach, "reach", "Detections")
        if reach <= 0:
            raise ValueError(f"Detections: expected reach > 0, in units of the noise of a pixel, got {reach:g}")
        windows = windows_of(self.image, self.segmentation, self.catalogue, reach)
        return dict(zip(self, windows, strict=True))

    def mask_others(self, *, grow: int = 3) -> np.ndarray:
        """Mask [ny, nx] of the segments of the objects that are not selected, True there, grown by `grow` pixels, but
        not into the selected ones.
        """
        if isinstance(grow, bool) or not isinstance(grow, int | np.integer) or grow < 0:
            raise ValueError(f"Detections: expected grow as a whole number of pixels from 0, got {grow!r}")
        selected = np.isin(self.segmentation, self.labels)
        others = (self.segmentation != 0) & ~selected
        if grow and others.any():
            others = ndimage.distance_transform_edt(~others) <= grow
        return others & ~selected

    def scene(
        self,
        *,
        component: Any,
        names: Mapping[int, str] | Sequence[str] | None = None,
        reach: float = REACH,
        grow: int = 3,
        likelihood: str | Likelihood = "gaussian",
        psf: Callable[[], Light] | None = None,
        together: str | None = None,
        **others: Callable[[], Light],
    ) -> Scene:
        """A scene with a component for each selected object, in its window, and the other objects masked.

        Parameters
        ----------
        component : function, or mapping from labels to functions
            Makes the component of an object: ``models.sersic``, ``functools.partial(models.sersic, n=1.0)``, or your
            own. It is called with those of the keywords `x`, `y`, `flux` and `r_eff` that it takes, each a prior about
            the object's own value in the catalogue (below). Its other parameters have their default priors; those that
            start from a measurement start from the catalogue.
        names : mapping from labels to names, or names in the order of the catalogue, optional
            Of the components; ``object_<label>`` when left out.
        reach : float
            As of :meth:`windows`.
        grow : int
            As of :meth:`mask_others`.
        likelihood, psf
            As of :class:`bayesprof.Scene`.
        together : str, optional
            The name of one component that all of the objects are members of, with vectors of parameters
            (:func:`bayesprof.models.sources`): for more than a few dozen.
        **others : functions
            Components beside the objects: ``sky=models.flat_sky()``.

        Raises
        ------
        TypeError, ValueError
            For no selected object, a `component` that isn't such a function, names that don't fit, and as
            :class:`bayesprof.Scene`.

        Notes
        -----
        ======  ======================================================
        x, y    Normal(x or y, max(1 pixel, r_eff / 2))
        flux    LogNormal(ln flux, 1)
        r_eff   LogNormal(ln r_eff, 0.7)
        ======  ======================================================

        A flux below its standard deviation counts as that.
        """
        if not len(self):
            raise ValueError("Detections: expected at least one selected object to make a scene of, got none")
        called = self._named(names)
        twice = sorted(set(called.values() if together is None else [together]) & set(others))
        if twice:
            raise ValueError(f"Detections: expected components of different names, got {twice} twice; rename them")
        makers = component if isinstance(component, Mapping) else dict.fromkeys(self, component)
        missing = [label for label in self if label not in makers]
        if missing:
            raise ValueError(
                f"Detections: expected a component for every selected object, got none for {_few(missing)}; add them, "
                "or select those that have one"
            )
        made = {called[row["label"]]: self._component(makers[row["label"]], row) for row in self.catalogue}
        windows: dict[str, Any] = {called[label]: window for label, window in self.windows(reach=reach).items()}
        if together is not None:
            made, windows = {together: import_module("bayesprof.models").sources(made)}, {together: windows}
        image = self.image.masked(self.mask_others(grow=grow))
        return Scene(image, likelihood=likelihood, psf=psf, windows=windows, **{**others, **made})

    def __repr__(self) -> str:
        ny, nx = self.image.shape
        snr = np.asarray(self.catalogue["snr"])
        found = f", S/N {snr.min():.0f} to {snr.max():.0f}" if len(self) else ""
        objects = "object" if len(self) == 1 else "objects"
        return f"Detections({len(self)} {objects} on {ny}x{nx} px [y, x]{found})"

    def _component(self, make: Any, row: Any) -> Any:
        """What `make` makes of the object of a row of the catalogue."""
        taken = _keywords_of(make)
        flux = float(max(row["flux"], row["flux_error"]))
        found = Measurement(
            float(row["x"]),
            float(row["y"]),
            flux,
            float(row["r_eff"]),
            (float(row["e1"]), float(row["e2"])),
            float(row["sky"]),
            float(row["noise"]),
        )

        def prior(kind: Any, *numbers: float) -> Any:
            return kind(*torch.tensor(numbers, dtype=self.image.dtype, device=self.image.device))

        near = max(1.0, 0.5 * found.r_eff)
        priors = {
            "x": prior(dist.Normal, found.x, near),
            "y": prior(dist.Normal, found.y, near),
            "flux": prior(dist.LogNormal, np.log(flux), _LOG_FLUX),
            "r_eff": prior(dist.LogNormal, np.log(found.r_eff), _LOG_R_EFF),
        }
        made = make(**{name: given for name, given in priors.items() if taken(name)})
        return made.measured_as(found) if hasattr(made, "measured_as") else made

    def _named(self, names: Any) -> dict[int, str]:
        """Name of the component of each selected object, by label."""
        if names is None:
            return {label: f"object_{label}" for label in self}
        if isinstance(names, str) or not isinstance(names, Mapping | Sequence):
            raise TypeError(
                "Detections: expected names as a mapping from labels or a sequence in the order of the catalogue, got "
                f"{type(names).__name__}; for example names=['ngc70']"
            )
        if isinstance(names, Mapping):
            called = {label: names.get(label, f"object_{label}") for label in self}
            unknown = [label for label in names if label not in called]
            if unknown:
                raise ValueError(f"Detections: expected names of selected objects, got those of {_few(unknown)}")
        else:
            if len(names) != len(self):
                raise ValueError(
                    f"Detections: expected a name for each of {len(self)} objects, got {len(names)}; give a mapping "
                    "from labels to name some of them"
                )
            called = dict(zip(self, names, strict=True))
        if len(set(called.values())) < len(called):
            raise ValueError(f"Detections: expected different names, got {_few(list(called.values()))}")
        return called


def _checked_map(segmentation: Any, image: Image) -> np.ndarray:
    ours = isinstance(segmentation, np.ndarray | torch.Tensor)
    raw = segmentation if ours else getattr(segmentation, "data", segmentation)  # photutils' SegmentationImage
    array, hidden, _ = checking.as_array(raw, "the segmentation map", "Detections", kinds="biuf")
    if array.dtype.kind not in "iu":
        remedy = (
            "label its regions first: scipy.ndimage.label(map)[0]" if array.dtype == bool else "try map.astype(int)"
        )
        raise TypeError(
            f"Detections: expected the segmentation map as an array of whole numbers, one label for each object, got "
            f"{array.dtype}; {remedy}"
        )
    if array.shape != image.shape:
        raise ValueError(
            f"Detections: expected a segmentation map of the image's shape {image.shape} [ny, nx], got {array.shape}; "
            "transpose it, or cut it as the image was cut"
        )
    array = array.astype(np.int64) if hidden is None else np.where(hidden, 0, array).astype(np.int64)
    if array.min() < 0:
        raise ValueError(
            f"Detections: expected labels from 1 and 0 for the sky, got {array.min()} in the segmentation map; set "
            "negative ones to 0"
        )
    if not array.any():
        raise ValueError("Detections: expected at least one segment, the segmentation map is 0 everywhere")
    return array


def _keywords_of(make: Any) -> Callable[[str], bool]:
    """Which keywords a component's function takes."""
    remedy = "pass a function that makes a component from x, y, flux and r_eff: models.sersic, without brackets"
    if not callable(make):
        raise TypeError(f"Detections: expected component to be a function, got {type(make).__name__}; {remedy}")
    parameters = inspect.signature(make).parameters.values()
    anything = any(one.kind is one.VAR_KEYWORD for one in parameters)
    named = {one.name for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)}
    held = set(getattr(make, "keywords", {}))  # those that functools.partial was given
    if not anything and not named & {"x", "y"}:
        raise TypeError(f"Detections: expected component to take x and y, it takes {sorted(named)}; {remedy}")
    return lambda name: name not in held and (anything or name in named)


def _few(items: list[Any]) -> str:
    """The first of a list."""
    shown = ", ".join(str(item) for item in items[:10])
    return shown if len(items) <= 10 else f"{shown} and {len(items) - 10} more"

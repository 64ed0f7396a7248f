"""The image to fit: pixels, noise, mask, PSF and calibration, checked once at the door.

Everything behind an `Image` may rely on it: tensors of one dtype on one device, finite everywhere, sigma positive.
Conventions: see `bayesprof.grid`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from astropy import units as u
from astropy.nddata import NDData
from astropy.wcs import WCS

from bayesprof import checking, instrument, noise, psfex, reading
from bayesprof.psf_field import PSFField


class Image:
    """One 2-D image with its noise, mask, PSF and calibration, immutable after its checks.

    Parameters
    ----------
    data : array_like [ny, nx]
        Pixels: list, NumPy, masked or big-endian array, torch tensor, Quantity, or NDData / CCDData (which brings its
        uncertainty, mask, wcs, unit, psf, and band and zero point from its meta).
    sigma, variance, ivar : array_like [ny, nx] or number, optional
        Noise of each pixel: standard deviation, variance or inverse variance. At most one of these and `gain`.
        A Quantity is converted to the unit of the data.
    gain : float, optional
        Electrons per data unit; variance = max(data + subtracted_sky, 0) / gain + (read_noise / gain)^2.
    read_noise : float, optional
        Electrons; needs `gain`; 0 when left out.
    subtracted_sky : float
        Sky level already removed from the data, in data units.
    mask : array_like [ny, nx], optional
        True (or non-zero) where a pixel is ignored; joined with the mask of masked arrays.
    psf : array_like [h, w] or PSFField, optional
        Normalised here to sum 1; its origin is the geometric centre of the array, ((w - 1) / 2, (h - 1) / 2). A
        :class:`bayesprof.psf_field.PSFField` varies over the image.
    psf_oversampling : int
        PSF pixels per image pixel along a side; a PSFField brings its own.
    psf_contains_pixel : bool
        True for an empirical PSF, which already includes the integration over a pixel; False for an optical one.
    wcs : astropy.wcs.WCS, optional
        2-D celestial.
    zeropoint : float, optional
        Magnitude of one data unit.
    pixel_scale : float, optional
        Arcsec per pixel; from the WCS when left out, and checked against it (5 %) when given.
    band : str, optional
        Filter name.
    name : str
        Label in messages and site names; no "/" or ".".
    mask_invalid : bool
        Mask pixels whose data or noise are invalid, instead of raising.
    dtype : torch.dtype
        torch.float64 or torch.float32.
    device : str or torch.device
        Where the tensors live.

    Attributes
    ----------
    data, sigma, mask, valid : Tensor [ny, nx]
        In masked pixels data is 0 and sigma 1, so that no NaN can leak into a gradient. sigma is None without noise
        information. valid = ~mask.
    psf : Tensor [h, w] or None
        Sum 1; that at the middle of the image where it varies.
    psf_field : PSFField or None
        The PSF as it varies over the image.
    raw : ndarray
        The data as given (their own dtype, nothing replaced), read-only.
    noise_kind : str or None
        "sigma", "variance", "ivar" or "gain".
    n_valid : int
        Number of unmasked pixels.
    shape : tuple of int
        (ny, nx).
    unit : str or None
        Unit of the data.
    gain, read_noise, subtracted_sky, psf_oversampling, psf_contains_pixel, wcs, zeropoint, pixel_scale, band, name, \
dtype, device
        As given, or as found.

    Raises
    ------
    ValueError, TypeError
        For every input that cannot be meant, with the remedy.

    Warns
    -----
    UserWarning
        For an even-sized PSF whose peak is a pixel beside its geometric centre.

    Examples
    --------
    >>> import numpy as np
    >>> image = Image(np.ones((40, 50)), gain=4.7, read_noise=4.3, pixel_scale=0.396, name="r")
    >>> image
    Image('r': 40x50 px [y, x], 2000 unmasked, noise from gain, no PSF, 0.396 arcsec/px)
    """

    data: torch.Tensor
    sigma: torch.Tensor | None
    mask: torch.Tensor
    valid: torch.Tensor
    psf: torch.Tensor | None
    psf_field: PSFField | None
    raw: np.ndarray
    noise_kind: str | None
    n_valid: int
    shape: tuple[int, int]
    unit: str | None
    gain: float | None
    read_noise: float | None
    subtracted_sky: float
    psf_oversampling: int
    psf_contains_pixel: bool
    wcs: WCS | None
    zeropoint: float | None
    pixel_scale: float | None
    band: str | None
    name: str
    dtype: torch.dtype
    device: torch.device

    def __init__(
        self,
        data: Any,
        *,
        sigma: Any = None,
        variance: Any = None,
        ivar: Any = None,
        gain: Any = None,
        read_noise: Any = None,
        subtracted_sky: Any = 0.0,
        mask: Any = None,
        psf: Any = None,
        psf_oversampling: int = 1,
        psf_contains_pixel: bool = True,
        wcs: Any = None,
        zeropoint: Any = None,
        pixel_scale: Any = None,
        band: str | None = None,
        name: str = "image",
        mask_invalid: bool = False,
        dtype: torch.dtype = torch.float64,
        device: str | torch.device = "cpu",
    ) -> None:
        owner = f"Image {checking.check_name(name)!r}"
        mask_invalid = checking.check_bool(mask_invalid, "mask_invalid", owner)
        psf_contains_pixel = checking.check_bool(psf_contains_pixel, "psf_contains_pixel", owner)
        dtype, device = checking.check_dtype_device(dtype, device, owner)
        given = {
            "sigma": sigma, "variance": variance, "ivar": ivar, "gain": gain, "read_noise": read_noise,
            "subtracted_sky": subtracted_sky, "mask": mask, "psf": psf, "wcs": wcs, "zeropoint": zeropoint,
            "band": band,
        }  # fmt: skip
        if isinstance(data, NDData):
            data, given = reading.merge_nddata(data, given, owner)
        if given["band"] is not None and not isinstance(given["band"], str):
            raise TypeError(f"{owner}: band must be a str, got {given['band']!r}; pass for example band='r'.")

        raw, values, hidden, unit = checking.read_data(data, owner)
        shape = (raw.shape[0], raw.shape[1])
        pixels = _read_pixels(values, hidden, unit, given, mask_invalid, owner)
        oversampling = instrument.check_oversampling(psf_oversampling, given["psf"], owner)
        field = given["psf"] if isinstance(given["psf"], PSFField) else None
        kernel = None
        if field is not None:
            kernel = instrument.read_psf_field(field, shape, owner)
        elif given["psf"] is not None:
            kernel = instrument.read_psf(given["psf"], oversampling, shape, owner)
        sky_map = None if given["wcs"] is None else instrument.read_wcs(given["wcs"], shape, owner)
        zero = given["zeropoint"]
        zero = zero.value if isinstance(zero, u.Magnitude) else zero  # 22.5 * u.ABmag: a number of magnitudes
        scale = instrument.read_pixel_scale(pixel_scale, sky_map, owner)
        raw.flags.writeable = False
        planes = {"data": pixels.pop("data"), "sigma": pixels.pop("sigma"), "psf": kernel}
        mask_tensor = torch.tensor(pixels.pop("mask"), device=device)
        self.__dict__.update(
            {k: None if v is None else checking.to_tensor(v, k, dtype, device, owner) for k, v in planes.items()},
            **pixels,
            mask=mask_tensor,
            valid=~mask_tensor,
            n_valid=int((~mask_tensor).sum()),
            raw=raw,
            shape=shape,
            unit=None if unit is None else unit.to_string() or None,
            psf_field=field,
            psf_oversampling=oversampling,
            psf_contains_pixel=psf_contains_pixel,
            wcs=sky_map,
            zeropoint=None if zero is None else checking.check_number(zero, "zeropoint", owner, u.mag),
            pixel_scale=scale,
            band=given["band"],
            name=name,
            dtype=dtype,
            device=device,
        )

    @classmethod
    def from_fits(
        cls,
        data: Any,
        *,
        sigma: Any = None,
        variance: Any = None,
        ivar: Any = None,
        mask: Any = None,
        psf: Any = None,
        use_header: bool = True,
        name: str = "image",
        **options: Any,
    ) -> Image:
        """Image from FITS (also .gz, .fz) or .npy files.

        Parameters
        ----------
        data : path or (path, HDU)
            HDU index or name; the first one holding a 2-D image when left out. Its unit is BUNIT.
        sigma, variance, ivar, mask, psf : path, (path, HDU) or array_like, optional
            As in `Image`; a BUNIT in these files is not used: they are in the unit of the data. A `psf` may be a file
            of PsfEx's, for the whole image as PsfEx saw it; of a part of it, see :func:`bayesprof.read_psfex`.
        use_header : bool
            Take the celestial WCS, band (BAND, FILTER) and zero point (MAGZERO, MAGZPT, ZEROPOINT, PHOTZP) from the
            data header when they are not given.
        name : str
            As in `Image`.
        **options
            The other arguments of `Image`.

        Raises
        ------
        FileNotFoundError
            For a missing file.
        ValueError, TypeError
            For an unreadable file, an HDU that is absent or holds no 2-D image, and as in `Image`.
        """
        owner = f"Image {checking.check_name(name)!r}"
        use_header = checking.check_bool(use_header, "use_header", owner)
        want_wcs = options.get("wcs") is None
        nd = reading.read_fits_image(data, owner, use_header=use_header, want_wcs=want_wcs)
        planes = {"sigma": sigma, "variance": variance, "ivar": ivar, "mask": mask}
        read = {what: reading.read_plane(source, what, owner) for what, source in planes.items()}
        return cls(nd, name=name, psf=psfex.read_psf_source(psf, owner), **read, **options)

    @classmethod
    def from_nddata(cls, nd: NDData, **options: Any) -> Image:
        """Image from an astropy NDData or CCDData; `options` are the other arguments of `Image`."""
        if not isinstance(nd, NDData):
            raise TypeError(f"Image: from_nddata expects NDData, got {type(nd).__name__}; use Image(data) for arrays.")
        return cls(nd, **options)

    def to(self, dtype: torch.dtype | None = None, device: str | torch.device | None = None) -> Image:
        """Copy with another dtype (torch.float32 or torch.float64) or on another device."""
        owner = f"Image {self.name!r}"
        kind, place = checking.check_dtype_device(
            self.dtype if dtype is None else dtype, self.device if device is None else device, owner
        )
        planes = {"data": self.data, "sigma": self.sigma, "psf": self.psf}
        moved = {
            what: None if plane is None else checking.to_tensor(plane.cpu().numpy(), what, kind, place, owner)
            for what, plane in planes.items()
        }
        masks = {"mask": self.mask.to(place, copy=True), "valid": self.valid.to(place, copy=True)}
        return self._with(**moved, **masks, dtype=kind, device=place)

    def cutout(self, x: float, y: float, size: int | tuple[int, int]) -> Image:
        """Image of `size` pixels (int, or (ny, nx)) around pixel (x, y), trimmed at the edges of this one.

        The centre is the pixel nearest to (x, y); along an even side it gets index size // 2. The WCS and a PSF that
        varies are shifted, the noise is kept.

        Raises
        ------
        ValueError
            When fewer than 3x3 pixels overlap, or all of them are masked.
        """
        owner = f"Image {self.name!r}"
        sides: tuple[Any, ...] = tuple(size) if isinstance(size, tuple | list | np.ndarray) else (size, size)
        whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool | np.bool_) for n in sides)
        if len(sides) != 2 or not whole:
            raise TypeError(f"{owner}: cutout size must be an int or (ny, nx) of ints, got {size!r}; pass e.g. 65.")
        if min(sides) < checking.MIN_SIDE:
            raise ValueError(f"{owner}: cutout size must be at least {checking.MIN_SIDE}, got {size}; enlarge it.")
        cuts = []
        for centre, axis, side, n in zip((y, x), "yx", sides, self.shape, strict=True):
            start = int(np.floor(checking.check_number(centre, axis, owner) + 0.5)) - side // 2
            cuts.append(slice(max(start, 0), min(start + side, n)))
        if any(cut.stop - cut.start < checking.MIN_SIDE for cut in cuts):
            raise ValueError(
                f"{owner}: cutout of {size} pixels around (x, y) = ({x}, {y}) must overlap the image {self.shape} "
                f"by at least {checking.MIN_SIDE} pixels; choose a centre inside the image (x is the second axis)."
            )
        rows, columns = cuts
        valid = self.valid[rows, columns].clone()
        if not valid.any():
            raise ValueError(
                f"{owner}: every pixel of the cutout around (x, y) = ({x}, {y}) is masked; choose another centre."
            )
        raw = self.raw[rows, columns].copy()
        raw.flags.writeable = False
        field = None if self.psf_field is None else self.psf_field.seen_from(columns.start, rows.start)
        psf = self.psf
        if field is not None:
            kernel = instrument.read_psf_field(field, raw.shape, owner)
            psf = checking.to_tensor(kernel, "psf", self.dtype, self.device, owner)
        return self._with(
            psf=psf,
            psf_field=field,
            raw=raw,
            data=self.data[rows, columns].clone(),
            sigma=None if self.sigma is None else self.sigma[rows, columns].clone(),
            mask=~valid,
            valid=valid,
            n_valid=int(valid.sum()),
            shape=raw.shape,
            wcs=None if self.wcs is None else instrument.cut_wcs(self.wcs, rows, columns, owner),
        )

    def masked(self, mask: Any) -> Image:
        """Copy in which the pixels of `mask`, shape (ny, nx), are masked as well.

        Raises
        ------
        TypeError, ValueError
            For a mask of another shape, and when no pixel is left.

        Examples
        --------
        >>> import numpy as np
        >>> Image(np.ones((4, 5)), sigma=1.0).masked(np.eye(4, 5)).n_valid
        16
        """
        owner = f"Image {self.name!r}"
        more = checking.read_mask(mask, self.shape, "mask", owner)
        joined = self.mask | torch.tensor(more, device=self.device)
        if bool(joined.all()):
            raise ValueError(
                f"{owner}: all {joined.numel()} pixels would be masked; True means ignored: try masked(~mask)."
            )
        return self._with(
            data=self.data.masked_fill(joined, 0.0),
            sigma=None if self.sigma is None else self.sigma.masked_fill(joined, 1.0),
            mask=joined,
            valid=~joined,
            n_valid=int((~joined).sum()),
        )

    def minus(self, light: torch.Tensor) -> Image:
        """Copy with `light`, shape (ny, nx), taken off the data; the noise stays that of the whole.

        Examples
        --------
        >>> import numpy as np, torch
        >>> float(Image(np.ones((4, 5)), sigma=1.0).minus(torch.full((4, 5), 0.75)).data[0, 0])
        0.25
        """
        raw = self.raw - light.detach().cpu().numpy()
        raw.flags.writeable = False
        return self._with(data=(self.data - light).masked_fill(self.mask, 0.0), raw=raw)

    def _with(self, **changes: Any) -> Image:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **changes)
        return copy

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(f"Image {self.name!r} is immutable: cannot set {key}; make a new Image instead.")

    def __delattr__(self, key: str) -> None:
        raise AttributeError(f"Image {self.name!r} is immutable: cannot delete {key}; make a new Image instead.")

    def __repr__(self) -> str:
        facts = [
            f"{self.shape[0]}x{self.shape[1]} px [y, x]",
            f"{self.n_valid} unmasked",
            "no noise" if self.noise_kind is None else f"noise from {self.noise_kind}",
        ]
        if self.psf is None:
            facts.append("no PSF")
        else:
            times = "" if self.psf_oversampling == 1 else f" oversampled {self.psf_oversampling} times"
            varying = "" if self.psf_field is None else f" varying with degree {self.psf_field.degree}"
            facts.append(f"PSF {self.psf.shape[0]}x{self.psf.shape[1]}{times}{varying}")
        if self.band is not None:
            facts.append(f"band {self.band}")
        if self.pixel_scale is not None:
            facts.append(f"{self.pixel_scale:.4g} arcsec/px")
        return f"Image({self.name!r}: {', '.join(facts)})"


def _read_pixels(
    values: np.ndarray, hidden: np.ndarray | None, unit: Any, given: dict[str, Any], mask_invalid: bool, owner: str
) -> dict[str, Any]:
    """Data, sigma and mask as arrays, with masked pixels replaced, and the noise settings, of checked data."""
    mask = np.zeros(values.shape, dtype=bool) if hidden is None else hidden.copy()
    if given["mask"] is not None:
        mask |= checking.read_mask(given["mask"], values.shape, "mask", owner)
    mask = checking.mask_or_refuse(~np.isfinite(values), values, "data", "finite", mask, mask_invalid, owner)
    sigma, mask, settings = noise.read_noise(values, mask, unit, given, mask_invalid, owner)
    if mask.all():
        raise ValueError(f"{owner}: all {mask.size} pixels are masked; True means ignored: try mask=~mask.")
    return settings | {"data": np.where(mask, 0.0, values), "sigma": sigma, "mask": mask}

"""pyimfit on gal1: the time of its Levenberg-Marquardt fit, and its parameters and errors.

    python pyimfit_gal1.py DATA_DIR OUT.json [--repeats 3]

One "Sersic" function convolved with the PSF, no sky, pixels subsampled near the centre, all threads: its defaults. It
has no starting values of its own: those given here are read off the image. Each fit starts there, in a new object, and
counts everything after the imports; the median of the repeats is given. `lm` takes the PSF as it is; its transforms
then have 121 + 3 * 43 - 1 = 249 = 3 * 83 pixels a side, and the prime 83 is slow. `lm_padded` adds a ring of zeros to
the PSF: the same model on 255 = 3 * 5 * 17 pixels. pyimfit gives no covariance, so no error for the total flux.
"""

import time

import gal1
import numpy as np
import pyimfit
from scipy.special import gamma, gammaincinv

settings = gal1.arguments(__doc__.splitlines()[0], repeats=3)
report = gal1.Report("pyimfit", settings)


def start_model():
    image = np.where(report.mask, 0.0, report.image)
    yc, xc = np.unravel_index(np.argmax(image), image.shape)
    y, x = np.indices(image.shape)
    radius = np.hypot(x - xc, y - yc)
    order = np.argsort(radius, axis=None)
    inside = np.cumsum(image.ravel()[order])
    r_half = radius.ravel()[order][np.searchsorted(inside, inside[-1] / 2)]
    at_r_half = float(np.median(image[np.abs(radius - r_half) < 1]))

    model = pyimfit.SimpleModelDescription()
    model.x0.setValue(xc + 1.0, [xc - 4.0, xc + 6.0])  # its first pixel is (1, 1)
    model.y0.setValue(yc + 1.0, [yc - 4.0, yc + 6.0])
    sersic = pyimfit.make_imfit_function("Sersic")
    for name, value, limits in (
        ("PA", 90.0, [-180.0, 360.0]),
        ("ell", 0.2, [0.0, 0.95]),
        ("n", 2.0, [0.3, 8.0]),
        ("I_e", at_r_half, [0.0, 1e3 * at_r_half]),
        ("r_e", r_half, [0.1, 20 * r_half]),
    ):
        getattr(sersic, name).setValue(value, limits)
    model.addFunction(sersic)
    return model


def fit(psf):
    start = time.perf_counter()
    fitter = pyimfit.Imfit(start_model(), psf=psf)
    fitter.fit(report.image, error=report.sigma, error_type="sigma", mask=report.mask.astype(float), solver="LM")
    return fitter, time.perf_counter() - start


def to_gal1(fitter):
    """The values and errors of a fit, as the report names them."""
    x0, y0, pa, ell, n, intensity, r_e = map(float, fitter.getRawParameters())
    b = gammaincinv(2 * n, 0.5)
    flux = float(intensity * 2 * np.pi * r_e**2 * (1 - ell) * n * np.exp(b) * b ** (-2 * n) * gamma(2 * n))
    theta = np.deg2rad(pa + 90) % np.pi  # PA is counter-clockwise from +y
    values = dict(zip(gal1.PARAMETERS, (flux, r_e, n, ell, theta, x0 - 1, y0 - 1), strict=True))
    x0, y0, pa, ell, n, intensity, r_e = map(float, fitter.parameterErrors)
    return values, dict(zip(gal1.PARAMETERS, (None, r_e, n, ell, np.deg2rad(pa), x0, y0), strict=True))


for name, ring in (("lm", 0), ("lm_padded", 1)):
    fitters, seconds = zip(*(fit(np.pad(report.psf, ring)) for _ in range(settings.repeats)), strict=True)
    fitter = fitters[0]
    values, errors = to_gal1(fitter)
    report.fit(
        name,
        float(np.median(seconds)),
        values,
        fitter.getModelImage(),
        errors,
        all_seconds=seconds,
        converged=bool(fitter.fitConverged),
        iterations=fitter.nIter,
        chi2_as_reported=fitter.fitStatistic,
    )

report.write()

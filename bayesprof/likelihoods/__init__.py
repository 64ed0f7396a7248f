"""Likelihoods with parameters of their own, for ``bp.Scene(image, likelihood=...)``.

:func:`contaminated` where stars, cosmic rays or bad pixels may have been left unmasked; :func:`extra_noise` where the
noise of the image isn't known well; :func:`correlated` where the image was resampled (drizzled, registered, stacked).
Each of their parameters takes a Pyro distribution (prior), a number (held), or nothing (its default), and is a site
``likelihood.parameter``. Those without parameters are "gaussian", "poisson" and "student_t"
(:mod:`bayesprof.likelihood`).
"""

from bayesprof.likelihoods.contaminated import contaminated
from bayesprof.likelihoods.correlated import correlated
from bayesprof.likelihoods.extra_noise import extra_noise

__all__ = ["contaminated", "correlated", "extra_noise"]

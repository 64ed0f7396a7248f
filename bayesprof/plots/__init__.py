"""Figures of a fit, ready for a notebook or a paper.

:func:`image` shows images, and the objects found on them; :func:`residual` data, model and what is left over;
:func:`profile` the light of a component against radius; :func:`profiles` that of each component on the image without
the others; :func:`windows` where each is rendered; :func:`corner` the draws of a posterior; :func:`calibration` the
ranks of known truths; :func:`prior_sheet` images that the prior holds possible. Each returns a matplotlib figure and,
given ``path=``, writes it to a file of the kind that its ending names.
"""

from bayesprof.plots.calibration import calibration
from bayesprof.plots.corner import corner
from bayesprof.plots.image import image
from bayesprof.plots.prior_sheet import prior_sheet
from bayesprof.plots.profile import profile
from bayesprof.plots.profiles import profiles
from bayesprof.plots.residual import residual
from bayesprof.plots.windows import windows

__all__ = ["calibration", "corner", "image", "prior_sheet", "profile", "profiles", "residual", "windows"]

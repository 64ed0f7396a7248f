"""Inference on any Pyro model: a scene, or one of your own.

All take a model or its :class:`Posterior`, which keeps what was captured for the next call, and keyword-only options.

:func:`lm` finds the maximum of the posterior and its Hessian; :func:`optimize` and :func:`iterate` are other ways
there, for what doesn't converge in one go. They return a :class:`Fit`. :func:`linear_start` solves for the fluxes and
sky levels of a scene, to start from.

:func:`sample` is the default for those who don't want to choose: the Laplace approximation with importance sampling
(:func:`laplace`), of first or second order, where that can be trusted, else randomize-then-optimize (:func:`rto`), else
:func:`split_hmc`, the sampler with the most effective draws per gradient. :func:`nuts`, :func:`hmc`, :func:`mala` and
:func:`ensemble` are the ones that everybody knows, :func:`svi` fits an approximation of your choice. They return
``arviz.InferenceData`` with a verdict in ``attrs["verdict"]``.

:func:`reweight` infers a population from posteriors of single galaxies.

:func:`evidence` compares models; :func:`calibrate` checks a model and a method on simulated data.
"""

from bayesprof.inference.calibrate import calibrate
from bayesprof.inference.calibration import Calibration
from bayesprof.inference.compare import compare
from bayesprof.inference.constraints import Constraint
from bayesprof.inference.ensemble import ensemble
from bayesprof.inference.evidence import Evidence, evidence
from bayesprof.inference.fit import Fit
from bayesprof.inference.hmc import hmc
from bayesprof.inference.iterate import iterate
from bayesprof.inference.laplace import laplace
from bayesprof.inference.linear_start import linear_start
from bayesprof.inference.lm import lm
from bayesprof.inference.mala import MALA, mala
from bayesprof.inference.nuts import nuts
from bayesprof.inference.optimize import optimize
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.reweight import reweight
from bayesprof.inference.rto import rto
from bayesprof.inference.sample import sample
from bayesprof.inference.split_hmc import split_hmc
from bayesprof.inference.svi import svi
from bayesprof.inference.verdict import Verdict, judge

__all__ = [
    "MALA", "Calibration", "Constraint", "Evidence", "Fit", "Posterior", "Verdict", "calibrate", "compare", "ensemble",
    "evidence", "hmc", "iterate", "judge", "laplace", "linear_start", "lm", "mala", "nuts", "optimize",
    "reweight", "rto", "sample", "split_hmc", "svi",
]  # fmt: skip

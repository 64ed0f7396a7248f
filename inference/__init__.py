"""Inference on any Pyro model: a scene, or one of your own.

:func:`lm` finds the maximum of the posterior and its Hessian, in seconds, and again in a fraction of one;
:func:`nuts` samples, started from it. Both take a model or its :class:`Posterior`, which keeps what was captured
for the next call. Results of samplers are ``arviz.InferenceData`` with a verdict in ``attrs["verdict"]``.
"""

from bayesprof.inference.fit import Fit
from bayesprof.inference.hmc import hmc
from bayesprof.inference.lm import lm
from bayesprof.inference.mala import MALA, mala
from bayesprof.inference.nuts import nuts
from bayesprof.inference.posterior import Posterior
from bayesprof.inference.sample import sample
from bayesprof.inference.split_hmc import split_hmc
from bayesprof.inference.verdict import Verdict, judge

__all__ = ["MALA", "Fit", "Posterior", "Verdict", "hmc", "judge", "lm", "mala", "nuts", "sample", "split_hmc"]

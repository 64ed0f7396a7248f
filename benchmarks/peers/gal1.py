"""The problem every peer is given, and the report each writes: one Sersic and no sky on the galaxy gal1.

The files are gal1_{im,sig,mask,psf}.npy of one folder: image, standard deviation of each pixel, mask (1 where a pixel
is bad) and PSF. All peers maximise or sample the same likelihood, Normal(model, sig) over the unmasked pixels; their
priors are their own. Each peer's parameters are turned into these, in pixels and radians, arrays being [y, x] and the
centre of the first pixel (0, 0): flux (total), r_eff (half light, along the major axis), n, ellip (1 - axis ratio),
theta (major axis, counter-clockwise from +x, in [0, pi)), xc, yc.
"""

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np

PARAMETERS = ("flux", "r_eff", "n", "ellip", "theta", "xc", "yc")


def arguments(description, **defaults):
    """The command line of a peer's script: DATA_DIR, OUT.json and one option for each default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", type=Path, metavar="DATA_DIR")
    parser.add_argument("out", type=Path, metavar="OUT.json")
    for name, default in defaults.items():
        option = "--" + name.replace("_", "-")
        parser.add_argument(option, type=type(default), default=default, help=f"default: {default}")
    return parser.parse_args()


def load(folder):
    """Image, sigma, mask (True where bad) and PSF."""
    image, sigma, mask, psf = (
        np.load(folder / f"gal1_{kind}.npy").astype(float) for kind in ("im", "sig", "mask", "psf")
    )
    return image, sigma, mask > 0, psf


class Report:
    """The figures of one peer, gathered stage by stage and written as JSON; model images go beside it as .npy.

    `fits` and `samplers` hold one entry per stage: its wall seconds, its parameters (value, or mean and sd, with the
    error where the peer gives one), chi2 of its model image over the unmasked pixels and, for a sampler, the
    rank-normalised R-hat and bulk and tail effective sample sizes, the smallest bulk one also per second.
    """

    def __init__(self, peer, settings):
        self.out = settings.out
        self.image, self.sigma, self.mask, self.psf = load(settings.data)
        options = {name: value for name, value in vars(settings).items() if name not in ("data", "out")}
        self.figures = {
            "peer": peer,
            "version": version(peer),
            "problem": "gal1",
            "settings": options,
            "cores": os.cpu_count(),
            "load_at_start": os.getloadavg()[0],
            "unmasked_pixels": int((~self.mask).sum()),
            "fits": {},
            "samplers": {},
        }

    def fit(self, name, seconds, values, model, errors=None, **more):
        self.figures["fits"][name] = {
            "seconds": seconds,
            "values": values,
            "errors": errors,
            "chi2": self._keep(name, model),
            **more,
        }

    def sampler(self, name, seconds, draws, model_at, **more):
        """`draws`: an array [chain, draw] for each parameter; `model_at`: from a dictionary of values to an image."""
        import arviz as az

        draws = {**draws, "theta": around_the_mean(draws["theta"])}

        def each(figure, **options):
            return {key: float(figure(draws[key], **options)) for key in PARAMETERS}

        median = each(np.median)
        posterior = {key: {"mean": float(np.mean(draws[key])), "sd": float(np.std(draws[key]))} for key in PARAMETERS}
        bulk, tail, r_hat = each(az.ess, method="bulk"), each(az.ess, method="tail"), each(az.rhat, method="rank")
        self.figures["samplers"][name] = {
            "seconds": seconds,
            "posterior": posterior,
            "median": median,
            "chi2_at_median": self._keep(name, model_at(median)),
            "min_ess_bulk": min(bulk.values()),
            "min_ess_tail": min(tail.values()),
            "ess_per_second": min(bulk.values()) / seconds,
            "r_hat_max": max(r_hat.values()),
            "ess_bulk": bulk,
            "ess_tail": tail,
            "r_hat": r_hat,
            **more,
        }

    def _keep(self, name, model):
        model = np.asarray(model, dtype=float)
        np.save(self.out.with_name(f"{self.out.stem}_{name}_model.npy"), model)
        return float(np.sum(((self.image - model) / self.sigma)[~self.mask] ** 2))

    def write(self):
        text = json.dumps(self.figures, indent=1)
        self.out.write_text(text + "\n")
        print(text)


def around_the_mean(theta):
    """Angles of period pi, moved next to their circular mean in [0, pi), so that averages and ESS mean something."""
    mean = np.angle(np.mean(np.exp(2j * np.asarray(theta)))) / 2 % np.pi
    return (theta - mean + np.pi / 2) % np.pi - np.pi / 2 + mean

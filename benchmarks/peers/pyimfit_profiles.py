"""pyimfit's images of the profiles that it shares with bayesprof, without a PSF and through one.

    python pyimfit_profiles.py PROFILES.json OUT.npz [--fine 24]

PROFILES.json, which benchmarks/profiles.py writes, holds for each name a function of pyimfit, its parameters and the
shape and centre of the image, and the FWHM and beta of a Moffat PSF. They are drawn on a grid `fine` times finer than
the pixels, each point the value at its middle: Imfit's own subsampling reaches the innermost pixels only.
"""

import argparse
import json

import numpy as np
import pyimfit
from fine_images import binned, through_moffat

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("profiles")
parser.add_argument("out")
parser.add_argument("--fine", type=int, default=24)
settings = parser.parse_args()

# lengths, and inverse ones, in units of the pixels of the fine grid
LENGTHS = {"r_c", "r_t", "r_e", "r_b", "h1", "h2", "r_break", "R_ring", "sigma_r", "a_bar"}
INVERSE = {("BrokenExponential", "alpha")}


def drawn(profile, shape, centre):
    """The profile on points `fine` to the pixel."""
    kind, fine = profile["function"], settings.fine
    model = pyimfit.SimpleModelDescription()
    # its first pixel is (1, 1)
    model.x0.setValue((centre[0] + 0.5) * fine + 0.5)
    model.y0.setValue((centre[1] + 0.5) * fine + 0.5)
    function = pyimfit.make_imfit_function(kind)
    for name, value in profile["parameters"].items():
        scale = fine if name in LENGTHS else 1 / fine if (kind, name) in INVERSE else 1
        getattr(function, name).setValue(value * scale)
    model.addFunction(function)
    # the maker of images alone: no data, no PSF
    return pyimfit.Imfit(model).getModelImage(shape=(shape[0] * fine, shape[1] * fine))


images = {}
with open(settings.profiles) as file:
    profiles = json.load(file)
for name, profile in profiles.items():
    shape, centre = profile["shape"], profile["centre"]

    def draw(shape, centre, profile=profile):
        return drawn(profile, shape, centre)

    images[f"{name}, bare"] = binned(draw(shape, centre), settings.fine)
    images[f"{name}, seen"] = through_moffat(draw, shape, centre, settings.fine, *profile["psf"])
np.savez(settings.out, **images)

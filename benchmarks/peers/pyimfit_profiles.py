"""pyimfit's images of the profiles that it shares with bayesprof, without a PSF.

    python pyimfit_profiles.py PROFILES.json OUT.npz [--fine 24]

PROFILES.json, which benchmarks/profiles.py writes, holds for each name a function of pyimfit, its parameters and the
shape and centre of the image. Functions with a sharp feature are drawn on a grid `fine` times finer than the pixels,
each point the value at its middle, and averaged: Imfit's own subsampling reaches the innermost pixels only.
"""

import argparse
import json

import numpy as np
import pyimfit

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("profiles")
parser.add_argument("out")
parser.add_argument("--fine", type=int, default=24)
settings = parser.parse_args()

# lengths, and inverse ones, in units of the pixels of the fine grid
LENGTHS = {"r_c", "r_t", "r_e", "r_b", "h1", "h2", "r_break", "R_ring", "sigma_r", "a_bar"}
INVERSE = {("BrokenExponential", "alpha")}


def image_of(profile):
    kind, (ny, nx), (x, y) = profile["function"], profile["shape"], profile["centre"]
    fine = settings.fine
    model = pyimfit.SimpleModelDescription()
    # its first pixel is (1, 1)
    model.x0.setValue((x + 0.5) * fine + 0.5)
    model.y0.setValue((y + 0.5) * fine + 0.5)
    function = pyimfit.make_imfit_function(kind)
    for name, value in profile["parameters"].items():
        scale = fine if name in LENGTHS else 1 / fine if (kind, name) in INVERSE else 1
        getattr(function, name).setValue(value * scale)
    model.addFunction(function)
    # the maker of images alone: no data, no PSF
    fitter = pyimfit.Imfit(model)
    image = fitter.getModelImage(shape=(ny * fine, nx * fine))
    return image.reshape(ny, fine, nx, fine).mean(axis=(1, 3))


with open(settings.profiles) as file:
    profiles = json.load(file)
np.savez(settings.out, **{name: image_of(profile) for name, profile in profiles.items()})

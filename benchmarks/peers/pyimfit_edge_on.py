"""Imfit's edge-on disks, finely sampled, for benchmarks/edge_on.py to compare with.

    python pyimfit_edge_on.py OUT.npz

Each image is Imfit's EdgeOnDisk on 20 x 20 points a pixel, summed into pixels; through a Moffat PSF, convolved on these
points first.
"""

import math
import sys

import numpy as np
import pyimfit
from fine_images import binned, through_moffat

SHAPE, CENTRE, FINE, FWHM, BETA = (60, 84), (43.37, 27.82), 20, 3.5, 3.5
# scale length, scale height (pixels), n, angle of the plane from +x (degrees)
DISKS = [(4.0, 1.0, 1.0, 132.0), (6.0, 0.8, 2.0, 0.0), (5.0, 1.5, 4.0, 23.0), (3.0, 1.5, 10.0, 75.0)]


def brightness(shape, centre, length, height, n, angle, fine):
    """The disk of flux 1 on points `fine` to the pixel."""
    model = pyimfit.SimpleModelDescription()
    model.x0.setValue((centre[0] + 0.5) * fine + 0.5)  # its first pixel is (1, 1)
    model.y0.setValue((centre[1] + 0.5) * fine + 0.5)
    disk = pyimfit.make_imfit_function("EdgeOnDisk")
    p = 2 / n
    across = math.gamma(1 + p) / (2 ** (1 + p) * height * math.gamma(1 + p / 2) ** 2)
    # its L_0 is a density in space: the brightness in the middle is 2 h L_0
    density = across / (math.pi * length * fine**2) / (2 * length * fine)
    values = {"PA": angle - 90, "L_0": density, "h": length * fine, "n": n}
    for name, value in {**values, "z_0": height * fine}.items():
        getattr(disk, name).setValue(value)
    model.addFunction(disk)
    return pyimfit.Imfit(model).getModelImage(shape=(shape[0] * fine, shape[1] * fine))


if __name__ == "__main__":
    np.savez(
        sys.argv[1],
        disks=np.array(DISKS),
        centre=CENTRE,
        psf=(FWHM, BETA),
        bare=[binned(brightness(SHAPE, CENTRE, *disk, FINE), FINE) for disk in DISKS],
        seen=[
            through_moffat(
                lambda shape, centre, disk=disk: brightness(shape, centre, *disk, FINE), SHAPE, CENTRE, FINE, FWHM, BETA
            )
            for disk in DISKS
        ],
    )

"""Images from points many times finer than the pixels, for the scripts here that draw with pyimfit."""

import math

import numpy as np


def binned(image, fine):
    """Sums over blocks of `fine` by `fine` points."""
    ny, nx = image.shape
    return image.reshape(ny // fine, fine, nx // fine, fine).sum((1, 3))


def through_moffat(draw, shape, centre, fine, fwhm, beta):
    """Image of `shape` of what ``draw(shape, centre)`` draws on points `fine` to the pixel, through a Moffat PSF.

    Convolved on these points, on a plane twice as large as the image, where its edges are out of reach.
    """
    large = tuple(2 * side for side in shape)
    image = draw(large, (centre[0] + shape[1] // 2, centre[1] + shape[0] // 2))
    y, x = (np.fft.fftfreq(side) * side / fine for side in image.shape)
    scale = fwhm / (2 * math.sqrt(2 ** (1 / beta) - 1))
    psf = (1 + (x[None, :] ** 2 + y[:, None] ** 2) / scale**2) ** -beta
    spectrum = np.fft.rfft2(image) * np.fft.rfft2(psf / psf.sum())
    whole = binned(np.fft.irfft2(spectrum, s=image.shape), fine)
    return whole[shape[0] // 2 :, shape[1] // 2 :][: shape[0], : shape[1]]

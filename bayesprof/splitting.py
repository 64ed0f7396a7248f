"""Large windows: fine structure near the source only.

A galaxy that is smooth but for its centre has structure of a few pixels near to it and none farther out. So its
transform is taken apart,

    F P = F P B + F P (1 - B),    B(k) = erfc((|k| - k_c) / w) / 2,

and the first part, which ends at 2 k_c, is summed over few wavenumbers for the whole window, the second over all
wavenumbers for a small one about the source. Away from the source, the second falls like exp(-(w r / 2)^2) where the
galaxy is round; along the major axis of one of axis ratio q its ridge has structure as fine as q r, and is as small as
exp(-k_c q r). The windows of a :class:`bayesprof.window.Window` with a `detail` are rendered so, where that is less
work; a detail of 10 / q pixels keeps the error below 1e-4 of the light. The window of the fine part follows the source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayesprof.image import Image
from bayesprof.light import Extended, Light, Pointlike
from bayesprof.members import Member
from bayesprof.rendering import Convolution, Renderer, convolution_of, together
from bayesprof.transfer import Axis, Places, to_pixels
from bayesprof.window import Window

_DETAIL = 15.0  # pixels, times the axis ratio: half as much again as needed, for fits that go on to a flatter galaxy
_NEEDED = 10.0  # pixels, times the axis ratio, that keep the error below 1e-4
_FLATTEST = 0.05
_LARGE = 96  # pixels, below which a window isn't worth taking apart
_CUTS = (2, 4, 8)  # the broad part ends at the Nyquist frequency over one of these
_STEEP = 3.5  # k_c over w: B is 1 to 4e-7 at wavenumber 0, and 0 likewise where it ends
_SIDES = (64, 96, 128, 192, 256)  # of the windows of the fine part, pixels
_WORTH = 0.75  # of the wavenumbers that a whole window has, above which it isn't taken apart
_PSF_BEYOND = 1e-5  # fine structure of the PSF, relative to all of it, that may lie outside of such a window


@dataclass(frozen=True, kw_only=True)
class SplitConvolution(Convolution):
    """A convolution that renders smooth sources in two parts: the `broad` one and, in windows about them, the `fine`
    one.
    """

    broad: Convolution
    fine: Convolution

    def apart(self, sources: list[Extended | Pointlike | Member]) -> list[tuple[list[int], Tensor]]:
        kinds = [source.batch.whole if isinstance(source, Member) else source for source in sources]
        smooth = [i for i, kind in enumerate(kinds) if isinstance(kind, Extended) and kind.smooth]
        others = [i for i in range(len(sources)) if i not in smooth]
        images = [([others[i] for i in some], image) for some, image in super().apart([sources[i] for i in others])]
        most = min(self.broad.most_together, self.fine.most_together)
        for some, source in together([sources[i] for i in smooth], most=most):
            image = self._split(source)
            images.append(([smooth[i] for i in some], image if len(some) > 1 else image[None]))
        return images

    def _split(self, source: Extended) -> Tensor:
        (ny, nx), (height, width) = self.shape, self.fine.shape
        y, x = _first_pixel(source.y, height, ny), _first_pixel(source.x, width, nx)
        fine = self.fine.image_of(source.shifted(-x, -y))
        places = (y.long()[..., None, None] + torch.arange(height, device=y.device)[:, None]) * nx + (
            x.long()[..., None, None] + torch.arange(width, device=x.device)
        )
        everywhere = fine.new_zeros(*fine.shape[:-2], ny * nx)
        inserted = everywhere.scatter_add(-1, places.expand(fine.shape).flatten(-2), fine.flatten(-2))
        return self.broad.image_of(source) + inserted.unflatten(-1, (ny, nx))


def _first_pixel(position: Tensor, size: int, of: int) -> Tensor:
    """That of a window of `size` about a `position`, along an axis of so many pixels."""
    return torch.nan_to_num(position.detach() - 0.5 * (size - 1)).round().clamp(0, of - size)


class Splitter:
    """Takes the convolutions of windows of an `image` apart."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._fine: dict[tuple[int, int], Convolution | None] = {}

    def __call__(self, renderer: Renderer, detail: float) -> Renderer:
        """`renderer`, with fine structure of smooth sources within `detail` pixels of them only; as it is where that is
        no less work, or where the PSF has fine structure farther out.
        """
        whole = renderer.convolution
        if type(whole) is not Convolution:
            return renderer
        best, least = whole, _WORTH * whole.transfer.numel()
        for cut in _CUTS:
            sides = [side for side in _SIDES if cut * detail <= side < min(whole.shape)]
            fine = next((fine for side in sides if (fine := self._fine_part(cut, side))), None)
            if fine is not None and (work := whole.transfer.numel() / cut**2 + fine.transfer.numel()) < least:
                best, least = SplitConvolution(**vars(whole), broad=_broad(whole, cut), fine=fine), work
        return renderer if best is whole else replace(renderer, convolution=best)

    def _fine_part(self, cut: int, side: int) -> Convolution | None:
        """That of a window of a `side`; None where it has no room for what the PSF makes of a point."""
        if (cut, side) not in self._fine:
            whole = convolution_of(self._image, (side, side))
            rows, columns = whole.transfer.shape  # without the aliases that are followed apart
            share = 1 - _broad_share(whole.x_axis.k, whole.y_axis.k, cut)[:rows, :columns].to(whole.transfer.real)
            fine = replace(whole, transfer=whole.transfer * share, compact=True)
            has_room = _beyond(fine) < _PSF_BEYOND * float(_psf_of(whole).norm())
            self._fine[cut, side] = fine if has_room else None
        return self._fine[cut, side]


def with_detail(window: Window, axis_ratio: float | None) -> Window:
    """A window with the detail that sources of two thirds of an `axis_ratio` need, where it is so large that this saves
    work.
    """
    if axis_ratio is None or max(window.shape) < _LARGE:
        return window
    return replace(window, detail=_DETAIL / max(axis_ratio, _FLATTEST))


def enough_detail(light: Light) -> float:
    """Least detail of a window in which a light is rendered to 1e-4, pixels; 0 where it is smooth nowhere."""
    ratio = flattest(light)
    return 0.0 if ratio is None else _NEEDED / max(ratio, _FLATTEST)


def flattest(light: Light) -> float | None:
    """Axis ratio of the flattest smooth source of a light; None where it has none."""
    ratios = [_axis_ratio(part) for part in light.parts if isinstance(part, Extended) and part.smooth]
    return min(ratios, default=None)


def _axis_ratio(source: Extended) -> float:
    xx, xy, yy = (float(value) for value in source.ellipse)
    middle, apart = 0.5 * (xx + yy), math.hypot(0.5 * (xx - yy), xy)
    return math.sqrt(max(middle - apart, 0.0) / (middle + apart))


def _broad_share(kx: Tensor, ky: Tensor, cut: int) -> Tensor:
    """``B`` for a broad part that ends at the Nyquist frequency over `cut`, on the wavenumbers below it."""
    middle = 0.5 * math.pi / cut
    return 0.5 * torch.erfc((torch.sqrt(kx**2 + ky**2) - middle) * (_STEEP / middle))


def _broad(whole: Convolution, cut: int) -> Convolution:
    """The broad part of a convolution: on its wavenumbers below the Nyquist frequency over `cut`."""
    rows, columns = whole.period
    total, of_x = whole.transfer.shape[0], columns // (2 * cut) + 1
    of_y = rows // (2 * cut)
    chosen = torch.cat([torch.arange(of_y + 1), torch.arange(total - of_y, total)]).to(whole.transfer.device)

    def along_x(values: Tensor) -> Tensor:
        return values[..., :of_x]

    def along_y(values: Tensor) -> Tensor:
        return values.index_select(-2, chosen)

    x_axis = Axis(*(along_x(values) for values in whole.x_axis))
    y_axis = Axis(*(along_y(values) for values in whole.y_axis))
    share = _broad_share(x_axis.k, y_axis.k, cut).to(whole.transfer.real)
    return replace(
        whole,
        oversampling=1,
        x_axis=x_axis,
        y_axis=y_axis,
        transfer=along_y(along_x(whole.transfer)) * share,
        x_aliased=Places(),
        y_aliased=Places(),
    )


def _psf_of(convolution: Convolution) -> Tensor:
    """What a convolution makes of a point in the first pixel, on all of its period."""
    return to_pixels(convolution.transfer, convolution.period, convolution.period, convolution.oversampling).cpu()


def _beyond(fine: Convolution) -> float:
    """Root sum square of what a convolution makes of a point in the middle of its window, beyond that window."""
    away_y, away_x = (torch.minimum(i, n - i) for i, n in ((torch.arange(n), n) for n in fine.period))
    outside = torch.maximum(away_y[:, None], away_x) >= min(fine.shape) // 2
    return float(_psf_of(fine)[outside].norm())

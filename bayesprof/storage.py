"""Results on disk: a folder that appears whole, with the draws, a summary table, the model image and the figures.

:func:`save_results` writes the files of :func:`products`, or any others, into a folder beside the one asked for,
and renames it when it is complete.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import arviz as az
import numpy as np
from astropy.io import fits
from astropy.table import Table

from bayesprof import plots
from bayesprof.estimate import is_sky, lights_at, point_estimate
from bayesprof.group import within
from bayesprof.image import Image
from bayesprof.plots.columns import MOST_COLUMNS, Column, columns_of
from bayesprof.scene import Scene
from bayesprof.whole_file import replacing

RESULT_FILES = (
    "posterior.nc",
    "summary.ecsv",
    "corner.png",
    "residual.png",
    "profile.png",
    "model.fits",
    "settings.toml",
)
"""Names of the files that a folder of results may hold; a folder with any other isn't overwritten."""


class Saved(NamedTuple):
    """`directory`: where the results are; `failed`: for each file that couldn't be written, why."""

    directory: Path
    failed: dict[str, str]


def products(scene: Scene, result: Any, *, fit: Any = None) -> dict[str, Callable[[Path], object]]:
    """The files that document `result` (InferenceData or Fit) of `scene`: name to a function that writes it.

    `fit` : the Fit that draws were started from, drawn into their corner plot. Where all parameters are too many
    for one, it shows those of the first component.
    """
    files: dict[str, Callable[[Path], object]] = {}
    if hasattr(result, "posterior"):
        files["posterior.nc"] = lambda path: result.to_netcdf(str(path))
        files["corner.png"] = lambda path: plots.corner(result, names=_shown(scene, result), fit=fit, path=path)
    files["summary.ecsv"] = lambda path: summary_table(result, units=scene.units).write(path, format="ascii.ecsv")
    files["model.fits"] = lambda path: model_fits(scene, result, path)
    files["residual.png"] = lambda path: plots.residual(scene, result, path=path)
    files["profile.png"] = lambda path: plots.profile(scene, result, path=path)
    return files


def check_directory(directory: str | PathLike[str], *, overwrite: bool = False) -> Path:
    """`directory` as an absolute path, if results can be saved there; nothing is left behind by the check.

    Raises
    ------
    FileExistsError
        For a folder that exists, without `overwrite`; with it, for one that holds files other than results.
    OSError
        Where no folder can be made.
    """
    path = Path(directory).expanduser().resolve()
    if path.exists():
        if not overwrite:
            raise FileExistsError(f"'{directory}' exists already; choose another folder, or overwrite it (--overwrite)")
        others = (
            sorted(entry.name for entry in path.iterdir() if entry.name not in RESULT_FILES)
            if path.is_dir()
            else [path.name]
        )
        if others:
            raise FileExistsError(
                f"'{directory}' holds {others[0]!r}, which bayesprof didn't write, and isn't overwritten; choose "
                "another folder"
            )
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        _sibling(path).rmdir()
        for parent in made:
            parent.rmdir()
    except OSError as error:
        raise OSError(f"can't make a folder beside '{directory}' ({error.strerror}); choose another place") from error
    return path


def save_results(
    directory: str | PathLike[str], files: Mapping[str, Callable[[Path], object]], *, overwrite: bool = False
) -> Saved:
    """Write `files` into a new folder, which appears under its name when it is complete.

    Parameters
    ----------
    directory : str or path
        The folder; folders above it are made.
    files : mapping from names to functions
        Each function writes its file to the path it is called with.
    overwrite : bool
        Replace a folder of earlier results, once the new one is complete.

    Returns
    -------
    Saved
        A file that can't be written doesn't take the others with it: it is left out, and told in `failed`. Then an
        earlier folder isn't replaced, and the new one stands beside it, as ``Saved.directory`` says.

    Raises
    ------
    OSError
        As :func:`check_directory`, and where no file at all could be written.
    """
    path = check_directory(directory, overwrite=overwrite)
    partial = _sibling(path)
    failed = {}
    for name, write in files.items():
        try:
            write(partial / name)
        except Exception as error:  # whatever goes wrong in one file, the others hold hours of work
            (partial / name).unlink(missing_ok=True)
            failed[name] = " ".join(f"{type(error).__name__}: {error}".split())
        except KeyboardInterrupt as error:
            error.add_note(f"what was written so far is in {partial}")
            raise
    if len(failed) == len(files):
        partial.rmdir()
        raise OSError(
            f"none of the results could be written to '{directory}': {next(iter(failed.values()), 'no files')}"
        )
    if path.exists() and failed:
        return Saved(_renamed(partial, path.with_name(f"{path.name}.incomplete-{secrets.token_hex(3)}")), failed)
    if not path.exists():
        return Saved(_renamed(partial, path), failed)
    old = _renamed(path, path.with_name(f".{path.name}.old-{secrets.token_hex(3)}"))
    try:
        _renamed(partial, path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)
    return Saved(path, failed)


def summary_table(result: Any, *, units: Mapping[str, str] | None = None) -> Table:
    """One row per scalar parameter.

    For InferenceData: parameter, unit, median, sd, low and high (the 68% interval, quantiles 0.16 and 0.84), r_hat,
    ess_bulk, ess_tail; angles theta within a quarter turn of their circular mean. For a Fit: parameter, unit,
    value, std. The verdict, or how the fit ended, is in the table's meta.

    `units` : unit of each site, for a Fit; those of draws are in their attributes.
    """
    if not hasattr(result, "posterior"):
        table = result.table()
        unit = [(units or {}).get(name.split("[")[0], "") for name in table["parameter"]]
        table.add_column(unit, name="unit", index=1)
        table.meta.update(message=result.message, chi2=result.chi2, dof=result.dof)
        return table
    shape = (result.posterior.sizes["chain"], result.posterior.sizes["draw"])
    columns = columns_of(result, list(result.posterior.data_vars))
    rows = [(column.entry, column.unit, *_summary(column, shape)) for column in columns]
    names = ("parameter", "unit", "median", "sd", "low", "high", "r_hat", "ess_bulk", "ess_tail")
    return Table(rows=rows, names=names, meta={"verdict": result.attrs.get("verdict", "")})


def model_fits(scene: Scene, params: Any, path: str | PathLike[str]) -> None:
    """Write the model image at `params` (see :func:`bayesprof.estimate.point_estimate`) as FITS.

    The primary HDU, MODEL, is the noiseless model; RESIDUAL is data minus model, NaN where masked; one more for
    each component or part of one, by its name in capitals and, as given, under the key COMPNAME. All have the image's
    WCS, unit, band and zero point. Of a scene of several images there are the same for each, one after the other, with
    the name of the image under the key IMGNAME and its number as EXTVER.
    """
    values = point_estimate(scene, params)
    hdus: list[Any] = []
    for number, (name, image) in enumerate(scene.images.items(), 1):
        header = _header(image, scene)
        model = scene.predict(values, image=name)
        residual = np.where(image.mask.cpu(), np.nan, (image.data - model).cpu())
        first = fits.ImageHDU if hdus else fits.PrimaryHDU
        of_image = [first(model.cpu().numpy(), header=header), fits.ImageHDU(residual, header=header, name="RESIDUAL")]
        of_image[0].name = "MODEL"
        for component in [each for each, seen in scene.seen_in.items() if name in seen]:
            light = scene.predict(values, components=component, image=name).cpu().numpy()
            hdu = fits.ImageHDU(light, header=header, name=component)
            hdu.header["COMPNAME"] = component
            of_image.append(hdu)
        hdus += _numbered(of_image, number, scene)
    fits.HDUList(hdus).writeto(path, overwrite=True)


def deblended_fits(
    scene: Scene,
    params: Any,
    path: str | PathLike[str],
    *,
    components: str | Sequence[str] | None = None,
    overwrite: bool = False,
) -> None:
    """Write the image of each component with all others taken off (:meth:`bayesprof.Scene.deblended`) as FITS.

    An HDU for each, named as those of :func:`model_fits`: data minus the model of the others, NaN where masked, with
    the image's WCS, unit, band and zero point. SIGMA, where the image has noise, is the same for all. Of several images
    there are the same for each, as :func:`model_fits` has them.

    Parameters
    ----------
    scene : Scene
    params : as for :meth:`bayesprof.Scene.predict`
    path : str or path
    components : name or names of components, groups or parts, optional
        All that aren't a sky by default; a group that is named is one image.
    overwrite : bool
        Replace a file of that name, once the new one is complete.

    Raises
    ------
    FileExistsError
        For a file that exists, without `overwrite`.
    ValueError
        For a component that the scene doesn't have, and for none.
    """
    target = _free_path(path, overwrite)
    values = point_estimate(scene, params)
    if components is None:
        lights = {name: light for each in scene.images for name, light in lights_at(scene, values, each).items()}
        names = [name for name in scene.light_names if not is_sky(lights[name])]
    else:
        names = [components] if isinstance(components, str) else list(components)
    for name in names:
        if not any(within(light, name) for light in scene.light_names):
            raise ValueError(f"deblended_fits: the scene has no component {name!r}; it has {list(scene.light_names)}")
    if not names:
        raise ValueError("deblended_fits: expected a component that isn't a sky, got none; name one in components=")
    hdus: list[Any] = [fits.PrimaryHDU()]
    for number, (each, image) in enumerate(scene.images.items(), 1):
        header, mask = _header(image, scene), image.mask.cpu().numpy()
        of_image = []
        for name in names:
            if any(within(light, name) for light, seen in scene.seen_in.items() if each in seen):
                data = scene.deblended(name, values, image=each).data.cpu().numpy()
                of_image.append(fits.ImageHDU(np.where(mask, np.nan, data), header=header, name=name))
                of_image[-1].header["COMPNAME"] = name
        if image.sigma is not None:
            sigma = np.where(mask, np.nan, image.sigma.cpu().numpy())
            of_image.append(fits.ImageHDU(sigma, header=header, name="SIGMA"))
        hdus += _numbered(of_image, number, scene)
    with replacing(target) as partial:
        fits.HDUList(hdus).writeto(partial)


def write_table(table: Table, path: str | PathLike[str], *, overwrite: bool = False) -> None:
    """Write a table as ECSV or FITS, by the ending of `path`: ``.ecsv``, ``.fits`` or ``.fits.gz``.

    Parameters
    ----------
    table : astropy.table.Table
        As :func:`bayesprof.photometry` or :func:`summary_table` give it. Its meta goes with it; in FITS, keys longer
        than eight letters become HIERARCH cards, and descriptions of columns TCOMM cards.
    path : str or path
    overwrite : bool
        Replace a file of that name, once the new one is complete.

    Raises
    ------
    FileExistsError
        For a file that exists, without `overwrite`.
    ValueError
        For another ending.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_table(Table({"flux": [3.0]}), f"{folder}/photometry.ecsv")
    ...     Table.read(f"{folder}/photometry.ecsv")["flux"][0] == 3.0
    np.True_
    """
    target = _free_path(path, overwrite)
    if not target.name.endswith((".ecsv", ".fits", ".fits.gz")):
        raise ValueError(f"write_table: expected a file ending in .ecsv, .fits or .fits.gz, got '{path}'; rename it")
    with replacing(target) as partial:
        if target.suffix == ".ecsv":
            table.write(partial, format="ascii.ecsv")
            return
        hdu = fits.table_to_hdu(Table(table, meta={}))
        for i, name in enumerate(table.colnames, 1):
            if table[name].description:
                hdu.header[f"TCOMM{i}"] = table[name].description
        for key, value in table.meta.items():
            hdu.header[key if len(key) <= 8 else f"HIERARCH {key}"] = value
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(partial)


def _free_path(path: str | PathLike[str], overwrite: bool) -> Path:
    target = Path(path).expanduser()
    if target.exists() and not overwrite:
        raise FileExistsError(f"'{path}' exists already; choose another name, or pass overwrite=True")
    return target


def _header(image: Image, scene: Scene) -> fits.Header:
    """WCS, unit, band and zero point of an image, and its name where there are several."""
    header = fits.Header() if image.wcs is None else image.wcs.to_header(relax=True)
    known = {"BUNIT": image.unit, "FILTER": image.band, "MAGZERO": image.zeropoint}
    header.update({key: value for key, value in known.items() if value is not None})
    if len(scene.images) > 1:
        header["IMGNAME"] = image.name
    return header


def _numbered(hdus: list[Any], number: int, scene: Scene) -> list[Any]:
    """The HDUs of an image, with its `number` where there are several."""
    if len(scene.images) > 1:
        for hdu in hdus:
            hdu.ver = number
    return hdus


def _summary(column: Column, shape: tuple[int, int]) -> list[float]:
    """Median, sd, 68% interval, R-hat, bulk and tail ESS."""
    draws = column.draws.reshape(shape)
    low, median, high = np.quantile(draws, [0.16, 0.5, 0.84])
    with np.errstate(invalid="ignore", divide="ignore"):
        r_hat = float(az.rhat(draws)) if shape[0] > 1 else np.nan
        ess = [float(az.ess(draws, method=method)) for method in ("bulk", "tail")]
    return [float(median), float(draws.std(ddof=1)), float(low), float(high), r_hat, *ess]


def _shown(scene: Scene, post: Any) -> list[str] | None:
    """Sites for a corner plot: all (None), or those of the first component where that is too many."""
    first = next(iter(scene.components))
    if len(columns_of(post, None)) <= MOST_COLUMNS:
        return None
    return [column.site for column in columns_of(post, None) if column.site.startswith(f"{first}.")]


def _renamed(folder: Path, name: Path) -> Path:
    try:
        return folder.rename(name)
    except OSError as error:
        raise OSError(
            f"'{folder}' can't be renamed to '{name}' ({error.strerror}); the results are in a folder beside it"
        ) from error


def _sibling(path: Path) -> Path:
    """A new folder beside `path`, hidden, and those above it."""
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(3)}")
    partial.mkdir(parents=True)
    return partial

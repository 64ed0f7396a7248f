"""What a model draws, holds and computes, as a table to read before the first fit.

Of a component of the catalogue everything is known: units, the formulas of default priors, starting values. Of a
function of one's own there is what one run of it shows: its sites, their distributions and their supports.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from astropy.table import Table
from pyro import poutine
from pyro.distributions import constraints
from pyro.poutine.subsample_messenger import _Subsample

from bayesprof.held import HeldFunction
from bayesprof.image import Image
from bayesprof.light import Light
from bayesprof.models.component import BoundComponent, is_prior
from bayesprof.models.ellipticity import unit_disc
from bayesprof.scene import Scene

_WORTH_A_WORD = (float, torch.Tensor, torch.distributions.Distribution)  # of the arguments of a distribution
_WRITTEN = 6  # entries of an array that are written out


class Row(NamedTuple):
    """One site or held parameter: its name; "default", "given", "held" or "derived"; the prior, the value or the
    formula in words; where its values lie; where a fit starts; and the unit.
    """

    parameter: str
    kind: str
    prior: str
    support: str
    start: str
    unit: str


@dataclass(frozen=True)
class Description:
    """A table of what a model draws (`kind` "default" or "given"), holds and computes.

    Printed, it is the table with a line above it; in a notebook, an HTML table. `table` holds it as an astropy Table,
    one row per site, with columns parameter, kind, prior, support, start and unit.
    """

    title: str
    rows: tuple[Row, ...] = field(repr=False)

    @property
    def table(self) -> Table:
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(Row._fields)
        return Table([np.array(column, dtype=str) for column in columns], names=Row._fields)

    def __repr__(self) -> str:
        table = self.table
        lines = table.pformat(max_lines=-1, max_width=-1, align=["<"] * len(table.colnames)) if self.rows else []
        return "\n".join([self.title, *(line.rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        return f"<p>{self.title}</p>" + "\n".join(self.table.pformat(html=True, max_lines=-1, max_width=-1))


def describe(model: Any, image: Image | None = None) -> Description:
    """Every parameter of a component or a scene: its prior or held value, its unit, and where a fit starts.

    Parameters
    ----------
    model : Scene, component of the catalogue, one of :mod:`bayesprof.likelihoods`, or function
        A function is run once, its draws kept from everybody else: where it draws other sites on another run, those
        aren't shown.
    image : Image, optional
        Where default priors come from; needed by a component of the catalogue that isn't in a scene yet.

    Returns
    -------
    Description

    Raises
    ------
    TypeError
        For a component without an image, and for what is no model.

    Examples
    --------
    >>> import numpy as np, bayesprof as bp
    >>> from bayesprof import models
    >>> image = bp.Image(np.zeros((30, 40)), sigma=1.0)
    >>> models.describe(models.point_source(x=12.0, flux=50.0), image)
    point_source: 1 parameter to fit, 2 held
    parameter   kind              prior             support start    unit
    --------- ------- ----------------------------- ------- ----- ----------
    x         held    = 12                          finite        pixel
    y         default Normal(14.5, 1.5): measured y real    14.5  pixel
    flux      held    = 50                          finite        image unit
    """
    if isinstance(model, Scene):
        seen = ", ".join(model.images)
        parts = [(f"{name}.", component, _kind(component)) for name, component in model.drawn.items()]
        rows = [row for prefix, component, _ in parts for row in _rows(component, prefix)]
        kinds = ", ".join(f"{prefix[:-1]} ({kind})" for prefix, _, kind in parts)
        return _description(f"{kinds} on {seen}", rows)
    if hasattr(model, "bind"):
        if image is None:
            raise TypeError(
                f"describe: the default priors of {model.kind} come from an image; give it as describe(component, "
                "image), or describe the Scene"
            )
        model = model.bind(image)
    if isinstance(model, Light) or not callable(model):
        raise TypeError(
            "describe: expected a Scene, a component like models.sersic(), or a function that draws with pyro.sample, "
            f"got {type(model).__name__}; a light has no priors, wrap it in a function that draws its parameters"
        )
    return _description(_kind(model), _rows(model, ""))


def _description(title: str, rows: list[Row]) -> Description:
    drawn = [row for row in rows if row.kind in ("default", "given")]
    held = sum(row.kind == "held" for row in rows)
    numbers = f"{len(drawn)} parameter{'s' * (len(drawn) != 1)} to fit"
    return Description(f"{title}: {numbers}, {held} held", tuple(rows))


def _kind(component: Callable[..., Any]) -> str:
    if isinstance(component, BoundComponent):
        return component.component.kind
    return getattr(component, "__name__", type(component).__name__)


def _rows(component: Callable[..., Any], prefix: str) -> list[Row]:
    rows = _catalogued(component) if isinstance(component, BoundComponent) else _traced(component)
    return [row._replace(parameter=prefix + row.parameter) for row in rows]


def _catalogued(bound: BoundComponent) -> list[Row]:
    units = bound.units
    rows = []
    for name, site in bound.sites.items():
        if is_prior(site.source):
            kind = "default" if site.formula else "given"
            prior = site.formula or formula(site.source)
            rows.append(Row(name, kind, prior, support_of(site.source), _start(site.start), units[name]))
        else:
            rows.append(Row(name, "held", f"= {_written(site.source)}", site.allowed, "", units[name]))
    return rows + [
        Row(name, "derived", meaning, "", "", units[name]) for name, (_, meaning, _) in bound.recorded.items()
    ]


def _traced(function: Callable[..., Any]) -> list[Row]:
    """What is held of a user's own function, and the sites of one run of it."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), poutine.block():
        nodes = poutine.trace(function).get_trace().nodes
    values = function.values if isinstance(function, HeldFunction) else {}
    rows = [Row(name, "held", f"= {_written(value)}", "", "", "") for name, value in values.items()]
    for name, node in nodes.items():
        if node["type"] != "sample" or isinstance(node["fn"], _Subsample):
            continue
        if (node["infer"] or {}).get("_deterministic"):
            rows.append(Row(name, "derived", "computed by the function", "", "", ""))
        elif not node["is_observed"]:
            rows.append(Row(name, "given", formula(node["fn"]), support_of(node["fn"]), "", ""))
    return rows


def formula(prior: Any) -> str:
    """A distribution in words: its name and its parameters.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> formula(dist.LogNormal(0.7, 0.4))
    'LogNormal(loc=0.7, scale=0.4)'
    """
    base = prior
    while isinstance(base, pyro.distributions.Independent | pyro.distributions.ExpandedDistribution):
        base = base.base_dist
    takes = inspect.signature(type(base).__init__).parameters.values()
    # an argument with a default may be one of several ways to say the same: what was given is stored, the rest computed
    given = [one.name for one in takes if one.default is one.empty or one.name in vars(base)]
    values = {name: getattr(base, name) for name in given if name != "self" and hasattr(base, name)}
    arguments = [f"{name}={_argument(value)}" for name, value in values.items() if isinstance(value, _WORTH_A_WORD)]
    if not arguments and isinstance(base, torch.distributions.TransformedDistribution):
        arguments = [formula(base.base_dist), *(type(one).__name__ for one in base.transforms)]
    return f"{type(base).__name__}({', '.join(arguments)})"


def _argument(value: Any) -> str:
    return formula(value) if isinstance(value, torch.distributions.Distribution) else _written(value)


def support_of(prior: Any) -> str:
    """Where the values of a distribution lie, in words.

    Examples
    --------
    >>> import pyro.distributions as dist
    >>> support_of(dist.LogNormal(0.7, 0.4)), support_of(dist.Uniform(0.2, 1.0))
    ('> 0', '0.2 to 1')
    """
    support = prior.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is unit_disc:
        return "shorter than 1"
    low, high = (_common(getattr(support, bound, None)) for bound in ("lower_bound", "upper_bound"))
    if low is not None and high is not None:
        return f"{_written(low)} to {_written(high)}"
    if low is not None:
        sign = ">" if isinstance(support, constraints.greater_than) else ">="
        return f"{sign} {_written(low)}"
    if high is not None:
        return f"< {_written(high)}"
    return {"Real": "real", "Simplex": "simplex"}.get(type(support).__name__.strip("_"), str(support))


def _common(bound: Any) -> Any:
    """A bound, or the number that all bounds in an array are."""
    alike = isinstance(bound, torch.Tensor) and bound.ndim > 0 and bool((bound == bound.flatten()[0]).all())
    return bound.flatten()[0] if alike else bound


def _start(value: Any) -> str:
    return "" if value is None else _written(value)


def _written(value: Any) -> str:
    """A number to four digits, or an array of a few; of more, its shape."""
    array = np.asarray(torch.as_tensor(value).detach().cpu(), dtype=float)
    if array.ndim == 0:
        return f"{float(array):.4g}"
    if array.size > _WRITTEN:
        return f"array of shape {array.shape}"
    return "(" + ", ".join(f"{float(entry):.4g}" for entry in array.ravel()) + ")"

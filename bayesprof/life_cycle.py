"""Recipes of the scenes that are made of a scene: with components added, parameters held, and other starting values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bayesprof.assembling import Assembly
from bayesprof.group import within
from bayesprof.images import Images
from bayesprof.only_in import OnlyIn
from bayesprof.recipe import Recipe, checked_windows
from bayesprof.values import site_values


def with_added(assembly: Assembly, components: Mapping[str, Any], windows: Any, fit: Any) -> Recipe:
    """What :meth:`bayesprof.Scene.add` makes: with more components, measured on what a `fit` leaves over."""
    if not components:
        raise ValueError("add: expected a component to add, got none; add one as a keyword: star=models.sersic()")
    images = assembly.images
    recipe = assembly.recipe.with_components(components, checked_windows(windows, images.first))
    if fit is None:
        return recipe
    known = {site: value for site, value in site_values(fit).items() if site in assembly.sites.names}
    left = images.minus(assembly.predicted(known, None))
    measured = dict(recipe.components)
    for name, given in recipe.components.items():
        if name not in assembly.components:
            component: Any = given.component if isinstance(given, OnlyIn) else given
            seen = left.only(recipe.seen_in(name).seen_names)
            found = _measured(component, seen, recipe, name)
            measured[name] = replace(given, component=found) if isinstance(given, OnlyIn) else found
    return replace(recipe, components=measured)


def _measured(component: Any, images: Images, recipe: Recipe, name: str) -> Any:
    """A component, or the members of one, measured on `images`, where it isn't yet."""
    if hasattr(component, "members"):
        members = component.members.items()
        return component.of({one: _measured(part, images, recipe, f"{name}.{one}") for one, part in members})
    if not hasattr(component, "measured_as") or component.found is not None:
        return component
    found = images.measured(None, recipe.window_of(name))
    return component.measured_as(found[0] if len(images.names) == 1 else found)


def started(assembly: Assembly, fit: Any) -> Recipe:
    """What :meth:`bayesprof.Scene.started_from` makes: with other starting values."""
    sites = assembly.sites
    strange = [name for name in fit if name not in sites.names] if isinstance(fit, Mapping) else []
    if strange and not hasattr(fit, "posterior"):  # InferenceData are mappings too
        raise ValueError(f"started_from: the scene has no parameter {strange}; it has {list(sites.latent)}")
    given = {site: value for site, value in site_values(fit).items() if site in sites.priors}
    recipe = assembly.recipe
    return replace(recipe, starts={**recipe.starts, **sites.checked(given, "started_from")})


def frozen(assembly: Assembly, names: str | Sequence[str], fit: Any) -> Recipe:
    """What :meth:`bayesprof.Scene.freeze` makes: with parameters held."""
    recipe, sites = assembly.recipe, assembly.sites
    chosen: set[str] = set()
    for name in [names] if isinstance(names, str) else names:
        found = {site for site in sites.latent if any(within(site, one) for one in recipe.whole(name))}
        if not found:
            raise ValueError(
                f"freeze: expected names of components or of parameters that are drawn, got {name!r}; there are "
                f"{list(sites.latent)}"
            )
        chosen |= found
    values = site_values(fit)
    missing = [site for site in sites.latent if site in chosen and site not in values]
    if missing:
        raise ValueError(f"freeze: expected a value for {missing} in fit, got none; give a fit of this scene")
    held = {site: values[site] for site in sites.latent if site in chosen}
    return recipe.holding(sites.checked(held, "freeze"))

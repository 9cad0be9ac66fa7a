"""Recipes as plain dictionaries: find them by name, read them, fit them to the data at hand."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import yaml

from rsgeo_gan.errors import CatalogError

__all__ = [
    "find_recipe",
    "fit_channels",
    "fit_networks",
    "read_recipe",
    "recipe_directions",
    "recipe_names",
    "with_overrides",
]

Scalar = str | int | float | bool | None

_AROUND = ("base", "network", "content")
"""Arguments by which a network is given the one it is built around."""

_Tell = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""What a task's class tells of a task built with these arguments."""


def recipe_names() -> list[str]:
    """List the recipes that come with the package."""
    folder = files("rsgeo_gan") / "recipes"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def find_recipe(name: str) -> Path:
    """Find a recipe by the name it has in the package, or by its path.

    Raises:
        CatalogError: If there is neither such a recipe nor such a file; lists the known names.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return path
    packaged = Path(str(files("rsgeo_gan") / "recipes" / f"{name}.yaml"))
    if packaged.parent.name == "recipes" and packaged.is_file():
        return packaged
    known = ", ".join(recipe_names()) or "none"
    raise CatalogError(
        f"Recipe {name!r} not found: expected the path of a YAML file or one of the package's recipes ({known})."
    )


def read_recipe(name: str) -> dict[str, Any]:
    """Read a recipe as the dictionary LightningCLI would get.

    Raises:
        CatalogError: If the recipe is missing, is not YAML or has no `model`.
    """
    path = find_recipe(name)
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CatalogError(f"Recipe {path} is not readable as YAML: {error}") from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("model"), dict):
        raise CatalogError(
            f"Recipe {path} has no mapping `model`; expected `class_path` and `init_args` as LightningCLI does."
        )
    return recipe


def with_overrides(recipe: Mapping[str, Any], overrides: Mapping[str, Scalar]) -> dict[str, Any]:
    """Return a copy of the recipe with values replaced by their dotted keys.

    `init_args` may be left out, as on LightningCLI's command line: `model.weights.pair` reaches
    `model.init_args.weights.pair`.

    Raises:
        CatalogError: If a key passes through something that is not a mapping.
    """
    out = copy.deepcopy(dict(recipe))
    for key, value in overrides.items():
        node: dict[str, Any] = out
        parts = key.split(".")
        for part in parts[:-1]:
            node = _child(_arguments(node, part), part, key)
        _arguments(node, parts[-1])[parts[-1]] = value
    return out


def fit_channels(recipe: Mapping[str, Any], source_bands: int, target_bands: int) -> dict[str, Any]:
    """Return a copy of the recipe whose networks take and give the band counts of the tiles of pairs.

    Raises:
        CatalogError: If the recipe's task cannot be imported.
    """
    return fit_networks(recipe, {"source": source_bands, "target": target_bands})


def fit_networks(
    recipe: Mapping[str, Any], counts: Mapping[str, int], values: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a copy of the recipe whose networks have the numbers of the data.

    The recipe's task says what its networks count (`channels`, see `TranslationTask` and `ImageSynthesis`); of these
    only networks that the recipe names are touched, and numbers only whose counts are all known. A network around
    another one (`base`, `network` or `content`) has the numbers of that one; one inside another is named with a dot.
    A task that does not say so keeps the numbers of its recipe.

    Args:
        recipe: The recipe.
        counts: By what is counted: bands of "source", "target", "image" or "reference", pairs of "common" bands,
            entries of a "condition", pixels along a "patch", the "scale" of a super-resolution.
        values: Arguments by name that replace those of networks which have them, such as `common`.

    Raises:
        CatalogError: If the recipe's task cannot be imported.
    """
    out = copy.deepcopy(dict(recipe))
    arguments = out["model"]["init_args"] = out["model"].get("init_args") or {}
    channels: _Tell = getattr(_task_of(recipe), "channels", lambda _: {})
    for name in values or {}:
        _replace(arguments, name, (values or {})[name])
    for network, wanted in channels(arguments).items():
        found = _named(arguments, network)
        if found is not None:
            sizes = _innermost(found)
            sizes.update(
                {
                    name: sum(counts[part] for part in parts)
                    for name, parts in wanted.items()
                    if counts.keys() >= {*parts}
                }
            )
    return out


def _innermost(network: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a network, or of the one it is built around."""
    arguments: dict[str, Any] = network.get("init_args") or {}
    network["init_args"] = arguments
    base: dict[str, Any] = next((arguments[name] for name in _AROUND if isinstance(arguments.get(name), dict)), {})
    return _innermost(base) if "class_path" in base else arguments


def _named(arguments: Mapping[str, Any], path: str) -> dict[str, Any] | None:
    """Find a network by its name, or by those of the networks that it is in; None where the recipe has none."""
    node: Any = arguments
    for name in path.split("."):
        node = (node.get("init_args") or {}).get(name) if "class_path" in node else node.get(name)
        if not isinstance(node, dict):
            return None
    return cast(dict[str, Any], node)


def _replace(node: Any, name: str, value: Any) -> None:
    """Replace an argument wherever networks have it."""
    for key, held in node.items() if isinstance(node, dict) else ():
        if key == name:
            node[key] = copy.deepcopy(value)
        else:
            _replace(held, name, value)


def recipe_directions(name: str, overrides: Mapping[str, Scalar]) -> tuple[str, ...]:
    """Return the directions that a recipe's task translates in; empty where the task does not say.

    Raises:
        CatalogError: If the recipe or its task is not there.
    """
    recipe = with_overrides(read_recipe(name), overrides)
    directions: _Tell = getattr(_task_of(recipe), "directions", lambda _: {})
    return tuple(directions(recipe["model"].get("init_args") or {}))


def _task_of(recipe: Mapping[str, Any]) -> type:
    """Import the class of a recipe's task, which takes seconds: torchgeo comes along."""
    path = str(recipe["model"].get("class_path"))
    module, _, name = path.rpartition(".")
    try:
        found: type = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CatalogError(
            f"The recipe's task {path} cannot be imported ({error}); expected `model.class_path` such as "
            "rsgeo_gan.tasks.CycleTranslation."
        ) from error
    return found


def _arguments(node: dict[str, Any], key: str) -> dict[str, Any]:
    """Step into `init_args` where the key belongs there."""
    if "class_path" in node and key not in {"class_path", "init_args", "dict_kwargs"}:
        arguments: dict[str, Any] = node.setdefault("init_args", {})
        return arguments
    return node


def _child(node: dict[str, Any], part: str, key: str) -> dict[str, Any]:
    child = node.setdefault(part, {})
    if not isinstance(child, dict):
        raise CatalogError(
            f"Override {key!r}: {part!r} is {child!r}, not a mapping; expected a dotted key such as "
            "`trainer.max_epochs` or `model.weights.pair`."
        )
    return child

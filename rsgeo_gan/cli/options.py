"""Options that several commands share, and the reading of their values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import typer
import yaml

from rsgeo_gan.chain import DIRECTIONS, Direction, Job
from rsgeo_gan.training import MODES, Mode

__all__ = [
    "CatalogOption",
    "DirectionOption",
    "OutOption",
    "RecipeOption",
    "SetOption",
    "TrainOption",
    "make_job",
    "read_directions",
    "read_numbers",
    "read_settings",
    "read_train",
    "refuse",
]

CatalogOption = Annotated[
    str, typer.Option("--catalog", "-c", help="Catalogue: a YAML file, or a name such as `sample`.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Output folder; a second call finishes what is missing.")]
TrainOption = Annotated[
    str,
    typer.Option("--train", metavar="|".join(MODES), help="When to train; if_missing keeps a published checkpoint."),
]
DirectionOption = Annotated[
    str,
    typer.Option(
        "--direction", metavar="|".join((*DIRECTIONS, "both")), help="What to generate; default: the catalogue's own."
    ),
]
RecipeOption = Annotated[str, typer.Option("--recipe", help="Recipe name or YAML; default: the catalogue's own.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Replace a catalogue entry, e.g. limits.max_failed_share=0.2."),
]


def read_settings(pairs: Sequence[str] | None) -> dict[str, Any]:
    """Read KEY=VALUE pairs, values as YAML."""
    out: dict[str, Any] = {}
    for pair in pairs or ():
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise typer.BadParameter(f"expected KEY=VALUE, got {pair!r}", param_hint="--set")
        try:
            out[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"the value of {pair!r} is not YAML", param_hint="--set") from error
    return out


def make_job(catalog: str, out: Path, train: str, direction: str, recipe: str, settings: dict[str, Any]) -> Job:
    """Describe a run by what the command line was given."""
    return Job(
        catalog,
        str(out),
        train=read_train(train),
        directions=read_directions(direction),
        recipe=recipe,
        settings=settings,
    )


def read_train(train: str) -> Mode:
    """Read a training mode."""
    if train not in MODES:
        raise typer.BadParameter(f"expected one of {', '.join(MODES)}, got {train!r}", param_hint="--train")
    return train


def read_directions(direction: str) -> tuple[Direction, ...]:
    """Read a direction, or "both"; nothing leaves the choice to the catalogue."""
    if direction not in ("", "both", *DIRECTIONS):
        raise typer.BadParameter(
            f"expected one of {', '.join(DIRECTIONS)}, both; got {direction!r}", param_hint="--direction"
        )
    return DIRECTIONS if direction == "both" else (cast("Direction", direction),) if direction else ()


def refuse(context: typer.Context, beside: str, *names: str) -> None:
    """Refuse options that mean nothing beside another."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            option = "--set" if name == "settings" else f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"has no meaning beside {beside}", param_hint=option)


def read_numbers(text: str | None, option: str) -> list[int] | None:
    """Read band numbers such as `3,4`."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"expected band numbers such as 3,4; got {text!r}", param_hint=option) from error

"""The catalogue of a synthesis: what is collected, what is trained on it, which images are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rsgeo_gan.catalog.collecting import CollectSpec
from rsgeo_gan.catalog.models import Limits, Scalar, Training, _Model

__all__ = ["DeclaredGrid", "Scoring", "SynthesisCatalog", "SynthesisTraining", "SyntheticProducts"]


class SynthesisTraining(Training):
    """What is trained on the collected images."""

    recipe: str = Field(default="synthesis", description="Name of a packaged recipe, or path of a YAML.")


class DeclaredGrid(_Model):
    """A grid for images that belong to no place: cells next to each other, one image in each."""

    crs: str = Field(description='CRS such as "EPSG:32632".')
    origin: tuple[float, float] = Field(
        description="Easting and northing of the upper-left corner of the first image, CRS units."
    )
    gsd_m: float | None = Field(default=None, gt=0, description="Pixel size, CRS units; none: that of the training.")
    columns: int = Field(
        default=8, ge=1, description="Cells side by side for each class; more images go below, classes go eastward."
    )


class SyntheticProducts(_Model):
    """Which images are made from noise."""

    count: int = Field(default=16, ge=1, description="Images of each class; of all together without classes.")
    classes: tuple[str, ...] = Field(default=(), description="Classes to make; empty: all that the model knows.")
    conditions: dict[str, Scalar] = Field(
        default_factory=dict, description="Values of further conditions, by name; others are those of the tile."
    )
    seed: int = Field(default=0, ge=0, description="Seed of the noise; each image has one of its own derived from it.")
    truncation: float = Field(
        default=1.0, ge=0, le=2, description="1 keeps the whole variety, 0 gives the average image of the conditions."
    )
    latent: Literal["noise", "tile"] = Field(
        default="noise", description="Where images come from: noise, or the encoded tile (models with an encoder)."
    )
    split: Literal["train", "val", "test", "all"] = Field(
        default="train", description="Tiles that give place and conditions."
    )
    grid: DeclaredGrid | None = Field(default=None, description="Where images are put; none: on the cells of tiles.")


class Scoring(_Model):
    """How products are compared with real tiles."""

    split: Literal["train", "val", "test"] | None = Field(
        default=None, description="Real tiles compared with; none: all, since few are held out."
    )
    backend: str = Field(default="random-conv", description="Feature network of the distances.")
    weights: Path | None = Field(default=None, description="Local file of its weights.")
    judge: Literal["none", "quick", "published"] = Field(
        default="none", description="How judges of the relative discriminative score are trained; none: no such score."
    )
    draws: int = Field(default=20, ge=2, description="Random halves behind an interval.")
    most: int = Field(default=1000, ge=10, description="Most tiles and images read.")


class SynthesisCatalog(_Model):
    """Everything a synthesis needs to know about its data."""

    kind: Literal["synthesis"] = Field(description="Says that this is the catalogue of a synthesis.")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Short name; lower case, digits, dashes.")
    description: str = Field(default="", description="What the data are, for people.")
    root: Path | None = Field(
        default=None, description="Folder that relative paths start from; none: the catalogue file's folder."
    )
    collect: CollectSpec = Field(description="Which images are imitated.")
    conditions: tuple[str | dict[str, Any], ...] = Field(
        default=(),
        description="What images can be asked for: label, day (of the year), names of item properties, or whole "
        "descriptions; none: nothing.",
    )
    training: SynthesisTraining = Field(default=SynthesisTraining(), description="What is trained.")
    products: SyntheticProducts = Field(default=SyntheticProducts(), description="Which images are made.")
    scoring: Scoring = Field(default=Scoring(), description="How products are compared with real tiles.")
    limits: Limits = Field(default=Limits(max_failed_share=0.0), description="How much may fail.")

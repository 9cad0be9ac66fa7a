"""The catalogue of a synthesis: what is collected, what is trained on it, which images are made."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rsgeo_gan.catalog.models import Scalar, _Model

__all__ = ["DeclaredGrid", "SyntheticProducts"]


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

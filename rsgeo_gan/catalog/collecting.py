"""What a collection of single images is made of: where images come from, what labels them, how they are cut."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rsgeo_gan.catalog.models import _Model
from rsgeo_gan.errors import SourceError
from rsgeo_gan.sensors import SENSORS, get_sensor

__all__ = [
    "CollectSpec",
    "CoverLabels",
    "FolderImages",
    "FolderLabels",
    "SampleImages",
    "SceneImages",
    "TileImages",
]


class FolderImages(_Model):
    """Rasters in a folder, georeferenced or not, in any format GDAL reads."""

    kind: Literal["folder"] = Field(description="Rasters on this machine.")
    path: Path = Field(description="Folder of the rasters.")
    glob: str = Field(default="**/*", description="Pattern of the rasters' paths within the folder.")
    name_regex: str | None = Field(
        default=None,
        description="Searched in the relative path, for images of one file per band; groups `scene` and `band`. Files "
        "that it does not fit, or of bands that are not wanted, are left out.",
    )
    sensor: str | dict[str, Any] | None = Field(
        default=None, description="Name of a registered sensor, or a mapping of facts; none: told from the first file."
    )
    file_bands: tuple[str, ...] = Field(
        default=(), description="Band names in file order, for files that do not name their bands as the sensor does."
    )
    bands: tuple[str, ...] = Field(default=(), description="Names of the bands wanted, in order; empty: all.")
    offset_dn: float = Field(
        default=0.0, description="Radiometric offset added to valid DNs (Sentinel-2 since baseline 04.00: -1000)."
    )
    gsd_m: float | None = Field(
        default=None,
        gt=0,
        description="Pixel size of images without georeference, metres; none: such images are left out.",
    )
    datetime: str | None = Field(
        default=None, description="Time of all images, ISO 8601; none: from tags or names, else not known."
    )
    splits: dict[Literal["train", "val", "test"], Path] = Field(
        default_factory=dict,
        description="Text files that list the images of each split, a path or a name a line; endings do not matter.",
    )

    @field_validator("name_regex")
    @classmethod
    def _groups(cls, pattern: str | None) -> str | None:
        try:
            groups = set(re.compile(pattern or "").groupindex)
        except re.error as error:
            raise ValueError(f"a regular expression ({error})") from error
        if pattern is not None and groups != {"scene", "band"}:
            raise ValueError("the groups (?P<scene>…) and (?P<band>…)")
        return pattern

    @field_validator("sensor")
    @classmethod
    def _known(cls, sensor: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        try:
            if sensor is not None:
                get_sensor(sensor)
        except SourceError as error:
            why = "" if isinstance(sensor, str) else f" ({error})"
            raise ValueError(f"one of {', '.join(sorted(SENSORS))}, or a mapping of facts{why}") from error
        return sensor


class SceneImages(_Model):
    """Scenes that `ingest` has made readable, with their cloud masks and radiometric offsets."""

    kind: Literal["scenes"] = Field(description="Scenes of an earlier ingest.")
    path: Path = Field(description="The item collection `scenes.json`, or its folder.")
    side: Literal["source", "target"] | None = Field(default=None, description="Only scenes of this side; none: all.")


class SampleImages(_Model):
    """The embedded synthetic landscape, whose land cover is known."""

    kind: Literal["sample"] = Field(description="The embedded synthetic scenes.")
    side: Literal["source", "target"] = Field(default="source", description="Optical (source) or radar (target).")
    size_px: int = Field(default=1024, ge=128, description="Width and height of a scene in 10 m pixels.")
    n_dates: int = Field(default=1, ge=1, description="Number of dates.")
    seed: int = Field(default=7, ge=0, description="Seed of the landscape.")


class TileImages(_Model):
    """Tiles that exist already: of pairs, of which one side is taken, or of single images."""

    kind: Literal["tiles"] = Field(description="An existing tile collection; its splits are kept.")
    path: Path = Field(description="The item collection, or its folder.")
    side: Literal["image", "source", "target"] = Field(default="image", description="Asset that holds the image.")


class FolderLabels(_Model):
    """The class is the sub-folder an image lies in."""

    kind: Literal["folder"] = Field(description="One sub-folder for each class.")


class CoverLabels(_Model):
    """The class is the land cover of most of an image."""

    kind: Literal["cover"] = Field(description="A raster of classes.")
    path: Path | None = Field(
        default=None, description="Class raster, or folder of them; none: the land cover of the sample."
    )
    glob: str = Field(default="**/*.tif", description="Pattern of the class rasters' paths within the folder.")
    legend: dict[int, str] = Field(
        default_factory=dict,
        description="Class of each value; several values may be one class, others are none. Empty: each value is one.",
    )
    min_share: float = Field(default=0.6, gt=0, le=1, description="Least share of an image that its class covers.")


Images = Annotated[FolderImages | SceneImages | SampleImages | TileImages, Field(discriminator="kind")]
Labels = Annotated[FolderLabels | CoverLabels, Field(discriminator="kind")]


class CollectSpec(_Model):
    """A collection of images of one size, each with its class and split."""

    images: Images = Field(description="Where the images come from.")
    labels: Labels | None = Field(
        default=None, description="What labels them; none: nothing (sample: its land cover; tiles: their own labels)."
    )
    tile_px: int = Field(default=64, ge=8, description="Width and height of a tile, pixels; larger images are cut.")
    min_valid: float = Field(default=0.95, gt=0, le=1, description="Least share of valid pixels of a tile.")
    min_tiles: int = Field(default=8, ge=1, description="Fewest training tiles that are worth going on with.")
    val_share: float = Field(default=0.15, ge=0, lt=1, description="Share kept for validation.")
    test_share: float = Field(default=0.15, ge=0, lt=1, description="Share kept for testing.")
    block_tiles: int = Field(
        default=4,
        ge=1,
        description="Width of a block of the spatial split, tiles; images at no known place are split by class.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the split.")
    max_failed_share: float = Field(
        default=0.5, ge=0, le=1, description="Share of unreadable images above which collecting fails."
    )

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.val_share + self.test_share >= 1:
            raise ValueError("val_share + test_share < 1, so that something is left to train on")
        if isinstance(self.labels, FolderLabels) and not isinstance(self.images, FolderImages):
            raise ValueError("labels of kind folder only with images of kind folder")
        if isinstance(self.labels, FolderLabels) and getattr(self.images, "name_regex", None):
            raise ValueError("no labels of kind folder where `name_regex` groups the files")
        if (
            isinstance(self.labels, CoverLabels)
            and self.labels.path is None
            and not isinstance(self.images, SampleImages)
        ):
            raise ValueError("labels.path: a class raster, since only the sample brings its own")
        return self

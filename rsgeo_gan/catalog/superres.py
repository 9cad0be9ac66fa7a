"""The catalogue of a super-resolution: which fine images are learnt from, what lies beside them, what is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rsgeo_gan.catalog.collecting import CollectSpec, FolderImages, SampleImages, SceneImages
from rsgeo_gan.catalog.models import Limits, Training, _Model
from rsgeo_gan.optics import MTF

__all__ = [
    "Coarse",
    "DegradationSettings",
    "OtherDates",
    "References",
    "SamplePan",
    "SuperresCatalog",
    "SuperresCollect",
    "SuperresProducts",
    "SuperresTraining",
]

MOST_REFERENCES = 4


class OtherDates(_Model):
    """Other images of the collection itself that show the same place, the nearest in time first."""

    kind: Literal["dates"] = Field(description="Other images of the same collection.")


class SamplePan(_Model):
    """A sharper panchromatic image of the embedded landscape, displaced by a known amount."""

    kind: Literal["sample"] = Field(description="The embedded synthetic scenes.")
    days: int = Field(default=36, ge=0, description="Days after the first scene; crops follow the season.")


Beside = Annotated[FolderImages | SceneImages | OtherDates | SamplePan, Field(discriminator="kind")]
Given = Annotated[FolderImages | SceneImages, Field(discriminator="kind")]


class _Placed(_Model):
    """How further images are put onto the grid of the images."""

    align: bool = Field(
        default=True, description="Measure where their content lies relative to the images; else trust georeferences."
    )
    max_shift_px: float = Field(
        default=12.0, gt=0, le=256, description="Largest displacement looked for, pixels of the images."
    )
    shift_m: tuple[float, float] | None = Field(
        default=None,
        description="Known displacement of their content, east and north, CRS units of the images; none: measured.",
    )


class References(_Placed):
    """Sharp images of the same places, of another date or sensor; they may have fewer bands."""

    images: Beside = Field(description="Where they come from.")
    count: int = Field(default=1, ge=1, le=MOST_REFERENCES, description="Most references of a tile from here.")
    min_valid: float = Field(
        default=0.5, gt=0, le=1, description="Least share of a tile that a reference shows; else it has none."
    )
    mtf: float | None = Field(
        default=MTF,
        gt=0,
        lt=1,
        description="Contrast at the Nyquist frequency of the images that finer references are brought to; none: plain "
        "anti-aliased resampling.",
    )


class Coarse(_Placed):
    """Real images of the same places from a coarser instrument."""

    images: Given = Field(description="Where they come from.")


class SuperresCollect(CollectSpec):
    """Tiles of fine images, with what lies beside them."""

    tile_px: int = Field(default=128, ge=16, description="Width and height of a tile, fine pixels.")
    scale: int = Field(default=4, ge=2, le=32, description="Fine pixels per coarse pixel.")
    low: Coarse | None = Field(
        default=None, description="Real coarse images; none: they are made from the fine ones, see `degradation`."
    )
    references: tuple[References, ...] = Field(default=(), description="Where references come from; none: nothing.")
    common: tuple[tuple[int, int], ...] = Field(
        default=(),
        description="Pairs of a band of the images and one of the references, counted from 0, that show the same; "
        "empty: those of one name.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.tile_px % self.scale:
            raise ValueError(f"tile_px ({self.tile_px}) to be a whole multiple of scale ({self.scale})")
        count = sum(source.count for source in self.references)
        if count > MOST_REFERENCES:
            raise ValueError(f"at most {MOST_REFERENCES} references of a tile in all, counted over their sources")
        if any(isinstance(source.images, SamplePan) for source in self.references) and not (
            isinstance(self.images, SampleImages) and self.images.side == "source"
        ):
            raise ValueError("references of kind sample only beside the optical images of the sample")
        return self


class DegradationSettings(_Model):
    """How coarse images are made from fine ones."""

    mtf: float | tuple[float, ...] | None = Field(
        default=MTF,
        description="Contrast at the coarse Nyquist frequency, for all bands or for each; none: plain means.",
    )
    noise: float = Field(
        default=0.0, ge=0, description="Standard deviation of noise; the range of the training values is 2."
    )

    @field_validator("mtf")
    @classmethod
    def _possible(cls, mtf: float | tuple[float, ...] | None) -> float | tuple[float, ...] | None:
        values = () if mtf is None else mtf if isinstance(mtf, tuple) else (mtf,)
        if not all(0 < value < 1 for value in values):
            raise ValueError("values between 0 and 1")
        return mtf


class SuperresTraining(Training):
    """What is trained on the tiles."""

    recipe: str = Field(default="superres-small", description="Name of a packaged recipe, or path of a YAML.")


class SuperresProducts(_Model):
    """Which tiles are sharpened."""

    split: Literal["train", "val", "test", "all"] = Field(default="test", description="Tiles that are sharpened.")
    most: int | None = Field(default=None, ge=1, description="Most tiles sharpened; none: all of the split.")
    uncertainty: int = Field(
        default=4, ge=0, le=8, description="Turned copies whose spread is written as uncertainty; 0: none."
    )
    window_px: int = Field(default=192, ge=16, description="Core of a window, coarse pixels.")


class SuperresCatalog(_Model):
    """Everything a super-resolution needs to know about its data."""

    kind: Literal["superres"] = Field(description="Says that this is the catalogue of a super-resolution.")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Short name; lower case, digits, dashes.")
    description: str = Field(default="", description="What the data are, for people.")
    root: Path | None = Field(
        default=None, description="Folder that relative paths start from; none: the catalogue file's folder."
    )
    collect: SuperresCollect = Field(description="Which images are learnt from, and what lies beside them.")
    degradation: DegradationSettings | None = Field(
        default=None, description="How coarse images are made; none: real ones where there are any, else the usual way."
    )
    training: SuperresTraining = Field(default=SuperresTraining(), description="What is trained.")
    products: SuperresProducts = Field(default=SuperresProducts(), description="Which tiles are sharpened.")
    limits: Limits = Field(default=Limits(max_failed_share=0.0), description="How much may fail.")

"""The frozen models of a catalogue: what each key means, its unit and its default."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from rsgeo_gan.errors import SourceError
from rsgeo_gan.sensors import SENSORS, Sensor, get_sensor

__all__ = [
    "Area",
    "Catalog",
    "FolderSide",
    "GridSettings",
    "Limits",
    "Pairing",
    "Period",
    "Products",
    "SampleSide",
    "Scalar",
    "Side",
    "StacSide",
    "Tiling",
    "Training",
]

Scalar = bool | int | float | str
"""A value a recipe setting may be overridden with."""

Direction = Literal["source_to_target", "target_to_source"]

QUERY_OPERATORS = ("eq", "neq", "lt", "lte", "gt", "gte", "in")
"""Comparisons of item properties that a catalogue may ask for."""

SCL_INVALID = (0, 1, 3, 8, 9, 10)
"""Classes of the Sentinel-2 scene classification that are no ground: no data, saturated, cloud shadow,
cloud of medium and high probability, cirrus."""


_DAY = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")


class _Model(BaseModel):
    """Frozen, and refusing keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Area(_Model):
    """The area of interest."""

    bbox: tuple[float, float, float, float] = Field(description="West, south, east, north in degrees (EPSG:4326).")

    @field_validator("bbox")
    @classmethod
    def _ordered(cls, bbox: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        west, south, east, north = bbox
        if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 and -90 <= north <= 90):
            raise ValueError("degrees within -180..180 and -90..90, in the order west, south, east, north")
        if west >= east:
            raise ValueError("west < east; split an area across 180° into two catalogues")
        if south >= north:
            raise ValueError("south < north, in the order west, south, east, north")
        return bbox


class Period(_Model):
    """The time of interest, both ends included."""

    start: datetime | date = Field(description="First moment, UTC; a date means its beginning.")
    end: datetime | date = Field(description="Last moment, UTC; a date means its end.")

    @field_validator("start", "end", mode="before")
    @classmethod
    def _days(cls, value: object) -> object:
        # text without a time is a whole day, as a YAML date is
        return date.fromisoformat(value) if isinstance(value, str) and _DAY.fullmatch(value) else value

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        first, last = self.bounds
        if first > last:
            raise ValueError("start <= end")
        return self

    @property
    def bounds(self) -> tuple[datetime, datetime]:
        """First and last moment, timezone-aware UTC."""
        return _moment(self.start, time.min), _moment(self.end, time.max)

    @property
    def interval(self) -> str:
        """The closed interval in RFC 3339, as STAC searches take it."""
        first, last = (moment.strftime("%Y-%m-%dT%H:%M:%SZ") for moment in self.bounds)
        return f"{first}/{last}"


class GridSettings(_Model):
    """The grid tiles are cut on."""

    crs: str = Field(default="auto", description='CRS such as "EPSG:32632", or "auto": the target scenes\' own.')
    gsd_m: Literal["auto"] | Annotated[float, Field(gt=0)] = Field(
        default="auto", description='Pixel size in metres, or "auto": the coarser of the two sides.'
    )
    tile_px: int = Field(default=256, ge=32, multiple_of=16, description="Width and height of a tile in pixels.")


class _SideBase(_Model):
    """What every kind of side has."""

    sensor: str | dict[str, Any] = Field(
        description="Name of a registered sensor, or an inline mapping of facts (name, modality, unit, …)."
    )
    bands: tuple[str, ...] = Field(
        default=(), description="Names of the bands wanted, in order; empty: all of the sensor."
    )
    offset_dn: float | None = Field(
        default=None,
        description="Radiometric offset added to valid DNs, in DN; overrides the decision made per item "
        "(Sentinel-2: -1000 since processing baseline 04.00, else 0).",
    )
    class_asset: str | None = Field(
        default=None,
        description='Asset (stac) or band (folder) holding classes, such as Sentinel-2 "scl"; none: no mask.',
    )
    invalid_classes: tuple[int, ...] = Field(
        default=SCL_INVALID,
        description="Values of the class raster that are not ground (clouds, shadows, cirrus).",
    )

    @field_validator("sensor")
    @classmethod
    def _known(cls, sensor: str | dict[str, Any]) -> str | dict[str, Any]:
        try:
            get_sensor(sensor)
        except SourceError as error:
            why = "" if isinstance(sensor, str) else f" ({error})"
            raise ValueError(f"one of {', '.join(sorted(SENSORS))}, or a mapping of facts{why}") from error
        return sensor

    @field_validator("bands")
    @classmethod
    def _of_sensor(cls, bands: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if "sensor" not in info.data:
            return bands
        facts = get_sensor(info.data["sensor"])
        try:
            names = facts.select(bands or None).band_names
        except SourceError:
            raise ValueError(f"bands of {facts.name}, which are {', '.join(facts.band_names)}") from None
        if len(set(names)) != len(names):
            raise ValueError("each band once")
        return bands

    @property
    def instrument(self) -> Sensor:
        """The facts of the sensor."""
        return get_sensor(self.sensor)

    @property
    def band_names(self) -> tuple[str, ...]:
        """The sensor's names of the bands wanted, in order; all of the sensor when none are named."""
        return self.instrument.select(self.bands or None).band_names


class SampleSide(_SideBase):
    """One side of the embedded synthetic scenes, made on first use."""

    kind: Literal["sample"] = Field(description="The embedded synthetic scenes.")
    size_px: int = Field(default=1024, ge=128, description="Width and height of a scene in 10 m pixels.")
    n_dates: int = Field(default=1, ge=1, description="Number of dates, each a pair of scenes.")
    seed: int = Field(default=7, ge=0, description="Seed of the landscape, speckle and displacement.")


class FolderSide(_SideBase):
    """Rasters in a folder: one scene per file, or per group of single-band files."""

    kind: Literal["folder"] = Field(description="Rasters on this machine; nothing is copied.")
    path: Path = Field(description="Folder, or one raster; relative to the catalogue file (or its `root`).")
    glob: str = Field(default="**/*.tif", description="Pattern of the rasters' paths within the folder.")
    name_regex: str | None = Field(
        default=None,
        description="Searched in the relative path; groups: `scene` (identifier), `band` (one file per band, "
        "grouped by scene), `datetime`.",
    )
    file_bands: tuple[str, ...] = Field(
        default=(),
        description="Band names in file order, for files that do not name their bands as the sensor does.",
    )
    datetime_format: str | None = Field(
        default=None,
        description="strptime format of the regex group `datetime`, UTC; none: ISO or YYYYMMDD[THHMMSS].",
    )
    datetime_tag: str = Field(default="datetime", description="Raster tag looked at for the time of acquisition.")
    datetime: Annotated[Any, Field(validate_default=False)] = Field(
        default=None, description="Time of acquisition of every scene, UTC; overrides tags and names."
    )
    default_datetime: Annotated[Any, Field(validate_default=False)] = Field(
        default=None,
        description="Time given to scenes whose tags and names hold none, UTC; none: they are dropped.",
    )
    crs: str | None = Field(
        default=None, description="CRS of files that state none but have a geotransform (these are copied)."
    )

    @field_validator("datetime", "default_datetime", mode="before")
    @classmethod
    def _aware(cls, value: object) -> datetime | None:
        if value is None:
            return None
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                raise ValueError("an ISO 8601 date or time") from None
        if not isinstance(value, date):
            raise ValueError("an ISO 8601 date or time")
        return _moment(value, time.min)

    @field_validator("name_regex")
    @classmethod
    def _groups(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            groups = re.compile(pattern).groupindex
        except re.error as error:
            raise ValueError(f"a regular expression ({error})") from error
        if "band" in groups and "scene" not in groups:
            raise ValueError("a group `scene` beside the group `band`: (?P<scene>…)")
        unknown = sorted(set(groups) - {"scene", "band", "datetime"})
        if unknown:
            raise ValueError(f"groups named scene, band or datetime, not {', '.join(unknown)}")
        return pattern


class StacSide(_SideBase):
    """Items of a static STAC catalogue (file or http) or a STAC API; its root document tells which."""

    kind: Literal["stac"] = Field(description="A static STAC catalogue, an item collection, or a STAC API.")
    url: str = Field(description="Root document: a file path (relative to the catalogue file), or an http(s) address.")
    collection: str | None = Field(default=None, description="Identifier of the collection; none: all items.")
    query: dict[str, Any] = Field(
        default_factory=dict,
        description='Property conditions {property: {"lt": 20}}; operators eq, neq, lt, lte, gt, gte, in.',
    )
    ids: tuple[str, ...] = Field(default=(), description="Only items with these identifiers; empty: all.")
    max_items: int | None = Field(default=None, ge=1, description="Most items taken, in order of time; none: no limit.")
    data_asset: str | None = Field(
        default=None,
        description="Asset holding all bands in one raster; none: one asset per band, or `data`.",
    )
    assets: dict[str, str] = Field(
        default_factory=dict, description="Asset key of each band, where it is not the band's name."
    )
    file_bands: tuple[str, ...] = Field(
        default=(), description="Band names of `data_asset` in file order, where it does not name them."
    )
    sign: Literal["none", "planetary-computer"] = Field(
        default="none", description="How asset addresses are signed when read; signatures are never stored."
    )
    sas_url: str = Field(
        default="https://planetarycomputer.microsoft.com/api/sas/v1",
        description="Address that gives tokens: GET {sas_url}/token/{collection}.",
    )
    token_env: str | None = Field(
        default=None,
        description="Name of the environment variable holding the subscription key; none: without a key.",
    )
    retries: int = Field(default=4, ge=0, description="How often a failed request or read is repeated.")
    retry_s: float = Field(
        default=1.0, ge=0, description="First pause before repeating, in seconds; doubled, with jitter."
    )

    @field_validator("query")
    @classmethod
    def _operators(cls, query: dict[str, Any]) -> dict[str, Any]:
        for condition in query.values():
            if isinstance(condition, dict) and not set(condition) <= set(QUERY_OPERATORS):
                raise ValueError(f"operators out of {', '.join(QUERY_OPERATORS)}")
        return query

    @field_validator("token_env")
    @classmethod
    def _a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
            raise ValueError("the NAME of an environment variable (upper case), not the secret itself")
        return name

    @property
    def is_remote(self) -> bool:
        """Whether the root document is fetched over http(s)."""
        return self.url.startswith(("http://", "https://"))


Side = Annotated[SampleSide | FolderSide | StacSide, Field(discriminator="kind")]
"""One side of the pairs, told apart by `kind`."""


class Pairing(_Model):
    """Which scenes form a pair, and how their displacement is measured."""

    max_gap_days: float = Field(default=3.0, ge=0, description="Longest time between the two scenes, days.")
    max_cloud_pct: float = Field(default=20.0, ge=0, le=100, description="Cloudiest optical scene used, percent.")
    max_shift_px: float = Field(default=12.0, gt=0, description="Largest displacement searched, reference pixels.")
    orbit_state: Literal["ascending", "descending"] | None = Field(
        default=None, description="Orbit direction of the SAR scenes; none: the most frequent one."
    )
    relative_orbit: int | None = Field(
        default=None, ge=1, description="Relative orbit of the SAR scenes; none: the most frequent one."
    )
    mix_orbits: bool = Field(default=False, description="Whether looks of different orbits may be used together.")
    min_overlap_share: float = Field(
        default=0.1, gt=0, le=1, description="Least overlap, as a share of the smaller footprint."
    )
    method: str = Field(default="structure", description="Name of the way displacement is measured.")


class Tiling(_Model):
    """How tiles are kept and split."""

    min_valid: float = Field(default=0.5, ge=0, le=1, description="Least share of valid pixels of a tile, both sides.")
    val_share: float = Field(default=0.15, ge=0, lt=1, description="Share of blocks kept for validation.")
    test_share: float = Field(default=0.15, ge=0, lt=1, description="Share of blocks kept for testing.")
    block_tiles: int = Field(default=1, ge=1, description="Width of a block of the spatial split, tiles.")
    buffer_px: int = Field(default=32, ge=0, description="Pixels left unused on each side of a border between splits.")
    seed: int = Field(default=0, ge=0, description="Seed of the split.")

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if self.val_share + self.test_share >= 1:
            raise ValueError("val_share + test_share < 1, so that something is left to train on")
        return self


class Training(_Model):
    """What is trained on the tiles."""

    recipe: str = Field(default="translation", description="Name of a packaged recipe, or path of a YAML.")
    seed: int = Field(default=0, ge=0, description="Seed of weights, patches and augmentation.")
    radius_px: int = Field(default=2, ge=0, description="Largest misalignment forgiven by loss and scores, pixels.")
    overrides: dict[str, Scalar] = Field(
        default_factory=dict, description="Recipe settings by dotted key, such as trainer.max_epochs: 20."
    )


class Products(_Model):
    """What is generated."""

    directions: tuple[Direction, ...] = Field(
        default=("source_to_target",), min_length=1, description="Directions generated, from one checkpoint."
    )
    window_px: int = Field(default=512, ge=64, multiple_of=16, description="Core of a prediction window, pixels.")
    item_limit: int | None = Field(default=None, ge=1, description="Most scenes generated; none: all.")


class Limits(_Model):
    """How much may fail."""

    max_failed_share: float = Field(
        default=0.5, ge=0, le=1, description="Share of bad scenes or pairs above which a stage fails."
    )


class Catalog(_Model):
    """Everything a run needs to know about its data."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Short name; lower case, digits, dashes.")
    description: str = Field(default="", description="What the data are, for people.")
    root: Path | None = Field(
        default=None, description="Folder that relative paths start from; none: the catalogue file's folder."
    )
    aoi: Area | None = Field(default=None, description="Area of interest; none: everything the sides hold.")
    time: Period | None = Field(default=None, description="Time of interest; none: everything the sides hold.")
    grid: GridSettings = Field(default=GridSettings(), description="Grid tiles are cut on.")
    source: Side = Field(description="What the generator receives.")
    target: Side = Field(description="What the generator should produce.")
    pairing: Pairing = Field(default=Pairing(), description="Which scenes form a pair.")
    tiling: Tiling = Field(default=Tiling(), description="How tiles are kept and split.")
    training: Training = Field(default=Training(), description="What is trained.")
    products: Products = Field(default=Products(), description="What is generated.")
    limits: Limits = Field(default=Limits(), description="How much may fail.")

    def side(self, name: Literal["source", "target"]) -> SampleSide | FolderSide | StacSide:
        """Return the side of that name."""
        return self.source if name == "source" else self.target

    @classmethod
    def for_files(
        cls,
        source: Path | str,
        target: Path | str,
        *,
        source_sensor: str | dict[str, Any] | None = None,
        target_sensor: str | dict[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Catalog:
        """Build the catalogue of one pair of rasters.

        The sensor of a file is taken from `source_sensor` / `target_sensor`, else told from its band names,
        units and data type. The two files are one pair, whatever their dates.

        Args:
            source: The raster the generator receives.
            target: The raster it should produce.
            source_sensor: Sensor name or facts of the source; none: told from the file.
            target_sensor: Sensor name or facts of the target; none: told from the file.
            settings: Further catalogue entries by dotted key, such as {"training.recipe": "translation"}.

        Returns:
            A catalogue of two folder sides.

        Raises:
            CatalogError: If the sensor of a file cannot be told, or a setting is wrong.
            SourceError: If a file is missing or cannot be read.
            GridError: If a file has no usable georeferencing.
        """
        from rsgeo_gan.catalog.guess import guess_side
        from rsgeo_gan.catalog.loading import set_key, validate

        raw: dict[str, Any] = {
            "name": "two-files",
            "description": f"{Path(source).name} and {Path(target).name}",
            "source": guess_side(Path(source), source_sensor, "source"),
            "target": guess_side(Path(target), target_sensor, "target"),
            "pairing": {"max_gap_days": 36500.0, "max_cloud_pct": 100.0},
            "limits": {"max_failed_share": 0.0},
        }
        for key, value in (settings or {}).items():
            set_key(raw, key, value, "settings")
        return validate(raw, "--source/--target")


def _moment(value: date, default: time) -> datetime:
    """Return a timezone-aware UTC moment."""
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime.combine(value, default, tzinfo=UTC)

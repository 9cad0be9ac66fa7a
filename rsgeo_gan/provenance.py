"""Says where a generated raster comes from: its name, tags, STAC item, fingerprint and QGIS style.

Every product states that it is synthetic three times, for three kinds of reader: in the tags of the
raster, in the STAC item beside it and in the manifest of all products.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import rsgeo_gan
from rsgeo_gan.errors import ProductError
from rsgeo_gan.sensors import Scaler

__all__ = [
    "Direction",
    "Provenance",
    "digest_of",
    "fingerprint",
    "noise_seed",
    "product_stem",
    "qml",
    "sides",
    "true_colour",
]

Direction = Literal["source_to_target", "target_to_source"]
"""Which side of the pair a generator reads and which it resembles."""

_SIDES: dict[str, tuple[str, str]] = {
    "source_to_target": ("source", "target"),
    "target_to_source": ("target", "source"),
}
_TRUE_COLOUR = (("B04", "B03", "B02"), ("B4", "B3", "B2"), ("red", "green", "blue"))
_CHUNK = 1 << 20


def sides(direction: str) -> tuple[str, str]:
    """Return the side read and the side resembled, each "source" or "target".

    Raises:
        ProductError: If the direction is not one of the two.
    """
    if direction not in _SIDES:
        raise ProductError(f"unknown direction {direction!r}; expected one of {', '.join(sorted(_SIDES))}")
    return _SIDES[direction]


def digest_of(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, reading it in pieces."""
    total = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(_CHUNK):
            total.update(piece)
    return total.hexdigest()


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return a short digest of plain facts; equal facts give equal digests in any order."""
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def noise_seed(item_id: str) -> int:
    """Return the seed of a scene's noise field: the same for every run, another for every scene."""
    return int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:4])


def product_stem(item_id: str, direction: Direction, checkpoint: str) -> str:
    """Return the file name, without ending, that a scene, a direction and a checkpoint lead to."""
    return f"{item_id}_{direction.replace('_', '-')}_{checkpoint[:12]}"


@dataclass(frozen=True)
class Provenance:
    """Where one product comes from.

    Attributes:
        checkpoint: SHA-256 of the checkpoint, or a sentence where no checkpoint exists.
        recipe: Name of the trained combination, or the class of its task.
        sources: Ids of the scenes or tiles read.
        grid: Whose grid the product lies on.
        direction: Which way the generator translated; None when it did not translate.
        radius_px: Largest misalignment the training forgave, in pixels of the training grid; None when the product
            stands for no pair.
        inputs: Digest of everything else that decides the pixels.
        asked: What an image made from noise was asked to be and was drawn from, plain JSON types by name: label,
            conditions, seed.
        created: When it was made, UTC.
    """

    checkpoint: str
    recipe: str
    sources: tuple[str, ...]
    grid: Literal["source", "divided source", "declared", "tiled target", "tile"]
    direction: Direction | None = None
    radius_px: int | None = None
    inputs: str = ""
    asked: Mapping[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    def decisive(self) -> dict[str, str]:
        """Return the properties of the STAC item that tell whether a product would be made the same way again."""
        return {"rsgeo:checkpoint": self.checkpoint, "rsgeo:inputs": self.inputs}

    def tags(self) -> dict[str, str]:
        """Return the tags of the raster, all text."""
        tags = {
            "SYNTHETIC": "YES",
            "RSGEO_DIRECTION": self.direction,
            "RSGEO_CHECKPOINT": self.checkpoint,
            "RSGEO_RECIPE": self.recipe,
            "RSGEO_VERSION": rsgeo_gan.__version__,
            "RSGEO_SOURCES": ",".join(self.sources),
            "RSGEO_GRID": self.grid,
            **{f"RSGEO_{name.upper()}": _text(value) for name, value in self.asked.items()},
            "RADIUS_PX": self.radius_px,
            "CREATED": self.created,
        }
        return {name: str(value) for name, value in tags.items() if value is not None}

    def properties(self) -> dict[str, Any]:
        """Return the properties of the STAC item, plain JSON types."""
        properties = {
            "created": self.created,
            "rsgeo:synthetic": True,
            "rsgeo:direction": self.direction,
            "rsgeo:checkpoint": self.checkpoint,
            "rsgeo:recipe": self.recipe,
            "rsgeo:version": rsgeo_gan.__version__,
            "rsgeo:from": list(self.sources),
            "rsgeo:radius_px": self.radius_px,
            "rsgeo:grid": self.grid,
            "rsgeo:inputs": self.inputs,
            **{f"rsgeo:{name}": value for name, value in self.asked.items()},
        }
        return {name: value for name, value in properties.items() if value is not None}


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def qml(scaler: Scaler, *, masked: bool = False) -> str:
    """Return a QGIS style whose stretch is the value range the generator can express.

    Three or more bands are shown in colour (true colour where the band names tell which), fewer as
    the first band in grey. Limits are in analysis units, because QGIS applies the scale and offset
    of a band before it stretches it.

    Args:
        scaler: Bands and value range of the product's sensor.
        masked: Only the internal mask says what is valid. QGIS shows such a mask as one more band, which
            then decides the opacity; otherwise the nodata value does.

    Returns:
        The text of a `.qml` file, to be put beside the raster under the same stem.
    """
    names = scaler.bands
    alpha = len(names) + 1 if masked else -1
    if len(names) >= 3:
        indexes = true_colour(names) or (0, 1, 2)
        attributes = " ".join(
            f'{colour}Band="{index + 1}"' for colour, index in zip(("red", "green", "blue"), indexes, strict=True)
        )
        stretches = "".join(
            f"<{colour}ContrastEnhancement>{_limits(scaler, index)}</{colour}ContrastEnhancement>"
            for colour, index in zip(("red", "green", "blue"), indexes, strict=True)
        )
        kind = f'type="multibandcolor" {attributes}'
    else:
        kind = 'type="singlebandgray" grayBand="1" gradient="BlackToWhite"'
        stretches = f"<contrastEnhancement>{_limits(scaler, 0)}</contrastEnhancement>"
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        '<qgis version="3.22" styleCategories="Symbology"><pipe>\n'
        f' <rasterrenderer {kind} opacity="1" alphaBand="{alpha}" nodataColor="">{stretches}'
        "</rasterrenderer>\n"
        "</pipe></qgis>\n"
    )


def _limits(scaler: Scaler, index: int) -> str:
    return (
        f"<minValue>{scaler.low[index]:.6g}</minValue><maxValue>{scaler.high[index]:.6g}</maxValue>"
        "<algorithm>StretchToMinimumMaximum</algorithm>"
    )


def true_colour(names: Sequence[str]) -> tuple[int, int, int] | None:
    """Return where red, green and blue are among bands, by their names; None where the names do not tell."""
    for colours in _TRUE_COLOUR:
        if all(name in names for name in colours):
            red, green, blue = (names.index(name) for name in colours)
            return red, green, blue
    return None

"""What a checkpoint of super-resolution knows about the data it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rsgeo_gan.errors import CheckpointError
from rsgeo_gan.inference.checkpoints import recipe_of
from rsgeo_gan.sensors import SENSORS, Scaler, Sensor, get_sensor

__all__ = ["SharpFacts"]

_TOLD = "train with SuperResolution or ReferenceSuperResolution, on tiles of `kind: superres`"


@dataclass(frozen=True)
class SharpFacts:
    """What a checkpoint knows about the data it was trained on.

    Attributes:
        source: Scaler of the low-resolution side.
        target: Scaler of the finer side.
        reference: Scaler of the references; None where the training had none.
        scale: Pixels of the product along a side of one of the scene's.
        gsd: Pixel size of the low-resolution side, in units of the tiles' CRS.
        references: How many references an image had.
        common: Pairs of a product's band and a reference's band that show the same, counted from 0.
        gsd_m: Lengths of the two sides of such a pixel, metres; None where the checkpoint does not tell.
        reference_mtf: Contrast at the Nyquist frequency of the product that references were brought to, where they were
            finer still; None for plain anti-aliased resampling.
        degradation: How the low-resolution side was made from the finer one; empty where it is a real image.
        recipe: Name of the recipe, or the class of the task.
        sensors: Sensors by side (source, target, reference), where the checkpoint tells them.
    """

    source: Scaler
    target: Scaler
    reference: Scaler | None
    scale: int
    gsd: float
    references: int
    common: tuple[tuple[int, int], ...]
    degradation: Mapping[str, Any]
    recipe: str
    gsd_m: tuple[float, float] | None = None
    reference_mtf: float | None = None
    sensors: Mapping[str, Sensor] = field(default_factory=dict)

    def sensor(self, side: str) -> Sensor | None:
        """Return the sensor of a side, where it is known."""
        scaler = {"source": self.source, "target": self.target, "reference": self.reference}[side]
        return self.sensors.get(side) or (None if scaler is None else SENSORS.get(scaler.sensor))

    @classmethod
    def read(cls, stored: Mapping[str, Any], path: Path, digest: str) -> Self:
        """Read a checkpoint's `rsgeo_gan` entry.

        Raises:
            CheckpointError: If it is no super-resolution's, or something is missing.
        """
        facts = stored.get("facts")
        if not isinstance(facts, Mapping) or "scale" not in facts:
            raise CheckpointError(
                f"{path}: expected a checkpoint of a super-resolution, got one of "
                f"{stored.get('task') or 'an unknown task'} that knows no scale; {_TOLD}."
            )
        try:
            return cls(
                source=Scaler.from_dict(facts["source"]),
                target=Scaler.from_dict(facts["target"]),
                reference=Scaler.from_dict(facts["reference"]) if facts.get("reference") else None,
                scale=int(facts["scale"]),
                gsd=float(facts["gsd"]),
                references=int(facts.get("references") or 0),
                common=tuple((int(mine), int(other)) for mine, other in facts.get("common") or ()),
                degradation=dict(facts.get("degradation") or {}),
                recipe=recipe_of(stored, path, digest),
                gsd_m=_pair(facts.get("gsd_m")),
                reference_mtf=None if facts.get("reference_mtf") is None else float(facts["reference_mtf"]),
                sensors={
                    side: sensor for side in ("source", "target", "reference") if (sensor := _sensor(facts, side))
                },
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: the checkpoint lacks facts of its training data ({type(error).__name__}: {error}); expected "
                f"scalers of both sides, scale and pixel size; {_TOLD}."
            ) from error


def _sensor(facts: Mapping[str, Any], side: str) -> Sensor | None:
    told = facts.get(f"{side}_sensor")
    if isinstance(told, str):
        return SENSORS.get(told)
    return get_sensor(told) if isinstance(told, Mapping) else None


def _pair(told: Any) -> tuple[float, float] | None:
    if told is None:
        return None
    across, down = (float(length) for length in told)
    return across, down

"""Makes finer scenes: one COG on the scene's own grid with each pixel divided, seamless, in bounded memory.

The upper-left corner stays where it is to the last bit. Beside the image there may lie how alike the references are
and how much of them is let in (`*_similarity.tif`, on the scene's grid), and how much the answer depends on the way
up the scene was shown (`*_uncertainty.tif`): the standard deviation over turned and mirrored copies, in the image's
unit. That is how unsure the network is, a lower bound of its error and no promise about it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pystac
import rasterio
import torch
from odc.geo.geobox import GeoBox
from pyproj import Geod

from rsgeo_gan import raster
from rsgeo_gan.errors import CheckpointError, ProductError
from rsgeo_gan.grid import box_to_dict, crs_of, divided
from rsgeo_gan.inference.checkpoints import TRUSTED
from rsgeo_gan.inference.encoding import Encoding
from rsgeo_gan.inference.records import finished, write_item
from rsgeo_gan.inference.references import MAX_SHIFT_PX, Reference, References, file_side, registered
from rsgeo_gan.inference.streaming import SceneReader, Window, sample_places, strips, strips_of
from rsgeo_gan.inference.superresolver import COPIES, Sharpened, SuperResolver
from rsgeo_gan.manifest import make_item, write_text
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.provenance import Provenance, fingerprint, qml
from rsgeo_gan.raster import GDAL_CACHE_MIB, StripWriter
from rsgeo_gan.sensors import Scaler, get_sensor
from rsgeo_gan.tiling import Side

__all__ = ["LOW_GATE", "WINDOW_PX", "Sharp", "make", "superres"]

_log = logging.getLogger(__name__)

_STAGE = "superres"
WINDOW_PX = 192
"""Side of a window's core, in pixels of the scene."""
LOW_GATE = 0.05
"""Mean share of references let in below which they did not help: what unrelated ones reach."""
_SAMPLE_PX = 128
_GSD_TOLERANCE = 0.05


@dataclass(frozen=True)
class Sharp:
    """A product.

    Attributes:
        path: The COG.
        item: Its STAC item, side products among the assets.
        notes: What a person should know about it, in sentences.
        new: Whether it was made by this call.
    """

    path: Path
    item: pystac.Item
    notes: tuple[str, ...]
    new: bool

    def lines(self) -> list[str]:
        """Say what came of it, for a person."""
        told = self.item.properties
        lines = []
        for found in told.get("rsgeo:references") or ():
            if found.get("applied"):
                lines.append(
                    f"Reference {found['reference']}: moved by {found['dx_px']:+.2f}, {found['dy_px']:+.2f} px of the "
                    f"scene (expected error {found['sigma_px'] or 0:.2f} px)"
                )
        if "rsgeo:gate" in told:
            lines.append(f"References let in: {told['rsgeo:gate']:.0%} on average")
        lines += self.notes
        done = "" if self.new else " (was there already, made from the same inputs)"
        height, width = told["proj:shape"]
        beside = [Path(asset.href).name for name, asset in self.item.assets.items() if name not in ("data", "style")]
        more = f", beside it {', '.join(beside)}" if beside else ""
        return [*lines, f"{width} x {height} pixels in {self.path}{more}{done}"]


def superres(
    scene: Path | str,
    checkpoint: Path | str,
    out: Path | str,
    *,
    references: Sequence[Path | str] = (),
    sensor: str | None = None,
    bands: Sequence[int] | None = None,
    reference_bands: Sequence[int] | None = None,
    alone: bool = False,
    align: bool = True,
    max_shift_px: float = MAX_SHIFT_PX,
    uncertainty: int = 4,
    window_px: int = WINDOW_PX,
    trusted: Sequence[str] = TRUSTED,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    progress: Progress = silent,
) -> Sharp:
    """Make a finer scene of a raster.

    Args:
        scene: The raster, of the sensor and pixel size the network was trained on.
        checkpoint: Checkpoint of a super-resolution.
        out: The COG to write, `*.tif`; style, STAC item and side products go beside it.
        references: Sharper rasters of the same place, any CRS and extent.
        sensor: Name of the scene's sensor; the checkpoint's when None.
        bands: Which bands of the scene are meant, counted from 1, when names do not tell.
        reference_bands: The same for the references.
        alone: Do without references although the network was trained with some.
        align: Measure where the references' content lies; else their georeference is trusted.
        max_shift_px: Largest displacement looked for, pixels of the scene.
        uncertainty: Turned copies whose spread is written, 2 to 8; 0 for no such file.
        window_px: Side of a window's core, pixels of the scene.
        trusted: Packages whose networks the checkpoint may name.
        device: Torch device, or "auto" for a GPU where there is one.
        precision: "bf16" computes in mixed precision; seams then stay below its rounding.
        progress: Receives finished and all strips.

    Returns:
        The product; the one that is there when it was made from the same inputs.

    Raises:
        CheckpointError: If the checkpoint is not usable, or does not fit scene or references.
        SourceError: If a raster cannot be read, or a reference does not overlap the scene.
        GridError: If a raster has no usable georeference.
        ProductError: If the product cannot be written.
    """
    out = Path(out)
    _check_out(out, [scene, *references])
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    resolver = SuperResolver.load(checkpoint, trusted=trusted, device=device, precision=precision)
    _check_references(resolver, references, checkpoint, alone=alone)
    facts = resolver.facts
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MIB << 20, GDAL_NUM_THREADS="ALL_CPUS"):
        known = facts.sensor("source")
        if sensor is not None:
            known = get_sensor(sensor)
        side = file_side(scene, facts.source, known, "scene", numbers=bands)
        box = raster.inspect(scene).geobox
        _check_gsd(box, resolver, scene)
        found = [
            registered(
                path,
                side,
                facts.reference or facts.target,
                facts.sensor("reference" if facts.reference else "target"),
                numbers=reference_bands,
                common=facts.common if facts.source.bands == facts.target.bands else (),
                align=align,
                max_shift_px=max_shift_px,
            )
            for path in references
        ]
        return make(out, side, box, found, resolver, uncertainty=uncertainty, window_px=window_px, progress=progress)


def _check_out(out: Path, inputs: Sequence[Path | str]) -> None:
    if out.suffix != ".tif":
        raise ProductError(f"{out}: expected the name of a GeoTIFF that ends in .tif. Choose another --out.")
    if any(Path(path).resolve() == out.resolve() for path in inputs):
        raise ProductError(f"{out} is both an input and the result to be written. Choose another --out.")


def _check_references(
    resolver: SuperResolver, references: Sequence[Path | str], checkpoint: Path | str, *, alone: bool
) -> None:
    """See whether references are given where they are taken."""
    if references and not resolver.takes_reference:
        raise CheckpointError(
            f"{checkpoint}: its network takes no reference, got {len(references)}. Leave --reference out, or train "
            "with ReferenceSuperResolution."
        )
    if not references and resolver.takes_reference and not alone:
        raise CheckpointError(
            f"{checkpoint}: its network was trained with a reference, got none. Give a sharper image of the same place "
            "(--reference), or say that it has to do without (--alone)."
        )


def _check_gsd(box: GeoBox, resolver: SuperResolver, scene: Path | str) -> None:
    """See whether a scene's pixels are those the network was trained on."""
    wanted = resolver.facts.gsd
    here = [float(np.hypot(box.affine.a, box.affine.d)), float(np.hypot(box.affine.b, box.affine.e))]
    if all(abs(size / wanted - 1) <= _GSD_TOLERANCE for size in here):
        return
    metres = _metres(box) if crs_of(box).geographic else here
    if all(abs(size / wanted - 1) <= _GSD_TOLERANCE for size in metres):
        return
    raise CheckpointError(
        f"{scene}: pixels of {metres[0]:g} x {metres[1]:g} do not fit: the network was trained to divide pixels of "
        f"{wanted:g} by {resolver.scale} (to {wanted / resolver.scale:g}). Give a scene of that pixel size, or train "
        "for this one."
    )


def _metres(box: GeoBox) -> list[float]:
    """Lengths in metres of the two sides of a pixel in the middle of a geographic box."""
    height, width = box.shape
    middle = box.affine * (width / 2, height / 2)
    ends = (box.affine * (width / 2 + 1, height / 2), box.affine * (width / 2, height / 2 + 1))
    return [abs(float(Geod(ellps="WGS84").inv(*middle, *end)[2])) for end in ends]


def make(
    out: Path,
    side: Side,
    box: GeoBox,
    references: Sequence[Reference],
    resolver: SuperResolver,
    *,
    uncertainty: int = 4,
    window_px: int = WINDOW_PX,
    about: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> Sharp:
    """Make one product, unless it lies there already.

    Args:
        out: The COG to write.
        side: The scene.
        box: Its grid.
        references: References, ready to be read.
        resolver: The network.
        uncertainty: Turned copies whose spread is written; 0 for none.
        window_px: Side of a window's core.
        about: Further facts for tags and item.
        progress: Receives finished and all strips.

    Raises:
        SourceError, ProductError: As `superres`.
    """
    if uncertainty not in (0, *range(2, COPIES + 1)):
        raise ProductError(
            f"{out}: an uncertainty of {uncertainty} copies: expected 0 for none, or 2 to {COPIES}. Correct the option."
        )
    told = [reference.told() for reference in references]
    provenance = Provenance(
        checkpoint=resolver.digest,
        recipe=resolver.facts.recipe,
        sources=(side.item.id, *(reference.side.item.id for reference in references)),
        grid="divided source",
        inputs=fingerprint(
            {
                "side": side.key(),
                "box": box_to_dict(box),
                "references": [[reference.side.key(), reference.side.path] for reference in references],
                "uncertainty": uncertainty,
                "about": about or {},
            }
        ),
        asked={"scale": resolver.scale, "references": told or None, **(about or {})},
    )
    made = finished(out.parent, out.stem, provenance.decisive())
    if made is not None:
        return Sharp(out, made, tuple(made.properties.get("rsgeo:notes", ())), new=False)
    job = _Job(out, side, box, tuple(references), resolver, uncertainty, window_px)
    job.clear()
    item, notes = job.run(provenance, progress)
    for note in notes:
        _log.warning("%s: %s", out, note)
    return Sharp(out, item, notes, new=True)


@dataclass(frozen=True)
class _Job:
    """One product in the making."""

    path: Path
    side: Side
    box: GeoBox
    references: tuple[Reference, ...]
    resolver: SuperResolver
    uncertainty: int
    window_px: int

    def beside(self, name: str) -> Path:
        return self.path.with_name(f"{self.path.stem}_{name}.tif")

    def clear(self) -> None:
        """Take away what an earlier call left, finished or not."""
        for path in (self.path, self.beside("similarity"), self.beside("uncertainty")):
            for left in (path, path.with_suffix(".qml"), path.with_suffix(".json"), path.with_suffix(".tif.aux.xml")):
                left.unlink(missing_ok=True)
            for left in path.parent.glob(f".{path.stem}.*.stage*.tif"):
                left.unlink(missing_ok=True)

    def run(self, provenance: Provenance, progress: Progress) -> tuple[pystac.Item, tuple[str, ...]]:
        """Stream the scene through the network, and write rasters, styles and, last, the item."""
        facts, scale = self.resolver.facts, self.resolver.scale
        reader = SceneReader(self.side, self.box, facts.source, clip=False)
        read = (
            References(self.references, self.box, facts.reference or facts.target, scale) if self.references else None
        )
        self._freeze(reader, read)
        encoding = Encoding.of(facts.target, facts.sensor("target"))
        tags = {"SYNTHETIC": "YES"}
        finer = divided(self.box, scale)
        bands = len(facts.target.bands)
        plan = strips_of(reader, self.resolver, bands * (2 if self.uncertainty else 1), self.window_px, scale=scale)
        gate = _Mean()
        with ExitStack() as stack:
            image = stack.enter_context(
                StripWriter(
                    self.path, finer, bands, encoding.dtype, encoding.nodata, encoding.names, encoding.unit,
                    encoding.scale, encoding.offset, tags,
                )
            )  # fmt: skip
            beside: dict[str, StripWriter] = {}
            if self.uncertainty:
                names = [f"{name} uncertainty" for name in facts.target.bands]
                beside["uncertainty"] = stack.enter_context(
                    self._writer("uncertainty", finer, names, encoding.unit, tags)
                )
            if read is not None:
                names = ["similarity", "gate"]
                beside["similarity"] = stack.enter_context(self._writer("similarity", self.box, names, "1", tags))
            per_model = (1 / facts.target.gain).astype(np.float32)[:, None, None]
            for done, strip in enumerate(strips(reader, self.resolver, plan, window_px=self.window_px), start=1):
                height, width = strip.valid.shape
                made = {"image": np.zeros((bands, scale * height, scale * width), np.float32)}
                if "uncertainty" in beside:
                    made["uncertainty"] = np.zeros_like(made["image"])
                if "similarity" in beside:
                    made["similarity"] = np.zeros((2, height, width), np.float32)
                for window in strip.windows():
                    self._window(window, read, made, gate)
                valid = strip.valid.repeat(scale, axis=0).repeat(scale, axis=1)
                image.write(encoding(made["image"], valid), scale * strip.row.start, valid)
                for name, writer in beside.items():
                    fine = name == "uncertainty"
                    kept, row = (valid, scale * strip.row.start) if fine else (strip.valid, strip.row.start)
                    layer = made[name] * per_model if fine else made[name]
                    layer[:, ~kept] = np.nan
                    writer.write(layer, row, kept)
                progress(_STAGE, done, len(plan))
            notes = self._notes(gate.value if read is not None else None)
            known = {"gate": None if read is None else round(gate.value, 4), "notes": list(notes) or None}
            provenance = replace(provenance, asked={**provenance.asked, **known})
            tags |= provenance.tags()
            if "uncertainty" in beside:
                beside["uncertainty"].tags = {
                    **tags,
                    "RSGEO_UNCERTAINTY": f"standard deviation over {self.uncertainty} turned and mirrored copies",
                }
        return self._record(provenance), notes

    def _writer(self, name: str, box: GeoBox, names: Sequence[str], unit: str, tags: dict[str, str]) -> StripWriter:
        return StripWriter(
            self.beside(name), box, len(names), "float32", float("nan"), names, unit, tags=tags, masked=False
        )

    def _freeze(self, reader: SceneReader, read: References | None) -> None:
        """Measure on sample windows what must not change from window to window."""
        samples = sample_places(reader, self.resolver.stride, _SAMPLE_PX)
        low = torch.from_numpy(np.stack([sample.values for sample in samples]))
        mask = torch.from_numpy(np.stack([sample.valid for sample in samples])[:, None].astype(np.float32))
        parts: list[torch.Tensor] = []
        if read is not None:
            shown = [read.read(sample.row, sample.col, *sample.valid.shape) for sample in samples]
            parts = [torch.from_numpy(np.stack(part)) for part in zip(*shown, strict=True)]
        self.resolver.freeze(low, mask, *parts)

    def _window(self, window: Window, read: References | None, made: dict[str, np.ndarray], gate: _Mean) -> None:
        """Sharpen one window and put what is kept of it into the strip."""
        scale = self.resolver.scale
        low, mask = window.values, window.mask
        shown: list[torch.Tensor] = []
        if read is not None:
            row, col = window.row, window.col
            parts = read.read(
                row.read_start, col.read_start, row.read_stop - row.read_start, col.read_stop - col.read_start
            )
            shown = [torch.from_numpy(part)[None] for part in parts]
        answer: Sharpened = self.resolver(low, mask, *shown)
        fine = slice(scale * window.col.start, scale * window.col.stop)
        made["image"][:, :, fine] = window.kept(answer.image, scale)
        if "uncertainty" in made:
            spread = self.resolver.spread(answer.image, low, mask, *shown, copies=self.uncertainty)
            made["uncertainty"][:, :, fine] = window.kept(spread, scale)
        if answer.similarity is not None and answer.gate is not None and "similarity" in made:
            layers = window.kept(torch.cat([answer.similarity, answer.gate], dim=1))
            made["similarity"][:, :, window.col.start : window.col.stop] = layers
            valid = None if window.mask is None else window.kept(window.mask)[0] > 0
            gate.add(layers[1] if valid is None else layers[1][valid])

    def _notes(self, gate: float | None) -> tuple[str, ...]:
        """Say what a person should know about the references."""
        notes = []
        for reference in self.references:
            found, name = reference.measured, Path(reference.side.path).name
            if found is not None and not found.reliable:
                notes.append(
                    f"Reference {name}: its displacement could not be measured ({found.reason}); its own georeference "
                    "was trusted."
                )
        if gate is not None and gate < LOW_GATE:
            notes.append(
                f"The references resemble the scene nowhere (mean gate {gate:.3f}, below {LOW_GATE:g}): the product "
                "shows what the network makes of the scene alone."
            )
        return tuple(notes)

    def _record(self, provenance: Provenance) -> pystac.Item:
        """Write styles and item."""
        target, scale = self.resolver.facts.target, self.resolver.scale
        encoding = Encoding.of(target, self.resolver.facts.sensor("target"))
        style = write_text(self.path.with_suffix(".qml"), qml(target, masked=encoding.nodata is None))
        assets = {"data": self.path, "style": style}
        titles = {"data": f"Synthetic {', '.join(target.bands)} ({target.unit}), pixels divided by {scale}"}
        titles |= {"style": "QGIS style"}
        looks = {
            "similarity": (("similarity",), 1.0, "Similarity of the references, and share of them let in"),
            "uncertainty": (target.bands[:1], 0.05 * (target.high[0] - target.low[0]), "Spread over turned copies"),
        }
        for name, (shown, high, title) in looks.items():
            path = self.beside(name)
            if path.is_file():
                assets |= {name: path}
                titles |= {name: title}
                write_text(path.with_suffix(".qml"), qml(Scaler("", "", shown, (0.0,), (high,))))
        properties = provenance.properties()
        item = make_item(
            "scene",
            divided(self.box, scale),
            when=self.side.item.datetime or datetime.now(UTC),
            properties=properties,
            assets={name: path.resolve() for name, path in assets.items()},
            titles=titles,
        )
        item.id = self.path.stem
        write_item(item, self.path.with_suffix(".json"))
        return item


@dataclass
class _Mean:
    """Running mean."""

    total: float = 0.0
    count: int = 0

    def add(self, values: np.ndarray) -> None:
        self.total += float(values.sum(dtype=np.float64))
        self.count += values.size

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else 0.0

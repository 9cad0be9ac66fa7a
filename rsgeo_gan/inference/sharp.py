"""A finer scene in the making: one COG on the scene's own grid with each pixel divided, seamless, in bounded memory.

The upper-left corner stays where it is to the last bit. Beside the image there may lie how alike the references are
and how much of them is let in (`*_similarity.tif`, on the scene's grid), and how much the answer depends on the way
up the scene was shown (`*_uncertainty.tif`): the standard deviation over turned and mirrored copies, in the image's
unit. That is how unsure the network is, a lower bound of its error and no promise about it.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import torch
from odc.geo.geobox import GeoBox

from rsgeo_gan.collect.pictures import NO_DATE
from rsgeo_gan.errors import ProductError
from rsgeo_gan.grid import box_to_dict, divided
from rsgeo_gan.inference.encoding import Encoding
from rsgeo_gan.inference.records import finished, write_item
from rsgeo_gan.inference.references import Reference, References
from rsgeo_gan.inference.sharpfiles import BESIDE, Sharp, beside, check_replaceable, paths_of, whole
from rsgeo_gan.inference.streaming import SceneReader, Window, sample_places, strips, strips_of
from rsgeo_gan.inference.superresolver import COPIES, Sharpened, SuperResolver
from rsgeo_gan.manifest import make_item, write_text
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.provenance import Provenance, fingerprint, qml
from rsgeo_gan.raster import StripWriter
from rsgeo_gan.sensors import Scaler
from rsgeo_gan.tiling import Side

__all__ = ["LOW_GATE", "WINDOW_PX", "make"]

_STAGE = "superres"
WINDOW_PX = 192
"""Side of a window's core, in pixels of the scene."""
LOW_GATE = 0.05
"""Mean share of references let in below which they did not help: what unrelated ones reach."""
_SAMPLE_PX = 128
_MOSTLY = 0.5


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
    if made is not None and whole(made):
        return Sharp(out, made, tuple(made.properties.get("rsgeo:notes", ())), new=False)
    check_replaceable(out)
    job = _Job(out, side, box, tuple(references), resolver, uncertainty, window_px)
    item, notes = job.run(provenance, progress)
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

    def clear(self) -> None:
        """Take away what an interrupted call left unfinished."""
        for path in paths_of(self.path):
            for left in path.parent.glob(f".{glob.escape(path.stem)}.*.stage*.tif"):
                left.unlink(missing_ok=True)

    def withdraw(self) -> None:
        """Take back what is said of an earlier product, whose files are about to be replaced."""
        self.path.with_suffix(".json").unlink(missing_ok=True)

    def drop(self, made: Collection[str]) -> None:
        """Take away side products of an earlier call that this one has not, and what programs noted of old files."""
        for name in BESIDE:
            if name not in made:
                for left in (beside(self.path, name), beside(self.path, name).with_suffix(".qml")):
                    left.unlink(missing_ok=True)
        for path in paths_of(self.path):
            path.with_suffix(".tif.aux.xml").unlink(missing_ok=True)

    def run(self, provenance: Provenance, progress: Progress) -> tuple[pystac.Item, tuple[str, ...]]:
        """Stream the scene through the network, and write rasters, styles and, last, the item."""
        facts, scale = self.resolver.facts, self.resolver.scale
        self.clear()
        reader = SceneReader(self.side, self.box, facts.source, clip=False)
        read = None
        if self.references:
            scaler = facts.reference or facts.target
            read = References(self.references, self.box, scaler, scale, facts.reference_mtf)
        strange = self._freeze(reader, read)
        encoding = Encoding.of(facts.target, facts.sensor("target"))
        tags = {"SYNTHETIC": "YES"}
        finer = divided(self.box, scale)
        bands = len(facts.target.bands)
        plan = strips_of(reader, self.resolver, bands * (2 if self.uncertainty else 1), self.window_px, scale=scale)
        gate = _Gate()
        with ExitStack() as stack:
            image = stack.enter_context(
                StripWriter(
                    self.path, finer, bands, encoding.dtype, encoding.nodata, encoding.names, encoding.unit,
                    encoding.scale, encoding.offset, tags,
                )
            )  # fmt: skip
            others: dict[str, StripWriter] = {}
            if self.uncertainty:
                names = [f"{name} uncertainty" for name in facts.target.bands]
                others["uncertainty"] = stack.enter_context(
                    self._writer("uncertainty", finer, names, encoding.unit, tags)
                )
            if read is not None:
                names = ["similarity", "gate"]
                others["similarity"] = stack.enter_context(self._writer("similarity", self.box, names, "1", tags))
            per_model = (1 / facts.target.gain).astype(np.float32)[:, None, None]
            for done, strip in enumerate(strips(reader, self.resolver, plan, window_px=self.window_px), start=1):
                height, width = strip.valid.shape
                made = {"image": np.zeros((bands, scale * height, scale * width), np.float32)}
                if "uncertainty" in others:
                    made["uncertainty"] = np.zeros_like(made["image"])
                if "similarity" in others:
                    made["similarity"] = np.zeros((2, height, width), np.float32)
                for window in strip.windows():
                    self._window(window, read, made, gate)
                valid = strip.valid.repeat(scale, axis=0).repeat(scale, axis=1)
                image.write(encoding(made["image"], valid), scale * strip.row.start, valid)
                for name, writer in others.items():
                    fine = name == "uncertainty"
                    kept, row = (valid, scale * strip.row.start) if fine else (strip.valid, strip.row.start)
                    layer = made[name] * per_model if fine else made[name]
                    layer[:, ~kept] = np.nan
                    writer.write(layer, row, kept)
                progress(_STAGE, done, len(plan))
            notes = (*strange, *self._notes(gate if read is not None else None))
            known: dict[str, Any] = {"notes": list(notes) or None}
            if read is not None:
                known |= {"gate": round(gate.value, 4), "reference_share": round(gate.share, 4)}
            provenance = replace(provenance, asked={**provenance.asked, **known})
            tags |= provenance.tags()
            if "uncertainty" in others:
                others["uncertainty"].tags = {
                    **tags,
                    "RSGEO_UNCERTAINTY": f"standard deviation over {self.uncertainty} turned and mirrored copies",
                }
            self.withdraw()
        self.drop(others)
        return self._record(provenance), notes

    def _writer(self, name: str, box: GeoBox, names: Sequence[str], unit: str, tags: dict[str, str]) -> StripWriter:
        return StripWriter(
            beside(self.path, name), box, len(names), "float32", float("nan"), names, unit, tags=tags, masked=False
        )

    def _freeze(self, reader: SceneReader, read: References | None) -> tuple[str, ...]:
        """Measure on sample windows what must not change from window to window; say what is strange in them."""
        samples = sample_places(reader, self.resolver.stride, _SAMPLE_PX)
        low = torch.from_numpy(np.stack([sample.values for sample in samples]))
        mask = torch.from_numpy(np.stack([sample.valid for sample in samples])[:, None].astype(np.float32))
        parts: list[torch.Tensor] = []
        if read is not None:
            shown = [read.read(sample.row, sample.col, *sample.valid.shape) for sample in samples]
            parts = [torch.from_numpy(np.stack(part)) for part in zip(*shown, strict=True)]
        self.resolver.freeze(low, mask, *parts)
        return self._strange(np.concatenate([sample.values[:, sample.valid] for sample in samples], axis=1))

    def _strange(self, values: np.ndarray) -> tuple[str, ...]:
        """Say it where most values of a scene are none that the network was trained on."""
        source = self.resolver.facts.source
        beyond = float((np.abs(values) > 1).mean())
        if beyond <= _MOSTLY:
            return ()
        low, high = np.quantile(source.inverse(values), (0.01, 0.99))
        return (
            f"{beyond:.0%} of the scene's values lie outside what the network was trained on: {low:.3g} to {high:.3g} "
            f"{source.unit}, expected {min(source.low):.3g} to {max(source.high):.3g}. Check sensor, scale and offset.",
        )

    def _window(self, window: Window, read: References | None, made: dict[str, np.ndarray], gate: _Gate) -> None:
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
            valid = np.ones(layers.shape[1:], bool) if window.mask is None else window.kept(window.mask)[0] > 0
            seen = window.kept(shown[1].amax(dim=1, keepdim=True), scale)[0] > 0
            seen = seen.reshape(valid.shape[0], scale, valid.shape[1], scale).any(axis=(1, 3))
            gate.add(layers[1][valid & seen], int(valid.sum()))

    def _notes(self, gate: _Gate | None) -> tuple[str, ...]:
        """Say what a person should know about the references."""
        notes = [note for reference in self.references for note in reference.notes(self.resolver.scale)]
        alone = "the product shows what the network makes of the scene alone."
        if gate is not None and not gate.count:
            notes.append(f"The references show nothing of the scene: {alone}")
        elif gate is not None and gate.value < LOW_GATE:
            notes.append(
                f"The references resemble the scene nowhere (mean gate {gate.value:.3f}, below {LOW_GATE:g}): {alone}"
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
            path = beside(self.path, name)
            if path.is_file():
                assets |= {name: path}
                titles |= {name: title}
                write_text(path.with_suffix(".qml"), qml(Scaler("", "", shown, (0.0,), (high,))))
        properties = provenance.properties()
        if not self.side.item.properties.get("rsgeo:dated", True):
            properties["rsgeo:dated"] = False
        item = make_item(
            "scene",
            divided(self.box, scale),
            when=self.side.item.datetime or NO_DATE,
            properties=properties,
            assets={name: path.resolve() for name, path in assets.items()},
            titles=titles,
        )
        item.id = self.path.stem
        write_item(item, self.path.with_suffix(".json"))
        return item


@dataclass
class _Gate:
    """Running mean of the gate where references show something, and how much of the scene that is."""

    total: float = 0.0
    count: int = 0
    every: int = 0

    def add(self, seen: np.ndarray, every: int) -> None:
        self.total += float(seen.sum(dtype=np.float64))
        self.count += seen.size
        self.every += every

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else 0.0

    @property
    def share(self) -> float:
        return self.count / self.every if self.every else 0.0

"""What a series came to: a displacement a scene, and what every pair said."""

from __future__ import annotations

from dataclasses import dataclass

from odc.geo.geobox import GeoBox

from rsgeo_gan.coregister.registration import Registration
from rsgeo_gan.displacement import Displacement

__all__ = ["SeriesEdge", "SeriesResult", "SeriesScene"]


@dataclass(frozen=True)
class SeriesScene:
    """One scene of a series.

    Attributes:
        name: Its name in folders and tables.
        displacement: Where its content lies relative to the reference, by the whole network. Its reason is
            that of a single pair, or "contradicted by its neighbours", "not connected" or "unreadable".
        n_edges: Pairs that support it.
        residual_px: Root mean square distance of its pairs from the solution; NaN without any.
        direct: The pair of the reference and this scene alone, when it could be measured.
        error: Why the file cannot be read, in a sentence; else empty.
    """

    name: str
    displacement: Displacement
    n_edges: int
    residual_px: float
    direct: Registration | None
    error: str = ""


@dataclass(frozen=True)
class SeriesEdge:
    """One measured pair of a series; scene 0 is the reference, scene n the n-th of the list.

    Attributes:
        start: Number of the scene that the measurement is relative to.
        stop: Number of the scene whose content was looked for.
        measured_px: Mean dx, dy in pixels of the reference; NaN when declined.
        fitted_px: The same by the solved network; NaN where that says nothing.
        residual_px: Root mean square distance of the two over the reference grid; NaN where unknown.
        sigma_px: Stated error of the pair, reference pixels.
        used: Whether it holds.
        reason: Why it was declined or not used; empty when it holds.
    """

    start: int
    stop: int
    measured_px: tuple[float, float]
    fitted_px: tuple[float, float]
    residual_px: float
    sigma_px: float
    used: bool
    reason: str


@dataclass(frozen=True)
class SeriesResult:
    """A series aligned to its reference.

    Attributes:
        geobox: The reference's grid; its pixels are the unit.
        scenes: The scenes in the order given.
        edges: All pairs that were measured.
    """

    geobox: GeoBox
    scenes: tuple[SeriesScene, ...]
    edges: tuple[SeriesEdge, ...]

    @property
    def summary(self) -> str:
        """What came of it, a line a scene, for a person."""
        good = sum(scene.displacement.reliable for scene in self.scenes)
        used = sum(edge.used for edge in self.edges)
        first = f"{good} of {len(self.scenes)} scenes placed by {used} of {len(self.edges)} pairs"
        return "\n".join([first, *(_in_words(scene) for scene in self.scenes)])


def _in_words(scene: SeriesScene) -> str:
    found = scene.displacement
    if not found.reliable:
        return f"{scene.name}: DECLINED, geometry left alone: {found.reason}"
    numbers = f"dx {found.dx_px:+.2f} px, dy {found.dy_px:+.2f} px, σ {found.sigma_px:.2f} px"
    return f"{scene.name}: {found.model}, {numbers}, {scene.n_edges} pairs"

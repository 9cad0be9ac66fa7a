"""Choose which source and target scenes form a pair: footprint, time, cloud and look.

The rule. A pair overlaps by `min_overlap_share` of the smaller footprint and is at most `max_gap_days`
apart; optical scenes with more cloud than `max_cloud_pct` are not used. Looks (orbit state and relative
orbit of the SAR scene) are not mixed unasked: among sources whose footprints hang together, the look that
serves most sources is kept (then the smaller mean gap, then the name). Each source takes the target closest
in time (then the larger overlap, then the id).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import pystac
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from rsgeo_gan.manifest import Dropped
from rsgeo_gan.sensors import Sensor, get_sensor

__all__ = ["Candidate", "Rules", "Scene", "choose_pairs"]

STAGE = "coregister"

Look = tuple[str, str]


class Rules(Protocol):
    """The part of the catalogue's `pairing` that decides who meets whom."""

    @property
    def max_gap_days(self) -> float: ...  # noqa: D102
    @property
    def max_cloud_pct(self) -> float: ...  # noqa: D102
    @property
    def orbit_state(self) -> str | None: ...  # noqa: D102
    @property
    def relative_orbit(self) -> int | None: ...  # noqa: D102
    @property
    def mix_orbits(self) -> bool: ...  # noqa: D102
    @property
    def min_overlap_share(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class Scene:
    """A scene item with what pairing asks of it."""

    item: pystac.Item
    sensor: Sensor
    footprint: BaseGeometry
    time: datetime | None

    @classmethod
    def of(cls, item: pystac.Item) -> Scene:
        """Read a scene item.

        Raises:
            SourceError: If its sensor is not known.
        """
        text = item.properties.get("start_datetime")
        when = item.datetime or (datetime.fromisoformat(text) if text else None)
        if when is not None and when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return cls(item, get_sensor(item.properties["rsgeo:sensor"]), shape(item.geometry), when)

    @property
    def is_sar(self) -> bool:
        """Whether the scene is a radar image."""
        return self.sensor.modality == "sar"

    @property
    def look(self) -> Look:
        """Orbit state and relative orbit, "" where not recorded."""
        found = self.item.properties
        state, orbit = found.get("rsgeo:orbit_state"), found.get("rsgeo:relative_orbit")
        return str(state or ""), "" if orbit is None else str(int(orbit))


@dataclass(frozen=True)
class Candidate:
    """A source and a target that may form a pair."""

    source: Scene
    target: Scene
    overlap_share: float
    gap_days: float

    @property
    def looks(self) -> tuple[Look, ...]:
        """Looks of the SAR scenes in the pair."""
        return tuple(scene.look for scene in (self.source, self.target) if scene.is_sar)


def choose_pairs(scenes: list[pystac.Item], rules: Rules) -> tuple[list[Candidate], list[Dropped]]:
    """Form the pairs of a run.

    Args:
        scenes: Scene items of both sides, with `rsgeo:side` and `rsgeo:sensor`.
        rules: Limits, see the module.

    Returns:
        The pairs, in the order of their sources, and the scenes left out with the reason.

    Raises:
        SourceError: If a scene's sensor is not known.
    """
    dropped: list[Dropped] = []
    sides: dict[str, list[Scene]] = {"source": [], "target": []}
    for item in scenes:
        scene = Scene.of(item)
        refusal = _refuse(scene, rules)
        if refusal is None:
            sides[item.properties["rsgeo:side"]].append(scene)
        else:
            dropped.append(Dropped(item.id, STAGE, *refusal))
    meetings = {s.item.id: [_meet(s, t) for t in sides["target"]] for s in sides["source"]}
    possible = [c for found in meetings.values() for c in found if _admissible(c, rules)]
    kept = possible if rules.mix_orbits else _one_look(possible, dropped)
    chosen: list[Candidate] = []
    for source in sides["source"]:
        mine = [c for c in kept if c.source is source]
        if mine:
            chosen.append(min(mine, key=lambda c: (c.gap_days, -c.overlap_share, c.target.item.id)))
        elif not any(c.source is source for c in possible):
            reason = _why_alone(source, meetings[source.item.id], rules)
            dropped.append(Dropped(source.item.id, STAGE, "no partner", reason))
        elif not any(entry.id == source.item.id for entry in dropped):
            reason = f"Scene {source.item.id} only meets scenes of another look; set mix_orbits to use them."
            dropped.append(Dropped(source.item.id, STAGE, "other look", reason))
    return chosen, dropped


def _refuse(scene: Scene, rules: Rules) -> tuple[str, str] | None:
    """Code and reason why a scene is used in no pair."""
    name = scene.item.id
    if scene.time is None:
        return "no time", f"Scene {name} has no acquisition time; add datetime to its item."
    if not scene.is_sar:
        cloud = scene.item.properties.get("eo:cloud_cover")
        if cloud is not None and float(cloud) > rules.max_cloud_pct:
            return (
                "cloud",
                f"Scene {name} has {float(cloud):.0f} % cloud, more than max_cloud_pct {rules.max_cloud_pct:g}.",
            )
        return None
    state, orbit = scene.look
    if rules.orbit_state is not None and state != rules.orbit_state:
        return "other look", f"Scene {name} is of orbit state {state or 'unknown'}, not {rules.orbit_state} as asked."
    if rules.relative_orbit is not None and orbit != str(rules.relative_orbit):
        return (
            "other look",
            f"Scene {name} is of relative orbit {orbit or 'unknown'}, not {rules.relative_orbit} as asked.",
        )
    return None


def _meet(source: Scene, target: Scene) -> Candidate:
    smaller = min(source.footprint.area, target.footprint.area)
    common = source.footprint.intersection(target.footprint).area if smaller > 0 else 0.0
    assert source.time is not None
    assert target.time is not None
    gap = abs((source.time - target.time).total_seconds()) / 86400.0
    return Candidate(source, target, common / smaller if smaller > 0 else 0.0, gap)


def _admissible(candidate: Candidate, rules: Rules) -> bool:
    return candidate.overlap_share >= rules.min_overlap_share and candidate.gap_days <= rules.max_gap_days


def _one_look(possible: list[Candidate], dropped: list[Dropped]) -> list[Candidate]:
    """Keep the look that serves most sources in each area; record scenes of the others."""
    kept: list[Candidate] = []
    for area in _areas(possible):
        by_look: dict[tuple[Look, ...], list[Candidate]] = defaultdict(list)
        for candidate in area:
            by_look[candidate.looks].append(candidate)
        best = min(by_look, key=lambda look: (-_served(by_look[look]), _mean_gap(by_look[look]), look))
        kept += by_look[best]
        used = {scene.item.id for c in by_look[best] for scene in (c.source, c.target)}
        for look, others in by_look.items():
            for scene in {s.item.id: s for c in others for s in (c.source, c.target) if s.is_sar}.values():
                if look != best and scene.item.id not in used:
                    reason = (
                        f"Scene {scene.item.id} is of look {_name(look)}; its area keeps {_name(best)}, which serves "
                        f"{_served(by_look[best])} scenes. Set mix_orbits or relative_orbit to use others."
                    )
                    dropped.append(Dropped(scene.item.id, STAGE, "other look", reason))
                    used.add(scene.item.id)
    return kept


def _areas(possible: list[Candidate]) -> list[list[Candidate]]:
    """Candidates grouped so that footprints of different groups do not touch."""
    groups: list[tuple[BaseGeometry, list[Candidate]]] = []
    for candidate in possible:
        shape_, members = candidate.source.footprint, [candidate]
        rest = []
        for other, held in groups:
            if other.intersection(shape_).area > 0:
                shape_, members = shape_.union(other), held + members
            else:
                rest.append((other, held))
        groups = [*rest, (shape_, members)]
    return [members for _, members in groups]


def _served(candidates: list[Candidate]) -> int:
    return len({c.source.item.id for c in candidates})


def _mean_gap(candidates: list[Candidate]) -> float:
    return sum(c.gap_days for c in candidates) / len(candidates)


def _name(looks: tuple[Look, ...]) -> str:
    words = [" ".join(part for part in (state, f"orbit {orbit}" if orbit else "") if part) for state, orbit in looks]
    return " / ".join(word or "unknown" for word in words)


def _why_alone(source: Scene, meetings: list[Candidate], rules: Rules) -> str:
    name = source.item.id
    near = [c for c in meetings if c.overlap_share >= rules.min_overlap_share]
    if near:
        best = min(near, key=lambda c: c.gap_days)
        return (
            f"Scene {name}: the closest overlapping scene {best.target.item.id} is {best.gap_days:.1f} days away, "
            f"more than max_gap_days {rules.max_gap_days:g}."
        )
    best_share = max((c.overlap_share for c in meetings), default=0.0)
    return (
        f"Scene {name}: no target scene covers it; the largest overlap is {best_share:.0%} of the smaller footprint, "
        f"less than min_overlap_share {rules.min_overlap_share:g}."
    )

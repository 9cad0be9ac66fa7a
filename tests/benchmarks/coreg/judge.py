"""Runs methods on cases and says how far each answer is from the truth; every result is a row that is kept.

Blocks and what is true in them:

* "exact same band": the moving side is another look at the reference itself; nothing but the case is between them;
* "exact other band": two bands of one acquisition; the truth is the case alone, so that an offset between the bands
  counts as error;
* "sample": invented land seen by both sensors; the truth is the case alone;
* "tie points": the case on top of a smooth surface through the manual points;
* "consistency": the case on top of the method's own answer for the untouched pair, so that a constant bias does not
  show; a method that declines the untouched pair fails in all its cases;
* "well aligned": untouched pairs of one grid; the error is how far the method moves them;
* "unrelated": different places or no content at all; accepting is the error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from coreg.cases import CASES, Case, Points, Tile, another_look, cut, damage, draw_warp, generator, moved, named
from coreg.pairs import MARGIN_PX, Pair
from coreg.rivals import Answer, Method, Unavailable

__all__ = [
    "BLOCKS",
    "GROSS_PX",
    "Problem",
    "Row",
    "Settings",
    "Store",
    "judged",
    "plan",
    "problem",
    "run",
    "run_strangers",
    "strangers",
]

BLOCKS = (
    "exact same band",
    "exact other band",
    "sample",
    "tie points",
    "consistency",
    "well aligned",
    "unrelated",
)
GROSS_PX = 3.0
"""An accepted answer that is further off is a wrong answer."""

_SIDE_POINTS = 12
_LEAST_KNOWN = 0.2
_NEAR_EDGE_PX = 2.0
_KINDS = (
    "other place",
    "other place",
    "other place, one sensor",
    "other place",
    "cloud",
    "sea",
    "other place",
    "speckle",
    "other place",
    "nothing at all",
)


@dataclass(frozen=True)
class Settings:
    """What is run.

    Attributes:
        tile_px: Largest side of a tile.
        reach_px: Largest mean displacement that methods are told to look for.
        draws: Draws of every case but the untouched one.
        cases: Names of cases; all when empty.
        strangers: Unrelated combinations.
    """

    tile_px: int = 512
    reach_px: float = 12.0
    draws: int = 3
    cases: tuple[str, ...] = ()
    strangers: int = 240


@dataclass(frozen=True)
class Row:
    """One method's result on one case.

    Attributes:
        error_px: Root mean square distance from the truth over a grid of positions; None when declined.
        before_px: The same for no change at all.
        moved_px: Root mean square length of the answer.
        answer: Displacement at the grid's positions, kept for untouched pairs, to which others are compared.
    """

    method: str
    block: str
    group: str
    pair: str
    part: str
    case: str
    draw: int
    ok: bool
    error_px: float | None
    before_px: float | None
    moved_px: float | None
    sigma_px: float | None
    confidence: float | None
    seconds: float
    megapixels: float
    note: str = ""
    answer: list[list[float]] | None = None

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        return (self.method, self.block, self.pair, self.case, self.draw)


@dataclass(frozen=True)
class Problem:
    """Two tiles and the truth between them.

    Attributes:
        reference: Tile that gives the geometry.
        moving: Tile whose content lies elsewhere.
        points: Positions that are judged, (N, 2).
        truth: Displacement there, (N, 2), given what the untouched pair already has there.
    """

    reference: Tile
    moving: Tile
    points: Points
    truth: Callable[[Points], Points]


class Store:
    """Rows in a file, one JSON object a line; what is in it is not run again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[Row] = []
        if path is not None and path.is_file():
            self.rows = [Row(**json.loads(line)) for line in path.read_text().splitlines() if line.strip()]
        self._known = {row.key: row for row in self.rows}

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self._known[row.key] = row
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")

    def get(self, *key: Any) -> Row | None:
        return self._known.get(key)


def grid(shape: tuple[int, int]) -> Points:
    """12 x 12 positions spread over a tile, a little inside its edges."""
    height, width = shape
    steps = np.linspace(0.06, 0.94, _SIDE_POINTS)
    return np.stack(np.meshgrid(steps * (width - 1), steps * (height - 1)), axis=-1).reshape(-1, 2)


def problem(pair: Pair, images: tuple[Tile, Tile], case: Case, draw: int, tile_px: int = 512) -> Problem:
    """Make the two tiles of a case and the truth.

    Args:
        pair: The pair.
        images: Its images, as `pair.load()` gives them.
        case: What is done.
        draw: Which draw.
        tile_px: Largest side of the tiles.

    Returns:
        The problem; the same arguments give the same one.
    """
    reference, moving = images
    image = reference.values.shape
    margin = min(MARGIN_PX, min(image) // 16)
    shape = (min(tile_px, image[0] - 2 * margin), min(tile_px, image[1] - 2 * margin))
    corner = ((image[0] - shape[0]) // 2, (image[1] - shape[1]) // 2)
    rng = generator(pair.name, case.name, draw)
    warp = draw_warp(case, shape, rng)
    here = replace(reference, values=cut(reference.values, corner, shape))
    there = moved(moving, warp, corner, shape)
    if pair.block == "exact same band":
        there = another_look(there, rng)
    known = np.isfinite(here.values)
    points = grid(shape)
    inside = known[np.round(points[:, 1]).astype(int), np.round(points[:, 0]).astype(int)]
    here, there = damage(here, there, case, rng)
    manual = pair.residual()
    offset = np.array([corner[1], corner[0]], float)

    def truth(already: Points) -> Points:
        base = already if manual is None else manual(chosen + offset)
        return base + warp(chosen + base)

    # Where content has left the moving tile nothing can be known.
    chosen = points[inside]
    at = chosen + truth(np.zeros_like(chosen))
    seen = ((at >= _NEAR_EDGE_PX) & (at <= np.array(shape[::-1]) - 1 - _NEAR_EDGE_PX)).all(axis=1)
    chosen = chosen[seen]
    return Problem(here, there, chosen, truth)


def judged(answer: Answer, found: Problem, already: Points | None = None) -> tuple[float | None, float, float | None]:
    """Error of an answer, error of no change, and length of the answer, pixels."""
    truth = found.truth(np.zeros_like(found.points) if already is None else already)
    before = _rms(truth)
    if not answer.ok or answer.at is None:
        return None, before, None
    said = answer.at(found.points)
    return _rms(said - truth), before, _rms(said)


def plan(pairs: Sequence[Pair], settings: Settings) -> Iterator[tuple[Pair, Case, int]]:
    """Everything that is to be run, untouched first, pair after pair."""
    for pair in pairs:
        for case in named(settings.cases):
            untouched = case is CASES[0]
            if pair.block == "well aligned" and not untouched:
                continue
            for draw in range(1 if untouched else settings.draws):
                yield pair, case, draw


def run(
    pairs: Sequence[Pair],
    methods: Mapping[str, Method],
    settings: Settings,
    store: Store,
    *,
    deadline: float = float("inf"),
    say: Callable[[str], None] = lambda text: None,
) -> bool:
    """Run what is not in the store yet.

    Args:
        pairs: Pairs of all blocks but "unrelated".
        methods: Methods by name; one that is not installed is skipped with a word.
        settings: What is run.
        store: Where rows go.
        deadline: `time.monotonic()` after which nothing new is begun.
        say: Takes a line of progress.

    Returns:
        Whether everything was run.
    """
    absent: set[str] = set()
    images, last = None, None
    for pair, case, draw in plan(pairs, settings):
        wanted = [
            n for n in methods if n not in absent and store.get(n, pair.block, pair.name, case.name, draw) is None
        ]
        if not wanted:
            continue
        if time.monotonic() > deadline:
            return False
        if pair is not last or images is None:
            images, last = pair.load(), pair
            say(f"{pair.block}: {pair.name}")
        made = problem(pair, images, case, draw, settings.tile_px)
        known = min(np.isfinite(tile.values).mean() for tile in (made.reference, made.moving))
        if known < _LEAST_KNOWN or len(made.points) < _SIDE_POINTS:
            continue
        mean = made.truth(np.zeros_like(made.points)).mean(axis=0)
        if np.linalg.norm(mean) > settings.reach_px:
            continue
        for name in wanted:
            try:
                answer = _asked(methods[name], made, settings.reach_px)
            except Unavailable as error:
                absent.add(name)
                say(f"skipped {name}: {error}")
                continue
            store.add(_row(name, pair, case, draw, answer, made, store))
    return True


def _asked(method: Method, made: Problem, reach_px: float) -> Answer:
    try:
        return method(made.reference, made.moving, reach_px)
    except Unavailable:
        raise
    except Exception as error:  # a failure is a result
        return Answer(False, None, float("nan"), note=repr(error)[:120])


def _row(name: str, pair: Pair, case: Case, draw: int, answer: Answer, made: Problem, store: Store) -> Row:
    already, ok = None, answer.ok
    untouched = case is CASES[0]
    keep = None
    if pair.block == "consistency":
        if untouched:
            full = grid(made.reference.values.shape)
            keep = np.round(answer.at(full), 4).tolist() if answer.ok and answer.at is not None else None
        else:
            base = store.get(name, pair.block, pair.name, CASES[0].name, 0)
            if base is None or base.answer is None:
                ok = False
            else:
                everywhere = grid(made.reference.values.shape)
                index = ((everywhere[:, None] - made.points[None]) ** 2).sum(-1).argmin(0)
                already = np.array(base.answer)[index]
    error, before, length = judged(answer if ok else replace(answer, ok=False), made, already)
    return Row(
        method=name,
        block=pair.block,
        group=pair.group,
        pair=pair.name,
        part=pair.part,
        case=case.name,
        draw=draw,
        ok=ok,
        error_px=_short(error),
        before_px=_short(before),
        moved_px=_short(length),
        sigma_px=_short(answer.sigma_px),
        confidence=_short(answer.confidence),
        seconds=round(answer.seconds, 4),
        megapixels=made.reference.values.size / 1e6,
        note=answer.note if ok or not answer.ok else "untouched pair declined",
        answer=keep,
    )


def strangers(pairs: Sequence[Pair], settings: Settings) -> Iterator[tuple[str, str, Callable[[], tuple[Tile, Tile]]]]:
    """Combinations that have nothing in common: name, kind, and how to make the tiles.

    Two thirds are other places (optical with SAR, some optical with optical), the rest has no content of its own:
    speckle alone, sea with swell, cloud-like fields, against real tiles and against each other.

    Args:
        pairs: Pairs of the consistency block.
        settings: How many, and their size.
    """
    real = [pair for pair in pairs if pair.block == "consistency"]
    if len(real) < 3:
        return
    for number in range(settings.strangers):
        kind = _KINDS[number % len(_KINDS)]
        first = real[number % len(real)]
        step = 1 + number // len(real) % (len(real) - 1)
        second = real[(number + step) % len(real)]
        name = f"{first.name}|{second.name if 'place' in kind else kind}"

        def make(
            kind: str = kind, first: Pair = first, second: Pair = second, number: int = number
        ) -> tuple[Tile, Tile]:
            rng = generator("stranger", kind, number)
            here, there = first.load()
            if "place" in kind:
                other = second.load()
                return _shared(here, other[0] if "one sensor" in kind else other[1], settings.tile_px)
            shape = (min(settings.tile_px, here.values.shape[0]), min(settings.tile_px, here.values.shape[1]))
            if kind == "cloud":
                return _shared(Tile(_cloud(shape, rng), "dn", "optical"), there, settings.tile_px)
            if kind == "nothing at all":
                return Tile(_cloud(shape, rng), "dn", "optical"), Tile(_sea(shape, rng), "linear", "sar")
            empty = _sea(shape, rng) if kind == "sea" else rng.gamma(1.0, 0.1, shape).astype(np.float32)
            return _shared(here, Tile(empty, "linear", "sar"), settings.tile_px)

        yield f"{name}#{number}", kind, make


def run_strangers(
    pairs: Sequence[Pair],
    methods: Mapping[str, Method],
    settings: Settings,
    store: Store,
    *,
    part: str,
    deadline: float = float("inf"),
    say: Callable[[str], None] = lambda text: None,
) -> bool:
    """Run the unrelated combinations that are not in the store; arguments as `run`."""
    absent: set[str] = set()
    for name, kind, make in strangers(pairs, settings):
        wanted = [n for n in methods if n not in absent and store.get(n, "unrelated", name, kind, 0) is None]
        if not wanted:
            continue
        if time.monotonic() > deadline:
            return False
        reference, moving = make()
        for method in wanted:
            made = Problem(reference, moving, grid(reference.values.shape), lambda already: already)
            try:
                answer = _asked(methods[method], made, settings.reach_px)
            except Unavailable as error:
                absent.add(method)
                say(f"skipped {method}: {error}")
                continue
            _, _, length = judged(answer, made)
            store.add(
                Row(
                    method=method, block="unrelated", group=kind, pair=name, part=part, case=kind, draw=0, ok=answer.ok,
                    error_px=None, before_px=None, moved_px=_short(length), sigma_px=_short(answer.sigma_px),
                    confidence=_short(answer.confidence), seconds=round(answer.seconds, 4),
                    megapixels=reference.values.size / 1e6, note=answer.note,
                )
            )  # fmt: skip
    return True


def _shared(here: Tile, there: Tile, tile_px: int) -> tuple[Tile, Tile]:
    height, width = (min(tile_px, a, b) for a, b in zip(here.values.shape, there.values.shape, strict=True))
    return replace(here, values=here.values[:height, :width]), replace(there, values=there.values[:height, :width])


def _cloud(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Bright soft field of all lengths, spectrum falling with the third power, in reflectance DN."""
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    length = np.hypot(rows, columns)
    length[0, 0] = 1.0
    noise = np.fft.rfft2(rng.normal(size=shape))
    field = np.fft.irfft2(noise * length**-1.7, s=shape)
    level = (field - field.mean()) / field.std()
    return (4000 + 1500 * np.tanh(level) + rng.normal(0, 25, shape)).astype(np.float32)


def _sea(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Weak swell of one direction under two-look speckle, linear power."""
    row, column = np.mgrid[: shape[0], : shape[1]]
    direction, wavelength = rng.uniform(0, np.pi), rng.uniform(12, 30)
    wave = np.sin(2 * np.pi / wavelength * (np.cos(direction) * column + np.sin(direction) * row))
    slow = ndimage.gaussian_filter(rng.normal(size=shape), 60.0)
    power = 0.02 * (1 + 0.15 * wave + 0.3 * slow / slow.std())
    return (np.clip(power, 1e-3, None) * rng.gamma(2.0, 0.5, shape)).astype(np.float32)


def _rms(vectors: Points) -> float:
    return float(np.sqrt((vectors**2).sum(axis=1).mean()))


def _short(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)

"""Moves one scene through a generator in strips: read ahead, translate windows, hand over to a writer.

Memory is a few strips (scene width times window height) plus one window's activations, whatever the height
of the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import torch
from odc.geo.geobox import GeoBox

from rsgeo_gan.errors import SourceError
from rsgeo_gan.sensors import Scaler
from rsgeo_gan.tiling import Side

__all__ = [
    "Network",
    "Sample",
    "SceneReader",
    "Span",
    "Strip",
    "Window",
    "noise_rows",
    "sample_places",
    "sample_windows",
    "spans",
    "strips",
    "strips_of",
    "translate",
]

CHUNK_PX = 128
"""Rows read at a time, counted from the scene's first row: a part of a block in most files, whose other rows GDAL's
cache keeps. Lower chunks cost decoding, higher ones memory with the width."""

STRIP_BYTES = 64 << 20
"""Wanted size of a strip, input and output together; strips of finer pixels may be larger by their scale."""

SAMPLE_PX = 256
"""Side of a sample window of the first pass."""

SAMPLES = 8
"""Sample windows of the first pass; together as many pixels as one prediction window and its halo."""


@dataclass(frozen=True)
class Span:
    """A stretch of rows or columns: what is kept, and what is read for it.

    Attributes:
        start: First kept pixel.
        stop: Pixel after the last kept one.
        read_start: First pixel read; a whole multiple of the network's stride.
        read_stop: Pixel after the last one read.
    """

    start: int
    stop: int
    read_start: int
    read_stop: int

    @property
    def kept(self) -> slice:
        """The kept part, counted from the first pixel read."""
        return slice(self.start - self.read_start, self.stop - self.read_start)


def spans(length: int, core_px: int, halo_px: int, stride: int, *, even: bool = False) -> list[Span]:
    """Cut an axis into cores with halos, clipped at both ends of the scene.

    Args:
        length: Pixels of the axis.
        core_px: Wanted length of a core; rounded up to the stride.
        halo_px: Margin on either side, a whole multiple of the stride.
        stride: Reads begin at whole multiples of it, counted from the scene's origin.
        even: Make all cores about equally long instead of leaving a short one at the end.

    Returns:
        Spans whose cores cover the axis once, in order.
    """
    if even:
        core_px = -(-length // -(-length // core_px))
    step = -(-core_px // stride) * stride
    return [
        Span(start, min(start + step, length), max(0, start - halo_px), min(length, start + step + halo_px))
        for start in range(0, length, step)
    ]


@dataclass(frozen=True)
class SceneReader:
    """Reads a scene on the grid of its product, in model units.

    Attributes:
        side: The scene, its bands and its displacement, read exactly as tiles are.
        box: Grid of the product.
        scaler: Analysis units to model units, bands in the side's order.
        clip: Bring values beyond the training's range to its ends.
        factor: Whole pixels of the scene along one of the product, where it is the finer of the two.
        mtf: Contrast at the Nyquist frequency of the product that a finer scene is brought to; None for plain
            anti-aliased resampling.
    """

    side: Side
    box: GeoBox
    scaler: Scaler
    clip: bool = True
    factor: int = 1
    mtf: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the product."""
        return int(self.box.shape.y), int(self.box.shape.x)

    def read(self, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a window in one resampling, or none where scene and product share a lattice.

        Args:
            row: First row on `box`.
            col: First column on `box`.
            height: Rows.
            width: Columns.

        Returns:
            float32 of shape (C, height, width), 0 where invalid, and validity (height, width); values are in
            [-1, 1] when clipped.
        """
        values = self.side.seen(self.box[row : row + height, col : col + width], self.factor, self.mtf)
        valid = ~np.isnan(values[0])
        gain, bias = self.scaler.gain, self.scaler.bias
        if self.side.sensor.analysis_unit == "reflectance":
            gain, bias = gain * self.side.sensor.scale, bias + gain * self.side.offset
        for band, factor, shift in zip(values, gain.astype(np.float32), bias.astype(np.float32), strict=True):
            np.multiply(band, factor, out=band)
            np.add(band, shift, out=band)
        if self.clip:
            np.clip(values, -1, 1, out=values)
        if not valid.all():
            values[:, ~valid] = 0
        return values, valid


def sample_windows(reader: SceneReader, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Read full-resolution windows spread over the valid part of a scene, the same ones every time.

    Args:
        reader: The scene.
        stride: Windows begin at whole multiples of it and have such a side, where the scene is large enough.

    Returns:
        Windows of shape (N, C, side, side), 0 where invalid, and validity (N, side, side).

    Raises:
        SourceError: If the scene has no valid pixel at all.
    """
    taken = sample_places(reader, stride)
    return np.stack([sample.values for sample in taken]), np.stack([sample.valid for sample in taken])


@dataclass(frozen=True)
class Sample:
    """A window of the first pass.

    Attributes:
        row: Its first row.
        col: Its first column.
        values: Shape (C, side, side), model units, 0 where invalid.
        valid: Validity, shape (side, side).
    """

    row: int
    col: int
    values: np.ndarray
    valid: np.ndarray

    @property
    def share(self) -> float:
        """Share of valid pixels."""
        return float(self.valid.mean())


def sample_places(reader: SceneReader, stride: int, side_px: int = SAMPLE_PX) -> list[Sample]:
    """Read full-resolution windows spread over the valid part of a scene, and say where they are.

    Cells of `side_px` are visited in an order that spreads (steps of the golden section); windows at
    least half valid are taken until there are `SAMPLES`. Where the scene has too few of them, those with
    the most valid pixels are taken.

    Args:
        reader: The scene.
        stride: Windows begin at whole multiples of it and have such a side, where the scene is large enough.
        side_px: Side of a window.

    Raises:
        SourceError: If the scene has no valid pixel at all.
    """
    height, width = reader.shape
    rows, cols = (_side(length, stride, side_px) for length in (height, width))
    cells = [(row, col) for row in _starts(height, rows, stride) for col in _starts(width, cols, stride)]
    taken: list[Sample] = []
    for cell in _spread(len(cells)):
        sample = Sample(*cells[cell], *reader.read(*cells[cell], rows, cols))
        if sample.share > 0:
            taken.append(sample)
        if len(taken) > SAMPLES:
            taken.remove(min(taken, key=lambda sample: sample.share))
        if len(taken) == SAMPLES and all(sample.share >= 0.5 for sample in taken):
            break
    if not taken:
        raise SourceError(
            f"{reader.side.path}: no valid pixel on the product's grid of {height} x {width} pixels; every pixel is "
            "nodata or masked as cloud. Drop the scene, or check its nodata value and class mask."
        )
    return taken


def _side(length: int, stride: int, wanted: int) -> int:
    side = min(wanted, length)
    return max(side // stride * stride, min(side, stride))


def _starts(length: int, side: int, stride: int) -> list[int]:
    last = (length - side) // stride * stride
    return sorted({min(start, last) for start in range(0, length, side)})


def _spread(n: int) -> Iterator[int]:
    step = max(1, round(n * 0.6180339887498949))
    while np.gcd(step, n) != 1:
        step += 1
    return ((k * step) % n for k in range(n))


class Windowed(Protocol):
    """What is to be known of a network before a scene is cut into windows for it."""

    halo_px: int
    stride: int
    noise_channels: int


class Network(Windowed, Protocol):
    """What `translate` needs to know about a generator."""

    def __call__(
        self, batch: torch.Tensor, mask: torch.Tensor | None = None, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Translate a batch (B, C, H, W) in model units; a float32 CPU tensor of the same size comes back."""
        ...


Write = Callable[[np.ndarray, int, np.ndarray], None]
"""Receives model values (C, h, W), the first row and the validity (h, W) of a finished strip."""


@dataclass(frozen=True)
class Strip:
    """A stretch of rows of a scene, read with its halo, and the windows that it is cut into.

    Attributes:
        row: Which rows are kept, and which were read.
        valid: Validity of the kept rows, shape (h, W).
    """

    row: Span
    valid: np.ndarray
    _columns: Sequence[Span]
    _read: tuple[np.ndarray, np.ndarray, np.ndarray]

    def windows(self) -> Iterator[Window]:
        """Return the windows that have any valid pixel to keep, from left to right."""
        values, valid, noise = self._read
        for col in self._columns:
            if not self.valid[:, col.start : col.stop].any():
                continue
            across = slice(col.read_start, col.read_stop)
            whole = bool(valid[:, across].all())
            yield Window(
                self.row,
                col,
                _tensor(values[:, :, across]),
                None if whole else _tensor(valid[None, :, across].astype(np.float32)),
                _tensor(noise[:, :, across]) if len(noise) else None,
            )


@dataclass(frozen=True)
class Window:
    """A piece of a strip, as a network takes it.

    Attributes:
        row: Its rows, counted on the scene.
        col: Its columns, counted on the scene.
        values: Shape (1, C, h, w), model units, 0 where invalid.
        mask: Validity, shape (1, 1, h, w); None where all of it is valid.
        noise: Standard normal noise, shape (1, N, h, w), for generators that take some.
    """

    row: Span
    col: Span
    values: torch.Tensor
    mask: torch.Tensor | None
    noise: torch.Tensor | None

    def kept(self, answer: torch.Tensor, scale: int = 1) -> np.ndarray:
        """Return what is kept of an answer (1, C, scale · h, scale · w), shape (C, ...)."""
        rows, cols = (slice(scale * part.start, scale * part.stop) for part in (self.row.kept, self.col.kept))
        kept: np.ndarray = answer[0, :, rows, cols].numpy()
        return kept


def strips(
    reader: SceneReader, network: Windowed, plan: Sequence[Span], *, window_px: int, seed: int = 0
) -> Iterator[Strip]:
    """Read a scene from top to bottom, the next rows while a strip is worked on.

    Args:
        reader: The scene, on the product's grid.
        network: The generator.
        plan: What `strips_of` returned.
        window_px: Side of a window's core; its halo comes on top.
        seed: Seed of the noise field.

    Yields:
        Strips in order; each lasts until the next is asked for.
    """
    columns = spans(reader.shape[1], window_px, network.halo_px, network.stride, even=True)
    most_rows = max(strip.read_stop - strip.read_start for strip in plan)
    with _Rows(reader, most_rows, network.noise_channels, seed) as rows:
        for row in plan:
            read = rows.take(row.read_start, row.read_stop)
            yield Strip(row, read[1][row.kept].copy(), columns, read)


def translate(
    reader: SceneReader,
    network: Network,
    write: Write,
    *,
    channels: int,
    window_px: int = 512,
    seed: int = 0,
    done: Callable[[], None] = lambda: None,
) -> None:
    """Translate a whole scene, strip by strip from top to bottom.

    Windows without any valid pixel to keep are not computed. A generator that takes noise gets a field
    that is a function of seed, row and column alone, so noise has no seams either.

    Args:
        reader: The scene, on the product's grid.
        network: The generator, with normalisation frozen.
        write: Takes each finished strip; the array is its own.
        channels: Bands that the generator gives.
        window_px: Side of a window's core; its halo comes on top.
        seed: Seed of the noise field.
        done: Called after each strip.
    """
    plan = strips_of(reader, network, channels, window_px)
    for strip in strips(reader, network, plan, window_px=window_px, seed=seed):
        out = np.zeros((channels, *strip.valid.shape), np.float32)
        for window in strip.windows():
            answer = network(window.values, window.mask, window.noise)
            out[:, :, window.col.start : window.col.stop] = window.kept(answer)
        write(out, strip.row.start, strip.valid)
        done()


def strips_of(reader: SceneReader, network: Windowed, channels: int, window_px: int, *, scale: int = 1) -> list[Span]:
    """Cut a scene into strips; those of wide scenes are lower, as far as their halos then stay cheap.

    Args:
        reader: The scene.
        network: The generator.
        channels: Values that it gives for each of its pixels.
        window_px: Greatest height of a strip's core.
        scale: Its pixels along a side of one of the scene's.
    """
    height, width = reader.shape
    row_bytes = 4 * width * (len(reader.scaler.bands) + network.noise_channels + channels * scale**2)
    step = CHUNK_PX // scale
    affordable = scale * STRIP_BYTES // row_bytes // step * step
    core_px = min(window_px, max(affordable, step, 6 * network.halo_px // scale))
    return spans(height, core_px, network.halo_px, network.stride)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))[None]


def noise_rows(row: int, height: int, width: int, channels: int, seed: int) -> np.ndarray:
    """Draw rows of a standard normal field that depends on seed, row and column only.

    Args:
        row: First row; a whole multiple of `CHUNK_PX`.
        height: Rows, at most `CHUNK_PX`.
        width: Columns of the whole field.
        channels: Fields.
        seed: Seed of the field.

    Returns:
        float32, shape (channels, height, width).
    """
    draw = np.random.Generator(np.random.Philox(key=[seed, row // CHUNK_PX]))
    return draw.standard_normal((height, channels, width), dtype=np.float32).transpose(1, 0, 2)


class _Rows:
    """Rows of a scene in order, each decoded once, the next ones read while others are worked on.

    One buffer holds the rows of a strip and of one chunk; what `take` returns are views that last until
    the next call.
    """

    def __init__(self, reader: SceneReader, most_rows: int, noise_channels: int, seed: int) -> None:
        self._reader = reader
        self._noise = noise_channels, seed
        self._capacity = min(most_rows + CHUNK_PX, reader.shape[0])
        self._buffers: list[np.ndarray] = []
        self._first = self._end = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._ahead: Future[tuple[np.ndarray, ...]] | None = self._pool.submit(self._read, 0)

    def _read(self, row: int) -> tuple[np.ndarray, ...]:
        height, width = self._reader.shape
        count = min(CHUNK_PX, height - row)
        values, valid = self._reader.read(row, 0, count, width)
        return values, valid[None], noise_rows(row, count, width, *self._noise)

    def take(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return values, validity and noise of rows start to stop; rows before start are forgotten."""
        height, width = self._reader.shape
        held = self._end - start
        for buffer in self._buffers:
            buffer[:, :held] = buffer[:, start - self._first : self._end - self._first].copy()
        self._first = start
        while self._ahead is not None and self._end < stop:
            part = self._ahead.result()
            if not self._buffers:
                self._buffers = [np.empty((len(piece), self._capacity, width), piece.dtype) for piece in part]
            count = part[0].shape[1]
            for buffer, piece in zip(self._buffers, part, strict=True):
                buffer[:, self._end - start : self._end - start + count] = piece
            del part, piece
            self._end += count
            self._ahead = self._pool.submit(self._read, self._end) if self._end < height else None
        values, valid, noise = (buffer[:, : stop - start] for buffer in self._buffers)
        return values, valid[0], noise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

"""Other tools behind one call: two tiles in, where content lies out. What is missing is skipped with a word.

Every tool gets the better of the inputs that were tried for it (intensity or gradient strength), the masks that it
understands, and one thread. Only AROSICS and ours can decline; for the others an answer beyond twice the search
range counts as declined, as any caller would treat it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from coreg.cases import Image, Points, Tile

__all__ = ["Answer", "Method", "Unavailable", "affine", "constant", "declined", "rivals"]


class Unavailable(RuntimeError):
    """The tool is not installed here."""


@dataclass(frozen=True)
class Answer:
    """What a method says about a pair of tiles.

    Attributes:
        ok: Whether it gives a displacement.
        at: Displacement at positions, shape (N, 2) to (N, 2), pixels; None when it gives none.
        seconds: CPU seconds.
        sigma_px: Its own expected error; NaN when it has no opinion.
        confidence: Its own probability of an error below 1 px; NaN when it has no opinion.
        note: Why not, or which model.
    """

    ok: bool
    at: Callable[[Points], Points] | None
    seconds: float
    sigma_px: float = float("nan")
    confidence: float = float("nan")
    note: str = ""


Method = Callable[[Tile, Tile, float], Answer]


def declined(seconds: float, note: str) -> Answer:
    return Answer(False, None, seconds, note=note)


def constant(dx: float, dy: float, seconds: float) -> Answer:
    shift = np.array([dx, dy])
    return Answer(bool(np.isfinite(shift).all()), lambda xy: np.broadcast_to(shift, xy.shape), seconds)


def affine(matrix: Any, seconds: float) -> Answer:
    """matrix (2, 3) takes reference x, y, 1 to the moving x, y."""
    m = np.asarray(matrix, float)
    return Answer(bool(np.isfinite(m).all()), lambda xy: xy @ m[:, :2].T + m[:, 2] - xy, seconds)


def _plausible(answer: Answer, shape: tuple[int, int], reach_px: float) -> Answer:
    height, width = shape
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
    if answer.ok and answer.at is not None and np.linalg.norm(answer.at(corners), axis=1).max() > 2 * reach_px:
        return declined(answer.seconds, "beyond the search range")
    return answer


def _grey(tile: Tile) -> Image:
    """Values between their percentiles 0.5 and 99.5 as 0 to 1, holes at the median."""
    low, high = np.nanpercentile(tile.values, (0.5, 99.5))
    scaled = np.clip((tile.values - low) / max(float(high - low), 1e-9), 0, 1)
    return np.where(np.isfinite(scaled), scaled, np.nanmedian(scaled)).astype(np.float32)


def _edges(tile: Tile) -> Image:
    """Gradient strength at a scale of 1 px, zero around holes."""
    strength = ndimage.gaussian_gradient_magnitude(_grey(tile), 1.0)
    strength[ndimage.binary_dilation(~np.isfinite(tile.values), iterations=4)] = 0
    return strength.astype(np.float32)


def _timed(inputs: Callable[[Tile], Image], solve: Callable[..., Answer]) -> Method:
    """A method that prepares both tiles and solves; all of it is timed."""

    def run(reference: Tile, moving: Tile, reach_px: float) -> Answer:
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = solve(inputs(reference), inputs(moving), reference, moving)
        found = replace(found, seconds=time.process_time() - start)
        return _plausible(found, reference.values.shape, reach_px)

    return run


def _nothing(reference: Tile, moving: Tile, reach_px: float) -> Answer:
    return constant(0.0, 0.0, 0.0)


def _phase(here: Image, there: Image, *_: Tile) -> Answer:
    from skimage.registration import phase_cross_correlation

    # What it returns is the shift that brings the second image back, rows first.
    back = phase_cross_correlation(here, there, upsample_factor=50)[0]
    return constant(-float(back[1]), -float(back[0]), 0.0)


def _ecc(freedom: str) -> Callable[..., Answer]:
    def solve(here: Image, there: Image, reference: Tile, moving: Tile) -> Answer:
        try:
            import cv2
        except ImportError as error:
            raise Unavailable("OpenCV is not installed (extra `bench`)") from error
        cv2.setNumThreads(1)
        known = np.isfinite(reference.values) & np.isfinite(moving.values)
        motion = cv2.MOTION_TRANSLATION if freedom == "shift" else cv2.MOTION_AFFINE
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-5)
        start = np.eye(2, 3, dtype=np.float32)
        try:
            matrix = cv2.findTransformECC(here, there, start, motion, stop, known.astype(np.uint8), 9)[1]
        except cv2.error:
            return declined(0.0, "no convergence")
        return affine(matrix, 0.0)

    return solve


def _mutual_information(freedom: str) -> Callable[..., Answer]:
    def solve(here: Image, there: Image, reference: Tile, moving: Tile) -> Answer:
        try:
            import SimpleITK as sitk
        except ImportError as error:
            raise Unavailable("SimpleITK is not installed (extra `bench`)") from error
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        height, width = here.shape
        search = sitk.ImageRegistrationMethod()
        search.SetMetricAsMattesMutualInformation(numberOfHistogramBins=32)
        search.SetMetricFixedMask(sitk.GetImageFromArray(np.isfinite(reference.values).astype(np.uint8)))
        search.SetMetricMovingMask(sitk.GetImageFromArray(np.isfinite(moving.values).astype(np.uint8)))
        search.SetMetricSamplingStrategy(search.REGULAR)
        search.SetMetricSamplingPercentage(0.25)
        search.SetInterpolator(sitk.sitkLinear)
        search.SetShrinkFactorsPerLevel((4, 2, 1))
        search.SetSmoothingSigmasPerLevel((2.0, 1.0, 1.0))
        search.SetOptimizerAsRegularStepGradientDescent(learningRate=1.0, minStep=1e-3, numberOfIterations=100)
        search.SetOptimizerScalesFromPhysicalShift()
        transform = sitk.TranslationTransform(2) if freedom == "shift" else sitk.AffineTransform(2)
        if freedom != "shift":
            transform.SetCenter(((width - 1) / 2, (height - 1) / 2))
        search.SetInitialTransform(transform, inPlace=True)
        try:
            search.Execute(sitk.GetImageFromArray(here), sitk.GetImageFromArray(there))
        except RuntimeError:
            return declined(0.0, "no convergence")
        zero, right, down = (np.array(transform.TransformPoint(p)) for p in ((0.0, 0.0), (1e3, 0.0), (0.0, 1e3)))
        return affine(np.column_stack([(right - zero) / 1e3, (down - zero) / 1e3, zero]), 0.0)

    return solve


def _kornia(here: Image, there: Image, *_: Tile) -> Answer:
    import torch
    from kornia.geometry.transform import ImageRegistrator

    torch.set_num_threads(1)
    height, width = here.shape
    pictures = [torch.from_numpy(image / (image.std() + 1e-6))[None, None] for image in (there, here)]
    search = ImageRegistrator("similarity", num_iterations=60, pyramid_levels=4, lr=5e-3)
    with torch.enable_grad():
        model = search.register(*pictures)[0].detach().numpy().astype(float)
    # Its homography takes places of the second image, from -1 to 1, to the first.
    unit = np.array([[2 / (width - 1), 0, -1], [0, 2 / (height - 1), -1], [0, 0, 1]])
    return affine((np.linalg.inv(unit) @ model @ unit)[:2], 0.0)


class _Arosics:
    """AROSICS in an interpreter of its own, one process for all requests."""

    def __init__(self, mode: str, python: str | None) -> None:
        self.mode, self.python = mode, python
        self.worker: subprocess.Popen[str] | None = None
        self.memory_mib: list[float] | None = None

    def __call__(self, reference: Tile, moving: Tile, reach_px: float) -> Answer:
        if not self.python:
            raise Unavailable("no interpreter with AROSICS was given (--arosics)")
        with tempfile.TemporaryDirectory(prefix="rsgeo-arosics-") as folder:
            request = Path(folder) / "tiles.npz"
            np.savez(request, reference=reference.values, moving=moving.values)
            found = self._ask({"tiles": str(request), "mode": self.mode, "reach_px": reach_px})
        seconds = float(found["seconds"])
        if not found["ok"]:
            return declined(seconds, found["note"])
        points = np.array(found["points"], float)
        if self.mode == "global":
            return _plausible(constant(points[0, 2], points[0, 3], seconds), reference.values.shape, reach_px)
        return _plausible(_through(points, seconds), reference.values.shape, reach_px)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.worker is None or self.worker.poll() is not None:
            script = str(Path(__file__).with_name("arosics_worker.py"))
            clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
            self.worker = subprocess.Popen(
                [str(self.python), script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean,
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
        assert self.worker.stdin is not None
        assert self.worker.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.worker.stdin.write(json.dumps(request) + "\n")
            self.worker.stdin.flush()
        line = self.worker.stdout.readline()
        if not line:
            return {"ok": False, "seconds": float("nan"), "note": "the worker ended"}
        answer: dict[str, Any] = json.loads(line)
        self.memory_mib = answer["memory_mib"]
        if answer.get("missing"):
            raise Unavailable(f"AROSICS does not start: {answer['missing']}")
        return answer


def _through(points: Points, seconds: float) -> Answer:
    """Displacement through tie points x, y, dx, dy: affine, and what is left smoothed, as a warp by points does."""
    from scipy.interpolate import RBFInterpolator

    design = np.column_stack([np.ones(len(points)), points[:, :2]])
    coefficients = np.linalg.lstsq(design, points[:, 2:], rcond=None)[0]
    rest = None
    if len(points) >= 10:
        left = points[:, 2:] - design @ coefficients
        rest = RBFInterpolator(points[:, :2], left, smoothing=len(points) / 10, neighbors=min(40, len(points)))

    def at(xy: Points) -> Points:
        plain = np.column_stack([np.ones(len(xy)), xy]) @ coefficients
        return plain if rest is None else plain + rest(xy)

    return Answer(True, at, seconds, note=f"{len(points)} points")


def rivals(arosics: str | None = None) -> dict[str, Method]:
    """All other tools by name.

    Args:
        arosics: Interpreter that can import AROSICS, if there is one.
    """
    return {
        "no change": _nothing,
        "phase, intensity": _timed(_grey, _phase),
        "phase, gradient": _timed(_edges, _phase),
        "ECC gradient, shift": _timed(_edges, _ecc("shift")),
        "ECC gradient, affine": _timed(_edges, _ecc("affine")),
        "MI, shift": _timed(_grey, _mutual_information("shift")),
        "MI, affine": _timed(_grey, _mutual_information("affine")),
        "kornia, similarity": _timed(_edges, _kornia),
        "AROSICS, global": _Arosics("global", arosics),
        "AROSICS, local": _Arosics("local", arosics),
    }

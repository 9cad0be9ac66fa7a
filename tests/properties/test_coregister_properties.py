"""What holds for any displacement and any radiometry: shift in, shift out."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from rsgeo_gan.coregister.features import METHODS
from rsgeo_gan.coregister.matching import Block
from rsgeo_gan.coregister.measure import Measurement, measure

SIZE = 256
RNG = np.random.default_rng(5)
BLOBS = ndimage.gaussian_filter(RNG.normal(size=(SIZE + 64, SIZE + 64)), 3.0)
FIELDS = ndimage.gaussian_filter((ndimage.gaussian_filter(RNG.normal(size=BLOBS.shape), 8.0) > 0).astype(float), 0.8)
LAND = (lambda image: (image - image.min()) / np.ptp(image))(BLOBS / BLOBS.std() + 2 * FIELDS)

shifts = st.tuples(st.floats(-10, 10), st.floats(-10, 10))
examples = settings(max_examples=6, deadline=None, derandomize=True)


def moved(shift: tuple[float, float]) -> NDArray[np.float32]:
    """The landscape with its content moved to the right and down."""
    row, col = np.mgrid[32 : 32 + SIZE, 32 : 32 + SIZE].astype(float)
    image = ndimage.map_coordinates(LAND, [row - shift[1], col - shift[0]], order=3)
    return image.clip(0, 1).astype(np.float32)


def compare(
    reference: NDArray[np.float32], moving: NDArray[np.float32], valid: NDArray[np.bool_] | None = None
) -> Measurement:
    everything = np.ones((SIZE, SIZE), bool)
    a, a_mask = METHODS["structure"](reference[None], everything)
    b, b_mask = METHODS["structure"](moving[None], everything if valid is None else valid)
    block = Block(a, b, a_mask.astype(np.float32), b_mask.astype(np.float32), (0, 0), (0, 0, SIZE, SIZE))
    return measure([block], 12, ("none", "shift", "affine"))


def middle(found: Measurement) -> NDArray[np.float64]:
    return found.model(np.array([[(SIZE - 1) / 2, (SIZE - 1) / 2]]))[0]


@examples
@given(shift=shifts)
def test_shift_in_is_shift_out(shift: tuple[float, float]) -> None:
    found = compare(100 + 50 * moved((0, 0)), 100 + 50 * moved(shift))
    assert found.reliable, found.reason
    assert np.allclose(middle(found), shift, atol=0.1)


@examples
@given(shift=shifts, gain=st.floats(0.01, 100), gamma=st.floats(0.7, 1.5), reverse=st.booleans())
def test_gain_gamma_and_contrast_reversal_do_not_move_the_answer(
    shift: tuple[float, float], gain: float, gamma: float, reverse: bool
) -> None:
    reference, plain = 1 + 4 * moved((0, 0)), moved(shift)
    changed = (gain * (1 + 4 * (1 - plain if reverse else plain)) ** gamma).astype(np.float32)
    assert np.allclose(middle(compare(reference, changed)), middle(compare(reference, 1 + 4 * plain)), atol=0.1)


@examples
@given(shift=shifts)
def test_there_and_back_are_inverse(shift: tuple[float, float]) -> None:
    here, there = 1 + 4 * moved((0, 0)), 6 - 4 * moved(shift)
    assert np.allclose(middle(compare(here, there)), -middle(compare(there, here)), atol=0.1)


@examples
@given(shift=shifts, seed=st.integers(0, 1000))
def test_garbage_under_a_mask_changes_nothing(shift: tuple[float, float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    valid = np.ones((SIZE, SIZE), bool)
    row, col = rng.integers(0, SIZE - 90, 2)
    valid[row : row + 90, col : col + 90] = False
    reference, moving = 1 + 4 * moved((0, 0)), 1 + 4 * moved(shift)
    garbage = np.where(valid, moving, rng.normal(0, 1e4, moving.shape)).astype(np.float32)
    calm = np.where(valid, moving, np.float32(0))
    assert np.array_equal(
        compare(reference, garbage, valid).model.coefficients, compare(reference, calm, valid).model.coefficients
    )


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_unrelated_landscapes_are_declined(seed: int) -> None:
    rng = np.random.default_rng(seed)
    other = ndimage.gaussian_filter(rng.normal(size=(SIZE, SIZE)), 3.0)
    found = compare(1 + 4 * moved((0, 0)), (10 + other / other.std()).astype(np.float32))
    assert not found.reliable

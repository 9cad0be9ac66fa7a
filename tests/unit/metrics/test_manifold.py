from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rsgeo_gan.metrics import density_coverage, precision_recall


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_equal_sets_have_full_precision_and_recall_and_far_sets_none() -> None:
    real = _noise(40, 5)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)
    assert density_coverage(real, real + 100) == (0, 0)
    assert density_coverage(real, real).coverage == 1


def test_points_on_a_line_are_counted_as_by_hand() -> None:
    """Real points 0, 1, 2, 10: the balls to the nearest neighbour reach 1, 1, 1 and 8."""
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    fake = torch.tensor([[-1.0], [2.5], [17.0], [19.0]])
    # Inside balls: -1, 2.5 and 17 but not 19. Fake balls reach 3.5, 3.5, 2, 2 and hold 0, 1 and 2.
    assert precision_recall(real, fake, k=1) == (3 / 4, 3 / 4)
    # -1 lies in one ball, 2.5 in those of 2 and 10, 17 in that of 10; 0, 2 and 10 hold one or more.
    assert density_coverage(real, fake, k=1) == (4 / 4, 3 / 4)


def test_a_lost_mode_costs_recall_and_a_stray_image_precision() -> None:
    centres = torch.tensor([[-20.0, 0], [20, 0]]).repeat_interleave(30, dim=0)
    real, fake = centres + _noise(60, 2), centres + _noise(60, 2, seed=1)
    both = precision_recall(real, fake)
    collapsed = precision_recall(real, fake[:30])
    assert min(both) > 0.85
    assert collapsed.precision > 0.85
    assert 0.4 < collapsed.recall <= 0.5
    stray = precision_recall(real, torch.cat([fake, torch.tensor([[0.0, 50.0]])]))
    assert stray.precision == pytest.approx(float(both.precision) * 60 / 61)


@given(st.integers(1, 7), st.integers(0, 50), st.floats(0.1, 10))
def test_size_of_chunks_scale_and_sides_do_not_matter(chunk: int, seed: int, scale: float) -> None:
    real, fake = _noise(12, 3, seed=seed), _noise(9, 3, seed=seed + 100)
    whole = precision_recall(real, fake)
    assert precision_recall(real, fake, chunk=chunk) == whole
    assert precision_recall(fake, real) == (whole.recall, whole.precision)
    assert density_coverage(real, fake, chunk=chunk) == density_coverage(real, fake)
    assert torch.allclose(torch.stack(precision_recall(scale * real, scale * fake)), torch.stack(whole), atol=0.12)


def test_copies_lie_on_the_manifold_of_copies() -> None:
    point = torch.full((5, 2), 0.3)
    assert precision_recall(point, point.clone()) == (1, 1)


def test_too_few_images_and_unlike_features_are_refused() -> None:
    real = _noise(6, 3)
    holed = torch.cat([real[:3], torch.full((3, 3), torch.nan)])
    with pytest.raises(ValueError, match=r"more than k = 3 images .* got 6 real and 3 fake; use more tiles"):
        precision_recall(real, holed)
    with pytest.raises(ValueError, match=r"density_coverage: expected two sets .* equal D"):
        density_coverage(real, real[:, :2])

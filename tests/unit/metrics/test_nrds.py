from __future__ import annotations

import pytest
import torch
from scipy.stats import kendalltau
from torch.nn import functional as F

from rsgeo_gan.metrics import NRDS, Judge, nrds, rank_agreement

QUICK = {"epochs": 8, "batch": 6, "width": 4, "lr": 1e-3, "seeds": (0, 1, 2)}


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _scenes(count: int, seed: int) -> torch.Tensor:
    """Smooth tiles of two bands."""
    return F.interpolate(0.5 * _noise(count, 2, 5, 5, seed=seed), size=(16, 16), mode="bilinear").clamp(-1, 1)


def test_more_noise_ranks_lower_and_other_real_tiles_rank_first() -> None:
    real, twin = _scenes(30, 0), _scenes(30, 1)
    noise = _noise(*twin.shape, seed=2)
    sets = [twin + 0.2 * noise, twin, twin + 0.6 * noise]
    found = nrds(real, sets, **QUICK)
    torch.testing.assert_close(found.scores.sum(dim=1), torch.ones(3, dtype=torch.float64))
    middle, best, worst = found.mean.tolist()
    assert best > middle > worst
    assert found.std.max() < 0.15
    middle, best, worst = found.scores_held_out.mean(dim=0).tolist()
    assert best > middle > worst
    # A set that is real keeps up with the real set itself as long as nothing was learned by heart.
    assert found.outputs_held_out[..., 1].mean() == pytest.approx(float(found.outputs_real_held_out.mean()), abs=0.15)


def test_order_of_competitors_changes_nothing_at_all() -> None:
    real, sets = _scenes(12, 0), [_scenes(10, k) + 0.2 * k for k in (1, 2, 3)]
    found = nrds(real, sets, **QUICK | {"seeds": (5,)})
    turned = nrds(real, [sets[k] for k in (2, 0, 1)], **QUICK | {"seeds": (5,)})
    assert torch.equal(turned.outputs, found.outputs[..., [2, 0, 1]])
    assert torch.equal(turned.outputs_held_out, found.outputs_held_out[..., [2, 0, 1]])
    assert torch.equal(turned.outputs_real, found.outputs_real)


def test_copies_share_equally_and_a_single_competitor_has_it_all() -> None:
    real, fake = _scenes(12, 0), _scenes(10, 1)
    quick = QUICK | {"epochs": 2, "seeds": (0,)}
    assert nrds(real, [fake, fake.clone(), fake], **quick).mean.tolist() == pytest.approx([1 / 3] * 3, abs=1e-12)
    alone = nrds(real, [fake], **quick)
    assert alone.mean.tolist() == [1]
    assert alone.std.isnan().all()


def test_scores_are_trapezoid_areas_over_epochs() -> None:
    """Outputs falling from 1 to 0 over 5 epochs have area 2, constant 0.25 has area 1."""
    outputs = torch.stack([torch.linspace(1, 0, 5), torch.full((5,), 0.25)], dim=1).double()[None]
    found = NRDS(outputs, outputs[..., 0], outputs.flip(-1), outputs[..., 0])
    assert found.areas.tolist() == [[2, 1]]
    assert found.mean.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert found.scores_held_out[0].tolist() == pytest.approx([1 / 3, 2 / 3])


def test_runs_repeat_and_leave_the_global_generator_alone() -> None:
    real, sets = _scenes(9, 0), [_scenes(9, 1)]
    quick = QUICK | {"epochs": 2, "seeds": (3,), "held_out": 0.0}
    torch.manual_seed(1)
    first = nrds(real, sets, **quick)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    torch.testing.assert_close(nrds(real, sets, **quick).outputs, first.outputs, rtol=0, atol=0)
    assert first.outputs_held_out.isnan().all()
    assert ((first.outputs > 0) & (first.outputs < 1)).all()


def test_progress_counts_the_epochs_of_all_seeds() -> None:
    seen: list[tuple[str, int, int]] = []
    quick = QUICK | {"epochs": 2, "seeds": (0, 1)}
    nrds(_scenes(6, 0), [_scenes(6, 1)], **quick, progress=lambda *step: seen.append(step))
    assert seen == [("judge", k, 4) for k in (1, 2, 3, 4)]


def test_the_judge_has_the_published_layers() -> None:
    judge = Judge(3, (64, 48))
    shapes = [tuple(p.shape) for p in judge.parameters() if p.ndim > 1]
    assert shapes == [
        (64, 3, 5, 5),
        (128, 64, 5, 5),
        (256, 128, 5, 5),
        (512, 256, 5, 5),
        (1024, 512 * 4 * 3),
        (1, 1024),
    ]


def test_unequal_sets_and_bad_images_are_refused() -> None:
    real, fake = _scenes(6, 0), _scenes(6, 1)
    with pytest.raises(ValueError, match="got 6, 5 images; unequal sets bias the pool"):
        nrds(real, [fake, fake[:5]])
    with pytest.raises(ValueError, match=r"one size and H, W >= 16, got .*\(6, 1, 16, 16\) \(real first\)"):
        nrds(real, [fake[:, :1]])
    with pytest.raises(ValueError, match="values that are not finite"):
        nrds(real, [torch.full_like(fake, torch.nan)])
    with pytest.raises(ValueError, match="at least one competitor"):
        nrds(real, [])
    with pytest.raises(ValueError, match="epochs >= 2"):
        nrds(real, [fake], epochs=1)
    with pytest.raises(ValueError, match="an image to learn from in every set, got 6 real and 1 fake"):
        nrds(real, [fake[:1]])


def test_agreement_of_ranks_is_kendalls() -> None:
    a, b = _noise(7), _noise(7, seed=1)
    assert rank_agreement(a, b) == pytest.approx(kendalltau(a.numpy(), b.numpy()).statistic)
    assert rank_agreement(a, 2 * a + 1) == 1
    assert rank_agreement(a, -a) == -1
    with pytest.raises(ValueError, match="the same n >= 2 competitors"):
        rank_agreement(a, b[:3])

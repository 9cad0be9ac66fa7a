from __future__ import annotations

import pytest
import torch

from rsgeo_gan.losses import Combined, PooledL1, RegistrationHead, ShiftTolerantL1, best_shift
from rsgeo_gan.losses.registration import DisplacementNet, moved

MARGIN = 6


def _scene(seed: int, count: int = 4, side: int = 48) -> torch.Tensor:
    """Random fields with a margin, power spectrum 1 / f², std 0.3."""
    n = side + 2 * MARGIN
    f = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(n), torch.fft.fftfreq(n), indexing="ij"))
    f[0, 0] = torch.inf
    noise = torch.randn(count, 1, n, n, generator=torch.Generator().manual_seed(seed))
    x = torch.fft.ifft2(torch.fft.fft2(noise) / f).real
    return 0.3 * x / x.std()


def _window(scene: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Cut so that the content lies (dx, dy) off."""
    side = scene.shape[-1] - 2 * MARGIN
    corners = (MARGIN - shifts).int().tolist()
    return torch.stack([part[:, y : y + side, x : x + side] for part, (x, y) in zip(scene, corners, strict=True)])


STILL = torch.zeros(4, 2)
SMALL = torch.zeros(4, 1, 8, 8)
"""Stands for both images of the way back where only the other way is looked at."""
JITTER = torch.tensor([[4.0, -2.0], [-4.0, 2.0], [1.0, 5.0], [-1.0, -5.0]])


@pytest.mark.parametrize("looks", [0, 4])
def test_a_known_shift_is_recovered_within_half_a_pixel(looks: int) -> None:
    scene = _scene(0)
    fake, real = _window(scene, STILL), _window(scene, JITTER)
    if looks:
        power = torch.randn(looks, 2, *real.shape, generator=torch.Generator().manual_seed(1)).square().sum(dim=(0, 1))
        real = real + 0.35 * torch.log(power / (2 * looks))
    found = RegistrationHead().displacement(fake, real)
    assert found.shape == (4, 2, 48, 48)
    assert (found - JITTER[:, :, None, None]).norm(dim=1).mean() < 0.5
    assert torch.equal(best_shift(fake, _window(scene, JITTER), radius_px=5)[0].float(), JITTER)  # the same signs


def test_the_content_of_an_image_moves_by_the_displacement() -> None:
    scene = _scene(2)
    still, real = _window(scene, STILL), _window(scene, JITTER)
    warped, valid = moved(still, JITTER[:, :, None, None].expand(-1, -1, 48, 48))
    torch.testing.assert_close(warped * valid, real * valid, atol=1e-5, rtol=0)
    assert valid.mean(dim=(1, 2, 3)).tolist() == pytest.approx(
        [(48 - abs(dx)) * (48 - abs(dy)) / 48**2 for dx, dy in JITTER.tolist()]
    )


def test_no_displacement_goes_beyond_the_bound() -> None:
    scene = _scene(3)
    net = DisplacementNet(max_px=3)
    with torch.no_grad():
        net.sharpness.fill_(100.0)
    found = net(_window(scene, STILL), _window(scene, JITTER))
    assert 2.5 < found.abs().max() <= 3 + 1e-5


def test_images_that_have_nothing_in_common_stay_where_they_are() -> None:
    random = torch.Generator().manual_seed(4)
    fake, real = (torch.randn(4, 1, 64, 64, generator=random) for _ in range(2))
    assert RegistrationHead().displacement(fake, real).abs().mean() < 1


def test_what_is_invalid_does_not_lead_the_displacement() -> None:
    scene = _scene(5)
    fake, real = _window(scene, STILL), _window(scene, JITTER)
    mask = torch.ones(4, 1, 48, 48)
    mask[..., :16] = 0
    found = RegistrationHead().displacement(torch.where(mask > 0, fake, torch.tensor(torch.nan)), real, mask_fake=mask)
    assert (found - JITTER[:, :, None, None]).norm(dim=1).mean() < 0.7


def _aligned(shifts: torch.Tensor) -> tuple[float, float]:
    """What is left of the difference after alignment, and the offset, once the running mean has settled."""
    scene = _scene(6)
    fake, real = _window(scene, STILL), _window(scene, shifts)
    terms = RegistrationHead(decay=0.0)(SMALL, real, SMALL, fake)
    return float(terms["aligned"].detach() / (fake - real).abs().mean()), float(terms["offset"].detach())


def test_offsets_of_zero_mean_are_forgiven_and_a_common_one_is_not() -> None:
    """A fifth of a pixel remains: trial shifts lie two pixels apart, and the minimum between them is interpolated."""
    left, offset = _aligned(JITTER)
    assert left < 0.1
    assert offset < 0.05
    left, offset = _aligned(STILL + torch.tensor([3.0, 0.0]))
    assert left > 0.9
    assert offset == pytest.approx(9, abs=1)


def test_what_is_invalid_does_not_enter_the_running_mean() -> None:
    scene = _scene(6)
    still, moved_2 = _window(scene, STILL), _window(scene, STILL + 2)
    mask = torch.ones(4, 1, 48, 48)
    mask[..., :16] = 0
    nan = torch.where(mask > 0, moved_2, torch.tensor(torch.nan))
    means = []
    for target in (moved_2, nan):
        head = RegistrationHead(decay=0.0)
        head(still, target, target, still, None, mask)
        means.append(head.mean_px.clone())
        head(still, moved_2, moved_2, still, 0 * mask, None)  # nothing valid: nothing learnt
        assert torch.equal(head.mean_px, means[-1])
    assert torch.equal(*means)
    assert means[0].tolist() == [pytest.approx([2.0, 2.0], abs=0.3), pytest.approx([-2.0, -2.0], abs=0.3)]


def _drift_after_training(decay: float) -> float:
    """Length of the offset of a generator that can do nothing but move its image, and has drifted by 2 px."""
    head = RegistrationHead(max_px=4, decay=decay)
    offset = torch.tensor([2.0, 0.0], requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [offset], "lr": 0.08}, {"params": head.parameters(), "lr": 5e-4}])
    random = torch.Generator().manual_seed(7)
    for step in range(50):
        scene = _scene(step, count=2, side=32)
        jitter = torch.randint(-2, 3, (1, 2), generator=random).float()
        source, target = _window(scene, STILL[:2]), _window(scene, torch.cat([jitter, -jitter]))
        fake, _ = moved(source, offset[None, :, None, None].expand(2, -1, 32, 32))
        terms = head(SMALL[:2], target, SMALL[:2], fake)
        optimizer.zero_grad()
        torch.stack([head.factors[name] * term for name, term in terms.items()]).sum().backward()
        optimizer.step()
    return float(offset.detach().norm())


def test_a_generator_that_drifted_goes_back_although_every_pair_is_crooked() -> None:
    assert _drift_after_training(decay=0.8) < 0.3
    assert _drift_after_training(decay=1 - 1e-9) > 1.5  # a head that may hide the offset hides it


def test_the_running_mean_is_part_of_the_state_and_rests_outside_training() -> None:
    scene = _scene(8)
    images = _window(scene, STILL), _window(scene, STILL + 2)
    head = RegistrationHead(decay=0.5)
    head(images[0], images[1], images[0], images[0])
    assert head.mean_px[0].tolist() == pytest.approx([1.0, 1.0], abs=0.1)
    assert "mean_px" in head.state_dict()
    before = head.mean_px.clone()
    head.eval()(images[0], images[1], images[0], images[0])
    assert torch.equal(head.mean_px, before)


def test_averaging_lets_the_shift_be_found_under_speckle() -> None:
    scene = _scene(9)
    random = torch.Generator().manual_seed(10)
    fake = _window(scene, STILL)
    real = _window(scene, JITTER.clamp(-3, 3)) + 0.6 * torch.randn(4, 1, 48, 48, generator=random)
    clean = _window(scene, JITTER.clamp(-3, 3))
    plain, pooled = (ShiftTolerantL1(3, pool=pool)(fake, real, fake, fake)["pair"] for pool in (1, 4))
    assert ShiftTolerantL1(3, pool=4)(fake, clean, fake, fake)["pair"] < 1e-6
    assert pooled < plain / 2


def test_a_radius_that_was_not_given_follows_the_data() -> None:
    free, fixed = ShiftTolerantL1(), ShiftTolerantL1(2)
    Combined({"free": free, "fixed": fixed}).forgive(5)
    assert (free.radius_px, fixed.radius_px) == (5, 2)


def test_combined_terms_have_names_and_factors_of_their_members() -> None:
    both = Combined({"pooled": PooledL1(), "head": RegistrationHead(smoothness=4.0)}, {"head": 0.5})
    assert dict(both.factors) == {
        "pooled_pair": 1.0, "head_aligned": 0.5, "head_smoothness": 2.0, "head_offset": 0.5
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"got terms \['a'\] and weights for \['b'\]"):
        Combined({"a": PooledL1()}, {"b": 1.0})

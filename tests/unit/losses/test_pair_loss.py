from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rsgeo_gan.losses import Combined, Correspondence, PairLoss, PatchNCE, PooledL1, RegistrationHead, ShiftTolerantL1
from rsgeo_gan.losses.alignment import strict_mask
from rsgeo_gan.metrics import shift_response
from rsgeo_gan.models import ResNetGenerator

Images = tuple[torch.Tensor, torch.Tensor]
Features = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def networks() -> tuple[ResNetGenerator, ResNetGenerator]:
    """Four bands to one, and back."""
    torch.manual_seed(0)
    return ResNetGenerator(4, 1, width=4, blocks=1), ResNetGenerator(1, 4, width=4, blocks=1)


@pytest.fixture
def images() -> Images:
    random = torch.Generator().manual_seed(1)
    return torch.rand(2, 4, 48, 48, generator=random) * 2 - 1, torch.rand(2, 1, 48, 48, generator=random) * 2 - 1


def _attached(networks: tuple[nn.Module, nn.Module], **settings: object) -> PairLoss:
    loss = PairLoss(**settings)  # type: ignore[arg-type]
    loss.attach(*networks)
    return loss


def _field(beta: float, seed: int, speckle_looks: int = 0) -> torch.Tensor:
    """Random fields (4, 3, 128, 128), power spectrum 1 / f**beta, std 0.3; with speckle as in SAR power."""
    random = torch.Generator().manual_seed(seed)
    f = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(128), torch.fft.fftfreq(128), indexing="ij"))
    f[0, 0] = torch.inf
    x = torch.fft.ifft2(torch.fft.fft2(torch.randn(4, 3, 128, 128, generator=random)) * f ** (-beta / 2)).real
    x = 0.3 * x / x.std()
    if speckle_looks:
        noise = torch.randn(speckle_looks, 2, *x.shape, generator=random).square().sum(dim=(0, 1))
        x = x + 0.1 * torch.log(noise / (2 * speckle_looks))
    return x


def _response(features: Features, x: torch.Tensor, *shifts: int) -> torch.Tensor:
    return shift_response(features, x, shifts, margin_px=8)


def _features(bands: int = 3, width: int = 16, **settings: object) -> Features:
    torch.manual_seed(0)
    generator = ResNetGenerator(bands, 1, width=width, blocks=0)
    loss = _attached((generator, generator), **settings)
    return lambda v: loss.features(loss.encoder, v)["down2"]


def test_perfect_translations_cost_nothing(networks: tuple[nn.Module, nn.Module], images: Images) -> None:
    assert _attached(networks)(*images, *images)["pair"] == 0


def test_swapping_the_domains_changes_nothing(networks: tuple[nn.Module, nn.Module], images: Images) -> None:
    x, y = images
    fake_x, fake_y = x.flip(3), y.flip(2)
    there = _attached(networks)(x, y, fake_x, fake_y)["pair"]
    back = _attached(networks[::-1])(y, x, fake_y, fake_x)["pair"]
    torch.testing.assert_close(there, back)


def test_each_encoder_sees_its_own_domain_only(networks: tuple[nn.Module, nn.Module], images: Images) -> None:
    loss = _attached(networks)
    seen: dict[str, set[int]] = {"encoder": set(), "encoder_back": set()}
    for name in seen:
        getattr(loss, name).register_forward_pre_hook(lambda _, a, n=name: seen[n].add(a[0].shape[1]))
    loss(*images, *images)
    assert seen == {"encoder": {4}, "encoder_back": {1}}


@pytest.mark.parametrize(("beta", "looks", "margin"), [(2.0, 0, 0.3), (3.0, 0, 0.015), (2.0, 4, 0.3)])
def test_default_features_tolerate_shifts_better_than_pixels(beta: float, looks: int, margin: float) -> None:
    x = _field(beta, 0, looks)
    assert (_response(_features(), x, 1, 2, 3) < _response(torch.clone, x, 1, 2, 3) - margin).all()


def test_default_features_meet_the_reference_figures() -> None:
    """Measured for a 32/64/128 encoder on power-1/f² fields: .13, .24, .35 and .73 at 8 px."""
    found = _response(_features(width=32), _field(2.0, 0), 1, 2, 3, 8)
    assert found.tolist() == pytest.approx([0.13, 0.24, 0.35, 0.73], abs=0.02)


@pytest.mark.parametrize("beta", [2.0, 3.0])
def test_literal_features_are_more_sensitive_than_pixels(beta: float) -> None:
    """The finding that makes anti-aliasing the default."""
    x = _field(beta, 0)
    assert (_response(_features(antialias=False), x, 1, 2, 3) > _response(torch.clone, x, 1, 2, 3) + 0.15).all()


@pytest.mark.parametrize("beta", [2.0, 3.0])
def test_response_grows_with_the_shift_and_stays_discriminative(beta: float) -> None:
    response = _response(_features(), _field(beta, 0), 1, 2, 3, 8)
    assert (response.diff() > 0).all()
    assert response[-1] >= 0.5


@pytest.mark.parametrize(("kind", "bands"), [("s2rgb", 3), ("s1vh", 1)])
def test_features_tolerate_shifts_on_real_tiles(shared_data: Path, kind: str, bands: int) -> None:
    import rasterio

    x = []
    for path in sorted((shared_data / "s1s2-chips-usa").glob(f"*_{kind}.tif"))[::6]:
        with rasterio.open(path) as file:
            x.append(torch.from_numpy(file.read(window=((0, 128), (0, 128)))).float() / 127.5 - 1)
    scene = torch.stack(x)
    assert (_response(_features(bands), scene, 1, 2, 3) < _response(torch.clone, scene, 1, 2, 3)).all()


def test_frozen_encoder_moves_the_other_generator_only(
    networks: tuple[ResNetGenerator, ResNetGenerator], images: Images
) -> None:
    forth, back = networks
    x, y = images
    loss = _attached(networks)
    loss(x, y, back(y), y)["pair"].backward()  # L_X alone
    assert all(p.grad is None for p in forth.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in back.encoder.parameters())
    back.zero_grad()
    loss(x, y, x, forth(x))["pair"].backward()  # L_Y alone
    assert all(p.grad is None for p in back.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in forth.encoder.parameters())
    assert all(p.grad is None for p in loss.parameters())


def test_literal_gradient_reaches_both_generators(
    networks: tuple[ResNetGenerator, ResNetGenerator], images: Images
) -> None:
    forth, back = networks
    x, y = images
    loss = _attached(networks, grad="through")
    loss(x, y, back(y), y)["pair"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in forth.encoder.parameters())
    assert all(p.grad is not None for p in back.encoder.parameters())
    assert not loss.state_dict()


def test_a_copied_task_keeps_its_live_encoders_together(
    networks: tuple[ResNetGenerator, ResNetGenerator], images: Images
) -> None:
    holder = nn.Module()
    holder.forth, holder.back = networks
    holder.loss = _attached(networks, grad="through")
    twin = copy.deepcopy(holder)
    x, y = images
    twin.loss(x, y, x.flip(3), y)["pair"].backward()
    assert all(p.grad is not None for p in twin.forth.encoder.parameters())
    assert all(p.grad is None for p in holder.forth.encoder.parameters())


def test_encoder_copy_follows_by_its_decay(networks: tuple[ResNetGenerator, ResNetGenerator]) -> None:
    loss = _attached(networks, decay=0.9)
    before = loss.encoder.stem.conv.weight.clone()
    with torch.no_grad():
        networks[0].encoder.stem.conv.weight.add_(1.0)
    loss.update(*networks)
    torch.testing.assert_close(loss.encoder.stem.conv.weight, before + 0.1)
    torch.testing.assert_close(loss.encoder_back.stem.conv.weight, networks[1].encoder.stem.conv.weight)


def test_encoder_copies_are_resumed_from_the_state(
    networks: tuple[ResNetGenerator, ResNetGenerator], images: Images
) -> None:
    loss = _attached(networks)
    with torch.no_grad():
        networks[0].encoder.stem.conv.weight.add_(0.1)
    resumed = _attached(networks)
    resumed.load_state_dict(loss.state_dict())
    fakes = images[0].flip(3), images[1].flip(3)
    assert torch.equal(resumed(*images, *fakes)["pair"], loss(*images, *fakes)["pair"])


def test_term_does_not_depend_on_the_scale_of_the_features(
    networks: tuple[ResNetGenerator, ResNetGenerator], images: Images
) -> None:
    class Scaled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.tap_stride, self.tap_radius_px = inner, inner.tap_stride, inner.tap_radius_px

        def forward(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
            return {name: 50 * value for name, value in self.inner(*args, **kwargs).items()}

    loss = _attached(networks)
    fakes = images[0].flip(3), images[1].flip(3)
    before = loss(*images, *fakes)["pair"]
    loss.encoder, loss.encoder_back = Scaled(loss.encoder), Scaled(loss.encoder_back)
    torch.testing.assert_close(loss(*images, *fakes)["pair"], before)


def test_several_taps_average_their_terms(networks: tuple[nn.Module, nn.Module], images: Images) -> None:
    fakes = images[0].flip(3), images[1].flip(3)
    names = ("stem", "down1", "down2")
    single = [_attached(networks, taps=(tap,))(*images, *fakes)["pair"] for tap in names]
    torch.testing.assert_close(_attached(networks, taps=names)(*images, *fakes)["pair"], sum(single) / 3)


def test_default_does_not_depend_on_the_generators_own_antialiasing(images: Images) -> None:
    """Strides of the encoder copy are blurred even when the generator's are not."""
    values = []
    for antialias in (True, False):
        torch.manual_seed(3)
        forth, back = (ResNetGenerator(a, b, 4, 0, antialias=antialias) for a, b in ((4, 1), (1, 4)))
        values.append(_attached((forth, back))(*images, images[0].flip(3), images[1].flip(3))["pair"])
    assert values[0] == values[1]


def _main(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    """The term that compares images: the first."""
    return next(iter(terms.values()))


@pytest.mark.parametrize(
    "loss",
    [
        PairLoss(),
        PairLoss(antialias=False),
        PatchNCE(taps=("down1", "down2"), positions=1024),
        PooledL1(),
        ShiftTolerantL1(),
        ShiftTolerantL1(pool=3),
        RegistrationHead(pool=2).eval(),  # at rest: its running mean moves between calls
        Combined({"pooled": PooledL1(), "head": RegistrationHead()}, {"pooled": 2.0}).eval(),
    ],
    ids=lambda v: type(v).__name__,
)
class TestEveryCorrespondence:
    def test_garbage_under_either_mask_changes_nothing(
        self, loss: Correspondence, networks: tuple[nn.Module, nn.Module], images: Images
    ) -> None:
        loss.attach(*networks)
        x, y = images
        fake_x, fake_y = x.flip(3), y.flip(3)
        mask_x, mask_y = torch.ones(2, 1, 48, 48), torch.ones(2, 1, 48, 48)
        mask_x[..., :9] = 0
        mask_y[..., 40:, :] = 0
        clean = _main(loss(x, y, fake_x, fake_y, mask_x, mask_y))
        nan = torch.tensor(torch.nan)
        spoiled = _main(
            loss(
                torch.where(mask_x > 0, x, nan),
                torch.where(mask_y > 0, y, nan),
                torch.where(mask_y > 0, fake_x, nan),
                torch.where(mask_x > 0, fake_y, nan),
                mask_x,
                mask_y,
            )
        )
        assert clean > 0
        torch.testing.assert_close(spoiled, clean, rtol=0, atol=0)

    def test_trust_scales_the_term(
        self, loss: Correspondence, networks: tuple[nn.Module, nn.Module], images: Images
    ) -> None:
        loss.attach(*networks)
        args = (*images, images[0].flip(3), images[1].flip(3), None, torch.ones(2, 1, 48, 48))
        whole = _main(loss(*args))
        for weight in (torch.full((2,), 0.25), torch.full((2, 1, 48, 48), 0.25), torch.full((2, 1, 1, 1), 0.25)):
            torch.testing.assert_close(_main(loss(*args, weight)), whole / 4)

    def test_no_valid_pixel_costs_nothing_and_breaks_nothing(
        self, loss: Correspondence, networks: tuple[nn.Module, nn.Module], images: Images
    ) -> None:
        loss.attach(*networks)
        fake = images[1].clone().requires_grad_()
        terms = loss(*images, images[0].flip(3), fake, torch.zeros(2, 1, 48, 48), None)
        assert set(terms) == set(loss.factors)
        torch.stack(list(terms.values())).sum().backward()
        assert _main(terms) == 0
        assert torch.isfinite(fake.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in loss.parameters() if p.grad is not None)

    def test_half_precision_gives_the_same_term(
        self, loss: Correspondence, networks: tuple[nn.Module, nn.Module], images: Images
    ) -> None:
        loss.attach(*networks)
        fakes = images[0].flip(3), images[1].flip(3)
        whole = _main(loss(*images, *fakes))
        with torch.autocast("cpu", torch.bfloat16):
            half = _main(loss(*images, *(fake.bfloat16() for fake in fakes)))
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, whole, rtol=0.02, atol=0)

    def test_sizes_off_the_stride_run_with_masks(
        self, loss: Correspondence, networks: tuple[nn.Module, nn.Module], images: Images
    ) -> None:
        loss.attach(*networks)
        x, y = (v[..., :41, :38] for v in images)
        mask = torch.ones(2, 1, 41, 38)
        assert torch.isfinite(_main(loss(x, y, x.flip(3), y.flip(3), mask, mask, mask)))


def test_strict_mask_drops_cells_that_touch_an_invalid_pixel() -> None:
    mask = torch.ones(1, 1, 16, 16)
    mask[..., 8, 8] = 0
    small = strict_mask(mask, stride=4, radius_px=3)
    assert small.shape == (1, 1, 4, 4)
    assert (small == 0).nonzero()[:, 2:].tolist() == [[2, 2]]
    assert strict_mask(mask, stride=4, radius_px=4).sum() == 16 - 9


def test_features_behind_the_strict_mask_do_not_see_invalid_pixels() -> None:
    """The mask's claim checked on the network itself, with constant norms."""
    from rsgeo_gan.models import collecting

    torch.manual_seed(0)
    generator = ResNetGenerator(1, 1, width=4, blocks=0)
    x = torch.rand(1, 1, 40, 40)
    with collecting(generator):
        generator(x)
    spoiled = x.clone()
    spoiled[..., 13, 21] += 10
    encoder = generator.encoder
    mask = torch.ones(1, 1, 40, 40)
    mask[..., 13, 21] = 0
    for tap in encoder.stages:
        changed = (encoder(x, (tap,))[tap] != encoder(spoiled, (tap,))[tap]).any(dim=1, keepdim=True)
        kept = strict_mask(mask, encoder.tap_stride(tap), encoder.tap_radius_px(tap)) > 0
        assert changed.any()
        assert not (changed & kept).any()


def test_use_before_attach_is_refused(images: Images) -> None:
    with pytest.raises(RuntimeError, match=r"call attach\(generator, generator_back\) first"):
        PairLoss()(*images, *images)


def test_a_generator_without_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="with an `encoder` that names its taps, got Conv2d"):
        PairLoss().attach(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))


def test_overlapping_means_treat_every_pixel_alike() -> None:
    x = torch.zeros(1, 1, 8, 8)
    inner = []
    for row, column in ((3, 3), (3, 4), (4, 4)):
        fake = x.clone()
        fake[..., row, column] = 1.0
        # 16 of the 25 windows of 4 x 4 hold the pixel, each a sixteenth of it.
        inner.append(float(PooledL1(4, overlapping=True)(x, x, fake, x)["pair"]))
    assert inner == pytest.approx([16 / 16 / 25] * 3)
    stripes = (torch.arange(8) % 2).float().expand(1, 1, 8, 8)
    assert float(PooledL1(4, overlapping=True)(stripes, x, stripes.flip(-1), x)["pair"]) == pytest.approx(0, abs=1e-7)


def test_pooled_l1_equals_the_difference_of_cell_means() -> None:
    x = torch.zeros(1, 1, 4, 8)
    fake = x.clone()
    fake[..., 0, 0] = 16.0  # one cell's mean becomes 1
    fake[..., 1, 4], fake[..., 2, 5] = 3.0, -3.0  # cancels within the other cell
    assert PooledL1(4)(x, x, fake, x)["pair"] == 0.5
    assert F.l1_loss(x, fake) == 22 / 32


def test_descending_the_loss_alone_recovers_the_low_passed_target() -> None:
    torch.manual_seed(0)
    networks = ResNetGenerator(1, 1, 8, 0), ResNetGenerator(1, 1, 8, 0)
    loss = _attached(networks)
    target = F.interpolate(torch.rand(1, 1, 8, 8) * 2 - 1, size=48, mode="bicubic").clamp(-1, 1)
    fake = (0.1 * torch.randn(1, 1, 48, 48)).requires_grad_()
    optimizer = torch.optim.Adam([fake], lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        loss(target, target, target, fake)["pair"].backward()
        optimizer.step()
    smooth = [F.avg_pool2d(v.detach(), 4).flatten() for v in (fake, target)]
    assert torch.corrcoef(torch.stack(smooth))[0, 1] > 0.8

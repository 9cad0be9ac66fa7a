from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import Inception3

from rsgeo_gan.errors import CheckpointError
from rsgeo_gan.metrics import FrechetDistance, InceptionBackend, KernelDistance, ResNetBackend, load_weights
from rsgeo_gan.metrics.pretrained import _corner_resize, _mean_pool, _triplets


@pytest.fixture(scope="module")
def inception() -> dict[str, torch.Tensor]:
    """Weights of Inception in the layout of the original definition, drawn at random."""
    torch.manual_seed(0)
    network = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    return network.state_dict()


@pytest.fixture(scope="module")
def resnet() -> dict[str, torch.Tensor]:
    from torchgeo.models import resnet18

    torch.manual_seed(0)
    return resnet18(in_chans=2, num_classes=4).state_dict()


def _images(count: int, bands: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, bands, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_original_weights_on_three_bands_are_fid_and_nothing_else_is(inception: dict[str, torch.Tensor]) -> None:
    backend = InceptionBackend(inception)
    assert (backend.name, backend.is_fid) == ("inception-v3-fid", True)
    assert not backend.network.training
    x = (_images(2, 3) * 100 + 127).round() / 127.5 - 1
    found = backend.train().describe(x)
    assert found.shape == (2, 2048)
    assert found.std() > 0
    # Eight bits are what the network sees.
    assert torch.equal(backend.describe(x + 0.003), found)
    assert not torch.equal(backend.describe(x + 0.006), found)
    wide = InceptionBackend(inception, in_bands=4)
    assert (wide.name, wide.is_fid) == ("inception-v3-fid-4band-2triplets", False)
    # The first triplet of four bands is what three bands give.
    torch.testing.assert_close(wide.describe(torch.cat([x, x[:, :1]], dim=1))[:, :2048], found)
    ours = {name: v for name, v in inception.items() if not name.startswith("fc.")}
    torchvision = InceptionBackend(ours | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)})
    assert (torchvision.name, torchvision.is_fid) == ("inception-v3-imagenet", False)
    assert not torch.allclose(torchvision.describe(x), found, rtol=0.01)
    # torchvision's weights know [-1, 1], whatever its own way to there.
    seen: list[torch.Tensor] = []
    torchvision.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    torchvision.describe(torch.stack([torch.full((3, 32, 32), value) for value in (-1.0, 1.0)]))
    torch.testing.assert_close(seen[0].mean(dim=(1, 2, 3)), torch.tensor([-1.0, 1.0]))
    assert (FrechetDistance(backend).name, KernelDistance(backend).name) == ("FID", "KID")
    assert FrechetDistance(torchvision).name == "FD-inception-v3-imagenet"


def test_pooling_leaves_padding_out_and_resizing_keeps_the_corner() -> None:
    assert torch.equal(_mean_pool(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    # Twice the size: pixel i lies at i / 2; beyond the last centre the last value is held.
    assert _corner_resize(ramp, 8)[0, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
    assert torch.equal(_corner_resize(ramp, 8)[0, 0, :, 2], torch.ones(8))


def test_triplets_hold_every_band() -> None:
    assert [_triplets(n) for n in (1, 2, 3)] == [((0, 0, 0),), ((0, 1, 1),), ((0, 1, 2),)]
    assert _triplets(4) == ((0, 1, 2), (1, 2, 3))
    for bands in range(1, 15):
        assert {b for t in _triplets(bands) for b in t} == set(range(bands))


def test_resnet_sees_analysis_units(resnet: dict[str, torch.Tensor]) -> None:
    backend = ResNetBackend(resnet, "test", low=(-25, -32), high=(0, -5), mean=(-12.5, -20), std=(5, 6))
    assert backend.name == "resnet18-test-2band"
    seen: list[torch.Tensor] = []
    backend.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = _images(2, 2)
    found = backend.describe(x)
    assert found.shape == (2, 512)
    decibel = torch.stack([(x[:, 0] + 1) / 2 * 25 - 25, (x[:, 1] + 1) / 2 * 27 - 32], dim=1)
    wanted = (decibel - torch.tensor([-12.5, -20])[:, None, None]) / torch.tensor([5.0, 6.0])[:, None, None]
    torch.testing.assert_close(seen[0], wanted, rtol=0, atol=1e-5)
    assert not any(p.requires_grad for p in backend.parameters())
    assert not backend.train().network.training


def test_invalid_pixels_change_nothing_and_many_leave_no_features(resnet: dict[str, torch.Tensor]) -> None:
    backend = ResNetBackend(resnet, "test", low=(-1, -1), high=(1, 1))
    x, mask = _images(2, 2), torch.ones(2, 1, 32, 32)
    mask[0, 0, 0, 0] = 0
    mask[1, 0, :4] = 0
    first, second = (backend.describe(torch.where(mask > 0, x, fill), mask) for fill in (torch.nan, 7.0))
    assert torch.equal(first[0], second[0])
    assert first[0].isfinite().all()
    assert first[1].isnan().all()


def test_weights_come_from_a_file_of_tensors_only(resnet: dict[str, torch.Tensor], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.save({"state_dict": resnet, "epoch": 3}, tmp_path / "nested.pt")
    save_file(resnet, tmp_path / "weights.safetensors")
    for name in ("nested.pt", "weights.safetensors"):
        backend = ResNetBackend.from_file(tmp_path / name, "test", low=(-1, -1), high=(1, 1))
        assert backend.digest == ResNetBackend(resnet, "test", low=(-1, -1), high=(1, 1)).digest
    with pytest.raises(CheckpointError, match=r"no file of weights .*none\.pt\. Weights are never downloaded"):
        load_weights(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    for name in ("text.pt", "module.pt"):
        with pytest.raises(CheckpointError, match=rf"{name} cannot be read as weights: .* Expected a state dict"):
            load_weights(tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    with pytest.raises(CheckpointError, match="got dict with other values"):
        load_weights(tmp_path / "numbers.pt")


def test_weights_of_something_else_are_refused(resnet: dict[str, torch.Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"no weights of Inception v3: \d+ tensors missing \(Conv2d_1a_3x3"):
        InceptionBackend(resnet)
    with pytest.raises(CheckpointError, match="the weights take 2 bands, the images have 3; select the bands"):
        ResNetBackend(resnet, "test", low=(0, 0, 0), high=(1, 1, 1))
    with pytest.raises(CheckpointError, match=r"no convolution conv1\.weight"):
        ResNetBackend({"a": torch.zeros(1)}, "test", low=(0,), high=(1,))
    short = {name: v for name, v in resnet.items() if "layer4" not in name}
    with pytest.raises(CheckpointError, match=r"no weights of resnet18: .* missing"):
        ResNetBackend(short, "test", low=(0, 0), high=(1, 1))
    with pytest.raises(ValueError, match="expected low < high"):
        ResNetBackend(resnet, "test", low=(0, 1), high=(1, 1))
    backend = ResNetBackend(resnet, "test", low=(0, 0), high=(1, 1))
    with pytest.raises(ValueError, match=r"expected \(B, 2, H, W\), got \(1, 3"):
        backend.describe(_images(1, 3))


def test_a_triplet_of_missing_bands_is_refused(inception: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="expected triplets of bands 0 to 1"):
        InceptionBackend(inception, in_bands=2, triplets=[(0, 1, 2)])

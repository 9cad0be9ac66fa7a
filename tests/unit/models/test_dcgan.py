from __future__ import annotations

import pytest
import torch
from torch import nn

from rsgeo_gan.models import DCGANGenerator


def test_the_image_keeps_to_the_model_domain() -> None:
    torch.manual_seed(0)
    made = DCGANGenerator(2, 16, 4, 16, latent_dim=8)
    nn.init.normal_(made.to_bands.weight, 0.0, 5.0)
    image = made(made.draw(8))
    assert image.abs().max() <= 1
    assert image.std() > 0.5


def test_latents_come_from_the_prior() -> None:
    made = DCGANGenerator(2, 16, 4, 16, latent_dim=500, prior="uniform")
    torch.manual_seed(0)
    z = made.draw(20)
    assert z.abs().max() <= 1
    assert float(z.var()) == pytest.approx(1 / 3, rel=0.05)
    assert float(DCGANGenerator(2, 16, 4, 16, latent_dim=500).draw(20).var()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_only_normalisation_ties_the_samples_of_a_batch(norm: str) -> None:
    torch.manual_seed(0)
    made = DCGANGenerator(2, 16, 4, 16, latent_dim=8, norm=norm).train()
    z = made.draw(4)
    together = made(z)[:2]
    assert torch.allclose(made(z[:2]), together, atol=1e-5) is (norm == "none")

"""Networks: plain modules, sizes as constructor arguments, `forward = head of features`."""

from __future__ import annotations

from rsgeo_gan.models.autoencoder import Encoder, ImageDecoder, ImageDiscriminator, LatentDiscriminator
from rsgeo_gan.models.blocks import Blur, ConvBlock, ResidualBlock, UpBlock, init_normal
from rsgeo_gan.models.dcgan import DCGANDiscriminator, DCGANGenerator
from rsgeo_gan.models.frequency import FrequencyShifted, from_ground, shift_frequency, swap_spectrum
from rsgeo_gan.models.norm import (
    SceneNorm,
    collecting,
    frozen_state,
    is_frozen,
    load_frozen_state,
    unfreeze,
)
from rsgeo_gan.models.patchgan import PatchDiscriminator, logit_mask
from rsgeo_gan.models.pyramid import PyramidDiscriminator, PyramidGenerator
from rsgeo_gan.models.relativistic import RelativisticDiscriminator, RelativisticGenerator
from rsgeo_gan.models.resnet import ResNetEncoder, ResNetGenerator
from rsgeo_gan.models.style import StyleDiscriminator, StyleGenerator
from rsgeo_gan.models.summed import SummedDecoders, SummedGenerators, SummedResolvers, start_at_zero
from rsgeo_gan.models.synthesis import SynthesisDiscriminator, SynthesisGenerator
from rsgeo_gan.models.unet import UNetGenerator

__all__ = [
    "Blur",
    "ConvBlock",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "Encoder",
    "FrequencyShifted",
    "ImageDecoder",
    "ImageDiscriminator",
    "LatentDiscriminator",
    "PatchDiscriminator",
    "PyramidDiscriminator",
    "PyramidGenerator",
    "RelativisticDiscriminator",
    "RelativisticGenerator",
    "ResNetEncoder",
    "ResNetGenerator",
    "ResidualBlock",
    "SceneNorm",
    "StyleDiscriminator",
    "StyleGenerator",
    "SummedDecoders",
    "SummedGenerators",
    "SummedResolvers",
    "SynthesisDiscriminator",
    "SynthesisGenerator",
    "UNetGenerator",
    "UpBlock",
    "collecting",
    "from_ground",
    "frozen_state",
    "init_normal",
    "is_frozen",
    "load_frozen_state",
    "logit_mask",
    "shift_frequency",
    "start_at_zero",
    "swap_spectrum",
    "unfreeze",
]

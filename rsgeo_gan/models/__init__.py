"""Networks: plain modules, sizes as constructor arguments, `forward = head of features`."""

from __future__ import annotations

from rsgeo_gan.models.autoencoder import Encoder, ImageDecoder, ImageDiscriminator, LatentDiscriminator
from rsgeo_gan.models.blocks import Blur, ConvBlock, ResidualBlock, UpBlock, init_normal
from rsgeo_gan.models.constraint import Constrained, constrain, low_pass
from rsgeo_gan.models.dcgan import DCGANDiscriminator, DCGANGenerator
from rsgeo_gan.models.features import FeatureBackend, RandomFeatures, VGGFeatures
from rsgeo_gan.models.frequency import FrequencyShifted, from_ground, shift_frequency, swap_spectrum
from rsgeo_gan.models.matching import Match, match, swap
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
from rsgeo_gan.models.resolver import SuperResolver
from rsgeo_gan.models.sampling import coarsen, enlarge
from rsgeo_gan.models.style import StyleDiscriminator, StyleGenerator
from rsgeo_gan.models.summed import SummedDecoders, SummedGenerators, SummedResolvers, start_at_zero
from rsgeo_gan.models.superres import RRDB, SRCNN, Bicubic, SRResNet
from rsgeo_gan.models.superres_discriminator import DetailDiscriminator, UNetDiscriminator
from rsgeo_gan.models.synthesis import SynthesisDiscriminator, SynthesisGenerator
from rsgeo_gan.models.texture import TextureTransfer, Transfer
from rsgeo_gan.models.unet import UNetGenerator

__all__ = [
    "RRDB",
    "SRCNN",
    "Bicubic",
    "Blur",
    "Constrained",
    "ConvBlock",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "DetailDiscriminator",
    "Encoder",
    "FeatureBackend",
    "FrequencyShifted",
    "ImageDecoder",
    "ImageDiscriminator",
    "LatentDiscriminator",
    "Match",
    "PatchDiscriminator",
    "PyramidDiscriminator",
    "PyramidGenerator",
    "RandomFeatures",
    "RelativisticDiscriminator",
    "RelativisticGenerator",
    "ResNetEncoder",
    "ResNetGenerator",
    "ResidualBlock",
    "SRResNet",
    "SceneNorm",
    "StyleDiscriminator",
    "StyleGenerator",
    "SummedDecoders",
    "SummedGenerators",
    "SummedResolvers",
    "SuperResolver",
    "SynthesisDiscriminator",
    "SynthesisGenerator",
    "TextureTransfer",
    "Transfer",
    "UNetDiscriminator",
    "UNetGenerator",
    "UpBlock",
    "VGGFeatures",
    "coarsen",
    "collecting",
    "constrain",
    "enlarge",
    "from_ground",
    "frozen_state",
    "init_normal",
    "is_frozen",
    "load_frozen_state",
    "logit_mask",
    "low_pass",
    "match",
    "shift_frequency",
    "start_at_zero",
    "swap",
    "swap_spectrum",
    "unfreeze",
]

"""Tasks: how a family of networks learns, on torchgeo's `BaseTask`."""

from __future__ import annotations

from rsgeo_gan.tasks.autoencoding import ConditionalAutoencoding
from rsgeo_gan.tasks.base import AdversarialTask
from rsgeo_gan.tasks.generation import GenerationTask
from rsgeo_gan.tasks.paired import PairedTranslation
from rsgeo_gan.tasks.pyramid import SinglePairTranslation
from rsgeo_gan.tasks.references import ReferenceSuperResolution
from rsgeo_gan.tasks.scoring import TranslationTask
from rsgeo_gan.tasks.superres import SuperResolution
from rsgeo_gan.tasks.synthesis import ImageSynthesis
from rsgeo_gan.tasks.translation import CycleTranslation

__all__ = [
    "AdversarialTask",
    "ConditionalAutoencoding",
    "CycleTranslation",
    "GenerationTask",
    "ImageSynthesis",
    "PairedTranslation",
    "ReferenceSuperResolution",
    "SinglePairTranslation",
    "SuperResolution",
    "TranslationTask",
]

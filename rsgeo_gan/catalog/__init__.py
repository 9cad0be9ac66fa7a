"""Where data comes from: catalogues in YAML, read into frozen models with errors a user can act on.

A catalogue names an area, a time, a grid, two sides (source and target), the pairing rule and the settings of
the stages; that of a synthesis (`kind: synthesis`) names the images to imitate and those to make, that of a
super-resolution (`kind: superres`) fine images and what lies beside them. Secrets are never
stored in one: `token_env` names an environment variable.
"""

from __future__ import annotations

from rsgeo_gan.catalog.loading import load, load_superres, load_synthesis, products_of
from rsgeo_gan.catalog.models import (
    Area,
    Catalog,
    FolderSide,
    GridSettings,
    Limits,
    Pairing,
    Period,
    Products,
    SampleSide,
    Scalar,
    Side,
    StacSide,
    Tiling,
    Training,
)
from rsgeo_gan.catalog.superres import SuperresCatalog, SuperresCollect, SuperresProducts, SuperresTraining
from rsgeo_gan.catalog.synthesis import DeclaredGrid, Scoring, SynthesisCatalog, SynthesisTraining, SyntheticProducts

__all__ = [
    "Area",
    "Catalog",
    "DeclaredGrid",
    "FolderSide",
    "GridSettings",
    "Limits",
    "Pairing",
    "Period",
    "Products",
    "SampleSide",
    "Scalar",
    "Scoring",
    "Side",
    "StacSide",
    "SuperresCatalog",
    "SuperresCollect",
    "SuperresProducts",
    "SuperresTraining",
    "SynthesisCatalog",
    "SynthesisTraining",
    "SyntheticProducts",
    "Tiling",
    "Training",
    "load",
    "load_superres",
    "load_synthesis",
    "products_of",
]

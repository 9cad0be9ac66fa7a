"""The errors a user can meet, each saying what, where, expected, got and what to do next.

    RSGeoGANError(Exception)
    ├── CatalogError(ValueError)           a YAML does not describe usable data
    ├── SourceError(OSError)               a scene cannot be found, fetched or read
    │   └── FailedShareError               more items of a stage failed than the catalogue accepts
    ├── GridError(ValueError)              no CRS, grids do not nest, box and array disagree
    ├── CoregistrationError(RuntimeError)  no overlap, nothing to compare, shift above the limit
    ├── CheckpointError(ValueError)        a checkpoint is not ours or does not fit the data
    ├── TrainingError(RuntimeError)        the training process stopped before its end
    ├── ExportError(RuntimeError)          a model cannot be exported, or its export does not compute the same
    └── ProductError(RuntimeError)         a product would be written without or with wrong georeferencing

Networks and losses raise plain `ValueError` with shapes, as torchgeo does.
"""

from __future__ import annotations

__all__ = [
    "CatalogError",
    "CheckpointError",
    "CoregistrationError",
    "ExportError",
    "FailedShareError",
    "GridError",
    "ProductError",
    "RSGeoGANError",
    "SourceError",
    "TrainingError",
]


class RSGeoGANError(Exception):
    """Root of all errors this package raises on purpose; its text is meant for the user."""


class CatalogError(RSGeoGANError, ValueError):
    """A catalogue does not describe usable data; names the file, the key, what was expected and got."""


class SourceError(RSGeoGANError, OSError):
    """A scene cannot be found, fetched or read, or its units contradict its sensor."""


class FailedShareError(SourceError):
    """More scenes or pairs of a stage failed than the catalogue accepts; the reasons are in its manifest."""


class GridError(RSGeoGANError, ValueError):
    """A raster has no usable georeferencing, grids do not nest, or a box and an array disagree."""


class CoregistrationError(RSGeoGANError, RuntimeError):
    """Two scenes cannot be compared: no overlap, no valid data, or a shift above the limit."""


class CheckpointError(RSGeoGANError, ValueError):
    """A checkpoint is not one of ours, is damaged, or does not fit the data it is used on."""


class TrainingError(RSGeoGANError, RuntimeError):
    """A training process stopped before its end; the text closes with the last lines of its log."""


class ExportError(RSGeoGANError, RuntimeError):
    """A model cannot be written in another form, or what was written does not compute the same."""


class ProductError(RSGeoGANError, RuntimeError):
    """A product cannot be written whole: wrong georeferencing, a full disk, an unwritable folder."""

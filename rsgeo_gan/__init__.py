"""Imperfectly aligned EO and SAR rasters in, trained generative models and CRS-exact GeoTIFFs out."""

__version__ = "0.1.0"

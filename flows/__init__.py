"""Thin Prefect flows over the stages of `rsgeo_gan`; used from a checkout, not installed."""

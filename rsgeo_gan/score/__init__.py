"""Judges folders of generated rasters against a folder of real ones, whoever made them, and writes table and figure."""

from __future__ import annotations

from rsgeo_gan.score.folders import score_folders
from rsgeo_gan.score.judging import JUDGES, JudgeSetup, Row, Scores
from rsgeo_gan.score.networks import BACKENDS
from rsgeo_gan.score.sharpness import score_sharp

__all__ = ["BACKENDS", "JUDGES", "JudgeSetup", "Row", "Scores", "score_folders", "score_sharp"]

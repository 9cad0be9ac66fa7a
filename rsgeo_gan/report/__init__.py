"""Reports as static pages: of a translation (scores, quick-looks, map, curves), a synthesis, a super-resolution."""

from __future__ import annotations

from rsgeo_gan.report.page import report
from rsgeo_gan.report.scoring import headline
from rsgeo_gan.report.superres import superres_headline, superres_report
from rsgeo_gan.report.synthesis import class_rows, synthesis_headline, synthesis_report

__all__ = [
    "class_rows",
    "headline",
    "report",
    "superres_headline",
    "superres_report",
    "synthesis_headline",
    "synthesis_report",
]

"""The report: scores, quick-looks, map, curves and what was dropped, as one static page; that of a synthesis."""

from __future__ import annotations

from rsgeo_gan.report.page import report
from rsgeo_gan.report.scoring import headline
from rsgeo_gan.report.synthesis import class_rows, synthesis_headline, synthesis_report

__all__ = ["class_rows", "headline", "report", "synthesis_headline", "synthesis_report"]

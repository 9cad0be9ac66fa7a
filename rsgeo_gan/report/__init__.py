"""The report: scores, quick-looks, map, curves and what was dropped, as one static page."""

from __future__ import annotations

from rsgeo_gan.report.page import report
from rsgeo_gan.report.scoring import headline

__all__ = ["headline", "report"]

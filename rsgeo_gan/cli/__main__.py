"""`python -m rsgeo_gan.cli`, as the training process is started."""

from __future__ import annotations

from rsgeo_gan.cli import main

if __name__ == "__main__":
    main()

"""How tests start Chromium."""

from __future__ import annotations

# Without what imitates a graphics card, which takes a fifth of the time in which a page is drawn.
QUIETLY = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-gpu-rasterization",
    "--disable-software-rasterizer",
    "--disable-extensions",
]

"""What is known of pictures before one is read: endings of files, the largest size, what networks are trained by."""

from __future__ import annotations

Triple = tuple[float, float, float]
"""A number each for red, green and blue."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif"})
"""File endings, lower case, that count as pictures."""

MAX_PIXELS = 50_000_000
"""A picture larger than this is taken for a mistake or an attack."""

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
"""Mean of red, green and blue, in [0, 1], by which nearly all networks are trained."""
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
"""Their standard deviation."""

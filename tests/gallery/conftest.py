"""Drawn pictures, and folders, zips, frames and boxes made of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from PIL import Image

Maker = Callable[[Iterable[str]], Path]


def jpeg(seed: int, size: tuple[int, int] = (8, 16)) -> bytes:
    """A plain JPEG; another seed, another colour."""
    file = io.BytesIO()
    Image.new("RGB", size, (seed % 8 * 32, seed // 8 % 8 * 32, seed // 64 % 8 * 32)).save(file, "JPEG")
    return file.getvalue()


def _content(row: int, name: str) -> bytes:
    return jpeg(row) if name.endswith(".jpg") else b"text"


@pytest.fixture
def folder(tmp_path: Path) -> Maker:
    """Makes a folder of the named files: pictures that differ, or text if they do not end in .jpg."""

    def make(names: Iterable[str]) -> Path:
        root = tmp_path / "crops"
        for row, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(_content(row, name))
        return root

    return make


@pytest.fixture
def zipped(tmp_path: Path) -> Maker:
    """Makes a zip of the named files."""

    def make(names: Iterable[str]) -> Path:
        path = tmp_path / "crops.zip"
        with zipfile.ZipFile(path, "w") as file:
            for row, name in enumerate(names):
                file.writestr(name, _content(row, name))
        return path

    return make

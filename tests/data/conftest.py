"""Drawn pictures and small data sets made of them."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from PIL import Image


def _picture(colour: tuple[int, ...] = (200, 30, 30), size: tuple[int, int] = (8, 16), **options: object) -> bytes:
    """A plain JPEG."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG", **options)
    return file.getvalue()


Maker = Callable[[Iterable[str]], Path]


@pytest.fixture
def folder(tmp_path: Path) -> Maker:
    """Makes a folder that holds the named files: pictures, or text if they do not end in .jpg."""

    def make(names: Iterable[str]) -> Path:
        root = tmp_path / "set"
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(_picture() if name.endswith(".jpg") else b"text")
        return root

    return make


@pytest.fixture
def zipped(tmp_path: Path) -> Maker:
    """Makes a zip that holds the named files."""

    def make(names: Iterable[str]) -> Path:
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, _picture() if name.endswith(".jpg") else b"text")
        return path

    return make

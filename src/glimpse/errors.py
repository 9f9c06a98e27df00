"""What glimpse says when something given to it is wrong: where, why, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class GlimpseError(Exception):
    """An error in what the user gave, not in glimpse.

    The command line prints it as one message and exits with code 2.

    Args:
        where: the file, field or option that is wrong.
        cause: what is wrong with it, without a final full stop.
        remedy: what to do about it, without a final full stop.

    >>> print(DataError("crops/a.jpg", "the file is truncated", "copy it again or pass --skip-bad"))
    crops/a.jpg: the file is truncated. Remedy: copy it again or pass --skip-bad.
    """

    def __init__(self, where: str | Path, cause: str, remedy: str) -> None:
        self.where = str(where)
        self.cause = cause
        self.remedy = remedy
        super().__init__(f"{self.where}: {cause}. Remedy: {remedy}.")

    def __reduce__(self) -> tuple[type[GlimpseError], tuple[str, str, str]]:
        """From its three parts, so that it comes back whole from another process."""
        return type(self), (self.where, self.cause, self.remedy)


class DataError(GlimpseError):
    """An image, a dataset or a list of samples cannot be used."""


class ConfigError(GlimpseError):
    """A recipe, an option or an argument is not valid."""


class WeightsError(GlimpseError):
    """A weights file or its card cannot be used."""


class EmbeddingError(GlimpseError):
    """Embeddings do not fit each other or the distance they are given to."""


class GalleryError(GlimpseError):
    """A gallery is not there, is damaged, cannot be written, or does not fit the weights."""


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The first thing that pydantic found wrong: `(field, what is wrong with it)`."""
    problem = error.errors()[0]
    return ".".join(str(part) for part in problem["loc"]), plain_words(problem["msg"])


def plain_words(message: str) -> str:
    """A message of pydantic as the end of a sentence.

    >>> plain_words("Value error, Input should be 3")
    'input should be 3'
    """
    said = message.removeprefix("Value error, ")
    return said[:1].lower() + said[1:]

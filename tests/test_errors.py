"""Errors say where, what and what to do, also after they came from another process."""

import pickle

import pytest

from glimpse.errors import ConfigError, DataError, EmbeddingError, GlimpseError, WeightsError


@pytest.mark.parametrize("kind", [GlimpseError, ConfigError, DataError, EmbeddingError, WeightsError])
def test_an_error_comes_back_whole_from_another_process(kind: type[GlimpseError]) -> None:
    sent = kind("a.jpg", "the file is truncated", "copy it again")
    back = pickle.loads(pickle.dumps(sent))
    assert type(back) is kind
    assert (back.where, back.cause, back.remedy) == ("a.jpg", "the file is truncated", "copy it again")
    assert str(back) == str(sent) == "a.jpg: the file is truncated. Remedy: copy it again."

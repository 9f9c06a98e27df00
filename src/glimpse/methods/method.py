"""The contract of a method: a network, its losses and a distance, whatever paper they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel
from torch import Tensor, nn

from glimpse.backbones import Backbone, Look
from glimpse.cues.needs import Cues, Needs
from glimpse.embedding import Embedding
from glimpse.matching.distance import Distance

When = Literal["train", "search"]
Outputs = dict[str, Tensor]
"""What `heads` hands to `losses` and `embed`: named tensors."""


class Region(NamedTuple):
    """Where a part lies in a crop: its name and `(x0, y0, x1, y1)` as shares of width and height."""

    name: str
    box: tuple[float, float, float, float]


def strips_of(k: int) -> tuple[Region, ...]:
    """K equal strips from top to bottom, named as reports show them.

    >>> strips_of(2)[1]
    Region(name='strip 2', box=(0.0, 0.5, 1.0, 1.0))
    """
    return tuple(Region(f"strip {i + 1}", (0.0, i / k, 1.0, (i + 1) / k)) for i in range(k))


class Method(nn.Module, ABC):
    """A backbone, heads on its map, the losses that train them and the distance that compares what they say.

    The two steps are apart (`backbone(images) -> map`, `heads(map) -> outputs`) so that heads can be trained on
    cached maps of a frozen backbone.

    `visible` is the prompt: which part of a crop is the person, as `[n, H, W]` in [0, 1] (1 = the person's region,
    0 = hidden); `None` means the whole crop. Every method must honour it. A backbone with a visibility head finds its
    own where nobody gives one; heads take it in whatever resolution it comes.

    A method is built as `Class(backbone, ids, options)`, with `ids` training identities (0: it only embeds).
    """

    name: ClassVar[str]
    knows_prompts: ClassVar[bool] = True
    """Whether prompts reach the network, or hidden pixels are only blanked."""
    Options: ClassVar[type[BaseModel]]
    options: BaseModel
    backbone: Backbone

    @classmethod
    def needs(cls, options: BaseModel, when: When) -> Needs:
        """Cues without which the method, with these options, cannot be trained, or cannot search.

        None, unless a method says so.
        """
        return Needs()

    @abstractmethod
    def heads(self, features: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
        """Everything that training or embedding needs, from maps `[n, c, h, w]`; `cues` are those that it `needs`."""

    def forward(self, images: Tensor, visible: Tensor | None = None, cues: Cues | None = None) -> Outputs:
        """Outputs for normalised images `[n, 3, H, W]`."""
        look = self.backbone.look(images, visible if self.knows_prompts else None)
        return self.heads(look.features, look.seen, cues)

    @abstractmethod
    def losses(self, outputs: Outputs, pids: Tensor) -> dict[str, Tensor]:
        """Named terms whose sum is minimised; `pids` are class indices `[n]` int64."""

    def early_losses(self, look: Look, cues: Cues | None) -> dict[str, Tensor]:
        """Terms on what the backbone gives beside its map, such as the attention after its first stage; none, unless a
        method has some. In a stage on cached maps there are none."""
        return {}

    @abstractmethod
    def distances(self, outputs: Outputs) -> dict[str, Tensor]:
        """The method's distances between all crops of a batch by name, each `[n, n]` float32; differentiable."""

    @abstractmethod
    def vector(self, outputs: Outputs) -> Tensor:
        """One vector per crop, `[n, d]`, that says what the method has of it as a whole; differentiable."""

    @abstractmethod
    def embed(self, outputs: Outputs) -> Embedding:
        """What matching needs of `outputs`, one row per crop."""

    @abstractmethod
    def distance(self, *args: Any, **options: Any) -> Distance:
        """The distance that compares embeddings of this method.

        Each method names its own test-time options here, all of which have defaults; the types above stand for that.
        """

    @property
    @abstractmethod
    def regions(self) -> tuple[Region, ...]:
        """Where each part lies, for drawing; in the order of the embedding's parts."""

"""Recipes: every setting of a training, as YAML, with nothing unknown in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from glimpse.backbones import BackboneName
from glimpse.backbones.fast import Precision
from glimpse.data.transforms import TransformSettings
from glimpse.errors import ConfigError, plain_words
from glimpse.methods import METHODS, Peer

_Share = Annotated[float, Field(ge=0, le=1)]


class _FieldError(ValueError):
    """A wrong value whose field pydantic cannot name."""

    def __init__(self, field: str, said: str) -> None:
        self.field = field
        super().__init__(said)


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sampling(_Settings):
    """How batches are drawn.

    Attributes:
        people, crops: P and K of the PK sampler; with `people: 0` batches of `crops` are drawn at random.
    """

    people: int = Field(default=16, ge=0)
    crops: int = Field(default=4, ge=1)

    @property
    def batch(self) -> int:
        """Crops per batch and process."""
        return max(self.people, 1) * self.crops


class Optimiser(_Settings):
    """The optimiser and its learning rate over time.

    Attributes:
        kind: of the optimiser.
        lr: of the heads.
        backbone_lr: factor on `lr` for the backbone.
        weight_decay: L2 penalty (decoupled for `adamw`).
        momentum: of SGD, with Nesterov's form.
        schedule: `step` multiplies by `gamma` every `every` epochs, `cosine` falls to the share `least` at the end of
            the stage.
        hold: epochs at the full rate, the warm-up included, before `cosine` begins to fall.
        least: of `cosine`.
        warmup: epochs over which the rate rises linearly from a hundredth.
        clip: norm that gradients are cut to; 0 for no limit.
    """

    kind: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = Field(default=3e-4, gt=0)
    backbone_lr: float = Field(default=1.0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["constant", "step", "cosine"] = "cosine"
    every: float = Field(default=20.0, gt=0)
    gamma: float = Field(default=0.1, gt=0, le=1)
    hold: float = Field(default=0.0, ge=0)
    least: float = Field(default=0.0, ge=0, le=1)
    warmup: float = Field(default=0.0, ge=0)
    clip: float = Field(default=0.0, ge=0)


class Stage(_Settings):
    """One stretch of training.

    Attributes:
        name: of its folder and log.
        epochs: passes over the training crops.
        method, options: trains this method on the backbone instead of the recipe's, and hands on the backbone only
            (the IDE stage of QPM).
        cached: train on maps of a frozen backbone, of this many augmented passes; 0 trains on images.
        freeze: parts of the backbone that do not learn, by name; `all` for the whole.
        optimiser: and its schedule.
        prompt: share of the covered crops whose visible region is given to the network, as a caller would.
        anchor: weight of the pull of each visible cell of the map to what the start's backbone sees in the clear crop
            (1 - cosine); keeps a well-trained start general while it learns to see past occluders.
        teacher: weight of the pull of each of the method's distances between the covered crops of a batch to the
            recipe's teacher's between the same crops, clear; see `distance_loss`.
        teacher_vector: weight of the pull of one vector per covered crop, through a linear map that is learned along,
            to the teacher's of the clear crop; see `vector_loss`.
        average: decay of the running mean of the weights, by which the stage is judged and which it hands on; 0 for
            the last weights themselves.
        learns: what learns: the method, or only the backbone's visibility head (then all else stands still).
        visibility: weight of the visibility head's loss beside the method's.
        sampling: batches of this stage, if not the recipe's.
    """

    name: str = Field("train", pattern=r"^[A-Za-z0-9_-]+$")
    epochs: int = Field(ge=1)
    method: str | None = None
    options: dict[str, Any] = {}
    cached: int = Field(default=0, ge=0)
    freeze: tuple[str, ...] = ()
    optimiser: Optimiser = Optimiser()
    prompt: _Share = 0.0
    anchor: float = Field(default=0.0, ge=0)
    teacher: float = Field(default=0.0, ge=0)
    teacher_vector: float = Field(default=0.0, ge=0)
    average: float = Field(default=0.0, ge=0, lt=1)
    learns: Literal["method", "visibility"] = "method"
    visibility: float = Field(default=0.0, ge=0)
    sampling: Sampling | None = None

    @property
    def taught(self) -> bool:
        """Whether the recipe's teacher has a say."""
        return bool(self.teacher or self.teacher_vector)

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if self.cached and self.anchor:
            raise ValueError("a stage on cached maps has no backbone to anchor: set anchor to 0")
        if self.cached and self.visibility:
            raise ValueError("a stage on cached maps has no backbone that could learn: set visibility to 0")
        if self.visibility and {"all", "visibility"} & set(self.freeze):
            raise ValueError("a frozen visibility head cannot learn: set visibility to 0, or freeze parts by name")
        if self.learns == "visibility":
            idle = ("method", "cached", "freeze", "anchor", "teacher", "teacher_vector", "visibility")
            if set_too := [name for name in idle if getattr(self, name)]:
                raise ValueError(f"only the visibility head learns here: leave out {', '.join(set_too)}")
        return self


class Validation(_Settings):
    """Identities that are held out of training to choose weights and settings by.

    Attributes:
        identities: how many, at least 2; 0 for none (then `best` is `last`).
        seed: which.
        every: epochs between validations; the last epoch of a stage always validates.
    """

    identities: int = Field(default=50, ge=0)
    seed: int = Field(default=0, ge=0)
    every: int = Field(default=1, ge=1)

    @field_validator("identities")
    @classmethod
    def _not_one(cls, identities: int) -> int:
        if identities == 1:
            raise ValueError("hold out at least 2 people, or 0 for none: one alone is always found")
        return identities


class Recipe(_Settings):
    """How a method is trained.

    Attributes:
        method, options: what is trained.
        backbone: its name.
        visibility: whether the backbone gets a head that tells which cells are visible; a stage must teach it.
        start: `scratch`, `imagenet` or the path of a .safetensors file.
        teacher: weights (a `.safetensors` file, or the name of installed ones) whose distances between clear crops, and
            vectors of them, stages may be pulled to.
        transforms: size of the input and augmentation; `mean` and `std` come from the start.
        sampling: batches, unless a stage has its own.
        stages: one after the other.
        validation: held-out identities.
        seed: of everything.
        precision: of forward and backward passes; `auto` takes bfloat16 where the processor is quick with it.
        compile: whether torch compiles the backbone (needs a C++ compiler; pays off on CPU after a few epochs).
        workers: processes that read and transform crops.
    """

    method: str
    options: dict[str, Any] = {}
    backbone: BackboneName
    visibility: bool = False
    start: str = "scratch"
    teacher: str = ""
    transforms: TransformSettings = TransformSettings()
    sampling: Sampling = Sampling()
    stages: tuple[Stage, ...] = Field(min_length=1)
    validation: Validation = Validation()
    seed: int = Field(default=0, ge=0)
    precision: Precision = "auto"
    compile: bool = False
    workers: int = Field(default=1, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        _check_method("", self.method, self.options)
        for number, stage in enumerate(self.stages):
            if stage.method is not None:
                _check_method(f"stages.{number}.", stage.method, stage.options)
            elif stage.options:
                raise _FieldError(f"stages.{number}.options", "belongs to a stage with a method of its own")
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise _FieldError("stages", "two stages have the same name")
        if any(stage.taught for stage in self.stages) and not self.teacher:
            raise _FieldError("teacher", "a stage learns from a teacher, and none is named")
        seeing = any(stage.learns == "visibility" or stage.visibility for stage in self.stages)
        if self.visibility != seeing:
            cause = "no stage teaches it" if self.visibility else "a stage teaches a head that is not there"
            raise _FieldError("visibility", cause)
        last = self.stages[-1]
        if last.learns == "visibility" or last.method is not None:
            field = "method" if last.method is not None else "learns"
            raise _FieldError(f"stages.{len(names) - 1}.{field}", f"the last stage must train '{self.method}' itself")
        return self


def _check_method(where: str, method: str, options: Mapping[str, Any]) -> None:
    trained = [name for name in METHODS if name != Peer.name]
    if method not in trained:
        raise _FieldError(
            f"{where}method", f"'{method}' is not a method that can be trained, only {', '.join(trained)}"
        )
    try:
        METHODS[method].Options.model_validate(options)
    except ValidationError as error:
        inside, said, _ = _problem(error, METHODS[method].Options)
        raise _FieldError(f"{where}options.{inside}".rstrip("."), said) from None


def packaged_recipes() -> dict[str, Path]:
    """Recipes that are installed with glimpse, by name."""
    folder = Path(str(resources.files("glimpse") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_recipe(recipe: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe and change some of its settings.

    Args:
        recipe: name of an installed recipe, or path of a YAML file.
        changes: `key=value` with dotted keys and YAML values, such as `stages.0.epochs=5` or
            `options.gamma=0.7`.

    Raises:
        ConfigError: the file is missing or is not YAML, a key is unknown or a value does not fit; names file and field.
    """
    path = packaged_recipes().get(str(recipe), Path(recipe))
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        names = ", ".join(packaged_recipes())
        raise ConfigError(
            str(recipe), f"is neither a file nor an installed recipe ({names})", "name one of them"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(path, f"cannot be read ({error})", "give a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(path, f"is not YAML ({str(error).splitlines()[0]})", "correct the file") from error
    if not isinstance(settings, dict):
        raise ConfigError(path, "holds no settings", "write it as `key: value` lines")
    for change in changes:
        _change(settings, change)
    return parse_recipe(settings, str(path))


def parse_recipe(settings: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Check settings.

    Raises:
        ConfigError: a key is unknown or a value does not fit; names `where` and the field.
    """
    try:
        return Recipe.model_validate(dict(settings))
    except ValidationError as error:
        field, said, cause = _problem(error, Recipe)
        if isinstance(cause, _FieldError):
            field = cause.field
        place = f"{where}, field '{field}'" if field else where
        raise ConfigError(place, said, "see docs/recipes.md") from error


def _problem(error: ValidationError, settings: type[BaseModel]) -> tuple[str, str, object]:
    """`(field, what is wrong with it, what a validator raised)`; names that are not known come first, as the reason for
    those that are missing."""
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    field, said = ".".join(str(part) for part in problem["loc"]), plain_words(problem["msg"])
    if problem["type"] == "extra_forbidden":
        *group, name = problem["loc"]
        said = f"there is no field '{name}'"
        missing = [str(p["loc"][-1]) for p in problems if p["type"] == "missing" and list(p["loc"][:-1]) == group]
        if missing:
            said += f", and {' and '.join(repr(own) for own in missing)} is missing"
        known = _fields(settings, group)
        if known:
            said += f"; known: {', '.join(known)}"
    return field, said, problem.get("ctx", {}).get("error")


def _fields(settings: type[BaseModel], group: Sequence[int | str]) -> list[str]:
    """Names of the fields of a group of settings; none where the group is not settings."""
    at: type[BaseModel] | None = settings
    for part in group:
        if at is not None and isinstance(part, str):
            field = at.model_fields.get(part)
            at = _settings_in(field.annotation) if field else None
    return list(at.model_fields) if at is not None else []


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    """The settings that a type such as `tuple[Stage, ...]` or `Sampling | None` is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for found in map(_settings_in, get_args(annotation)) if found), None)


def _change(settings: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {change}", "is not key=value", "write it as in --set stages.0.epochs=5")
    at: Any = settings
    *folders, last = key.split(".")
    for name in folders:
        if isinstance(at, list):
            if not name.isdecimal() or int(name) >= len(at):
                raise ConfigError(f"--set {change}", f"there is no '{name}' among {len(at)} items", "count from 0")
            at = at[int(name)]
        elif isinstance(at, dict):
            if at.get(name) is None:
                at[name] = {}
            at = at[name]
        else:
            raise ConfigError(f"--set {change}", f"'{name}' is inside a value, not a group", "see docs/recipes.md")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {change}", "the value is not YAML", "quote it") from error
    if isinstance(at, list):
        if not last.isdecimal() or int(last) >= len(at):
            raise ConfigError(f"--set {change}", f"there is no '{last}' among {len(at)} items", "count from 0")
        at[int(last)] = parsed
    elif isinstance(at, dict):
        at[last] = parsed
    else:
        raise ConfigError(f"--set {change}", f"'{last}' is inside a value, not a group", "see docs/recipes.md")

"""Train a method by a recipe: stages, checkpoints, validation, weights with a card."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import lightning
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from pydantic import ValidationError
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from glimpse.backbones import Backbone, Start, build_backbone, load_start
from glimpse.backbones.fast import in_bfloat16, keep_freed_memory
from glimpse.cues.needs import Needs
from glimpse.data import DISTRACTOR, JUNK, Dataset, PKSampler, Sample, holdout, open_dataset
from glimpse.data.transforms import TrainTransform, TransformSettings
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError, WeightsError
from glimpse.evaluation import evaluate
from glimpse.files import atomic, write_text
from glimpse.methods import METHODS, Method
from glimpse.methods.method import When
from glimpse.model import Card, Model, load, packaged, read_card, save
from glimpse.provenance import commit
from glimpse.synthetic.occlusion import EDGES, Kind, Occluder
from glimpse.training.crops import CropCues, CropDataset, Seeded, read_crops
from glimpse.training.cues import CueSource, CueTables, HeldOutPoints, open_cues, read_cues, swaps
from glimpse.training.maps import MapDataset, MapPass, Maps, key_digest
from glimpse.training.module import StageModule, Validate, frozen_modules, mixed_seed
from glimpse.training.processes import Place, launch
from glimpse.training.recipe import Recipe, Stage
from glimpse.training.teacher import Teacher


@dataclass(frozen=True)
class Trained:
    """What `train` leaves behind.

    Attributes:
        best, last: weights; `best` by the validation score, or the last without validation.
        metrics: validation of `best`.
        notes: what was left out or repeated.
        minutes: time spent, earlier calls that this one went on from included.
    """

    best: Path
    last: Path
    metrics: dict[str, float]
    notes: tuple[str, ...]
    minutes: float


def train(
    recipe: Recipe,
    data: str | Dataset,
    out: str | Path,
    *,
    resume: bool = True,
    cache: str | Path | None = None,
    cues: CueSource | None = None,
    devices: int = 1,
    skip_bad: bool = False,
    terms: str = "",
    command: str = "",
    progress: bool = True,
) -> Trained:
    """Train.

    Args:
        recipe: every setting; see `load_recipe`.
        data: a dataset, or `KIND:PATH`; its training split is used.
        out: folder for weights, logs, checkpoints and the recipe.
        resume: go on from the last checkpoint in `out`, if there is one; otherwise `out` must be new or empty.
        cache: folder for cached maps (they can be shared by trainings on the same data); `out/cache` if not given.
        cues: where cues are, for a method that learns from some.
        devices: processes, each on a GPU of its own, or together on the CPU; a script that asks for more than one needs
            `if __name__ == "__main__":`.
        skip_bad: leave out crops that cannot be read, and report them.
        terms: licence of the weights and terms of the data, for the card.
        command: the command line that was given, for the card.
        progress: whether to show a progress bar with the remaining time.

    Raises:
        ConfigError: `out` holds the training of another recipe or on other data, a setting cannot be carried out, or
            cues are needed and not there.
        DataError: the data has no training split, a crop cannot be read, or cues do not fit the crops.
    """
    tables = open_cues(recipe.method, _needs(recipe), cues)
    dataset = open_dataset(data) if isinstance(data, str) else data
    folder = Path(out)
    cached = Path(cache) if cache else folder / "cache"
    asked = _Asked(recipe, dataset, folder, cached, tables, skip_bad, terms, command, progress)
    _claim(folder, recipe, _fingerprint(dataset), resume)
    return asked.carry_out(Place()) if devices == 1 else launch(asked.carry_out, devices)


def _needs(recipe: Recipe) -> Needs:
    """What the method, and those of the stages that have their own, learn from, and are validated with."""
    needs = Needs()
    for name, options in ((recipe.method, recipe.options), *((s.method, s.options) for s in recipe.stages if s.method)):
        kind = METHODS[name]
        for when in get_args(When) if recipe.validation.identities else ("train",):
            needs |= kind.needs(kind.Options(**options), when)
    return needs


def _claim(out: Path, recipe: Recipe, data: dict[str, str], resume: bool) -> None:
    """Check that `out` is ours to write to; `_Training` writes recipe and data there once it has checked the rest."""
    there = out / "recipe.json"
    if out.exists() and (not out.is_dir() or not _unstarted(out)):
        if not (there.exists() and resume):
            raise ConfigError(out, "is not an empty folder", "choose another --out, or go on with --resume")
        try:
            same = Recipe.model_validate_json(there.read_text(encoding="utf-8")) == recipe
        except ValidationError:
            same = False
        if not same:
            raise ConfigError(
                out,
                "holds the training of another recipe",
                "choose another --out, or pass --no-resume and an empty folder",
            )
        kept = out / "data.json"
        if kept.exists() and (known := json.loads(kept.read_text(encoding="utf-8"))) != data:
            raise ConfigError(
                out,
                f"holds a training on other data ({known['name']}, {known['crops']} crops; now {data['name']}, "
                f"{data['crops']}; names or person ids of the training crops differ)",
                "give --data as it was, or choose another --out",
            )


def _unstarted(out: Path) -> bool:
    """Whether `out` holds nothing, or no more than a training leaves that ended before its first step."""
    found = {path.name for path in out.iterdir()} - {"cache"}
    if not found:
        return True
    if "recipe.json" not in found or found - {"recipe.json", "data.json"}:
        return False
    try:
        recipe = json.loads((out / "recipe.json").read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(recipe, dict) and "stages" in recipe


def _fingerprint(dataset: Dataset) -> dict[str, str]:
    """What tells a training's data from other data: the names and ids of its crops, in their order."""
    samples = dataset.split("train")
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(json.dumps([sample.name, sample.pid, sample.camid]).encode())
    return {"name": dataset.name, "crops": str(len(samples)), "sha256": digest.hexdigest()}


@dataclass(frozen=True)
class _Asked:
    """What `train` was asked for, to be handed to each process."""

    recipe: Recipe
    dataset: Dataset
    out: Path
    cache: Path
    cues: CueTables | None
    skip_bad: bool
    terms: str
    command: str
    progress: bool

    def carry_out(self, place: Place) -> Trained:
        return _Training(self, place).run()


class _Training:
    """One training, in one of its processes."""

    def __init__(self, asked: _Asked, place: Place) -> None:
        keep_freed_memory()
        self.asked, self.place = asked, place
        self.recipe, self.out, self.dataset = asked.recipe, asked.out, asked.dataset
        recipe = self.recipe
        self.progress = asked.progress and place.first
        self.notes: list[str] = []
        self._started = time.monotonic()
        self._clock = self.out / "minutes.json"
        self._before = float(json.loads(self._clock.read_text())) if self._clock.exists() else 0.0

        samples = [s for s in self.dataset.split("train") if s.pid not in (JUNK, DISTRACTOR)]
        self.validation: Dataset | None = None
        held = recipe.validation
        if held.identities:
            try:
                kept, self.validation = holdout(samples, identities=held.identities, seed=held.seed)
            except ConfigError as error:
                remedy = "hold at least two people out (or 0 for none), and fewer than all"
                raise ConfigError("validation.identities", error.cause, remedy) from error
            samples = list(kept)
        crops, rows, bad = read_crops(samples, skip_bad=asked.skip_bad)
        if self.validation is not None and place.first:
            held_crops = [*self.validation.query, *self.validation.gallery]
            bad += read_crops(held_crops, skip_bad=asked.skip_bad)[2]
        self.notes += [f"left out: {error}" for error in bad]
        self.samples: Sequence[Sample] = [samples[row] for row in rows]
        people = {pid: label for label, pid in enumerate(sorted({s.pid for s in self.samples}))}
        if len(people) < 2:
            raise DataError(self.dataset.name, f"has {len(people)} identities to train on", "give at least two")
        self.labels = [people[s.pid] for s in self.samples]
        self.ids = len(people)

        lightning.seed_everything(recipe.seed, workers=True, verbose=False)
        backbone = build_backbone(recipe.backbone, visibility=recipe.visibility)
        self.method = self._build(recipe.method, recipe.options, backbone)  # first: it may put an attention into it
        self.start: Start = self._load_start(backbone)
        self.transforms: TransformSettings = recipe.transforms.model_copy(
            update={"mean": self.start.mean, "std": self.start.std}
        )
        self.cues: list[CropCues] | None = None
        if asked.cues is not None:
            self.cues, notes = read_cues(asked.cues, self.samples, crops)
            self.notes += notes
            self.transforms = self.transforms.model_copy(update={"swap": swaps(asked.cues.needs)})
        self.crops = CropDataset(crops, self.labels, TrainTransform(self.transforms, crops), self.cues)
        # Anchors come from the start, whatever earlier stages do to the backbone.
        self._reference = copy.deepcopy(backbone) if any(stage.anchor for stage in recipe.stages) else None
        if self._reference is not None:
            self._reference.visibility = None
        # Read now: a file that is not there should be known before any stage, not after some.
        taught = any(stage.taught for stage in recipe.stages)
        if taught and not _is_there(recipe.teacher):
            raise WeightsError(
                f"field 'teacher': '{recipe.teacher}'",
                "there is no such file",
                "name trained weights: a .safetensors file with its card, or installed ones "
                f"({', '.join(packaged()) or 'none'})",
            )
        self._taught_by = load(recipe.teacher, precision=recipe.precision) if taught else None
        if self._taught_by is not None and any(stage.teacher_vector for stage in recipe.stages):
            one = self._taught_by.embed_samples(self.samples[:1]).embedding
            Teacher(self._taught_by.distance(), one).check_vectors()
        # So are a name of a part that is not there, and too few people for a batch.
        for number, stage in enumerate(recipe.stages):
            frozen_modules(backbone, stage.freeze)
            self._sampler(number)
        self._content = _digest([*crops, torch.tensor([crop.shape for crop in crops])]) if self._caches else ""
        if place.first:
            for name, text in (
                ("recipe.json", recipe.model_dump_json(indent=2)),
                ("data.json", json.dumps(_fingerprint(self.dataset), indent=2)),
            ):
                path = self.out / name
                if not path.exists() or _unstarted(self.out):
                    write_text(path, text)
        place.wait()

    def _load_start(self, backbone: Backbone) -> Start:
        """The start, or what may be given as one."""
        name, start = self.recipe.backbone, self.recipe.start
        if start not in ("scratch", "imagenet") and not Path(start).exists():
            fit = [str(path) for path in packaged().values() if read_card(path.with_suffix(".json")).backbone == name]
            here = f" (the backbone of weights trained by glimpse will do, such as {fit[0]})" if fit else ""
            # No ImageNet weights of these can be downloaded.
            words = "`scratch`" if name.startswith(("osnet", "resnet50_ibn")) else "`imagenet` or `scratch`"
            raise WeightsError(
                f"field 'start': '{start}'",
                "there is no such file",
                f"give the path of a .safetensors file with weights of {name}{here}, or {words}",
            )
        return load_start(backbone, name, start)

    @property
    def _caches(self) -> bool:
        return any(s.cached or s.anchor or s.taught or s.learns == "visibility" for s in self.recipe.stages)

    def _build(self, name: str, options: dict[str, Any], backbone: Backbone) -> Method:
        kind = METHODS[name]
        return kind(backbone, self.ids, kind.Options(**options))

    # ------------------------------------------------------------------ stages

    def run(self) -> Trained:
        """Go through the stages that are not done yet."""
        metrics: dict[str, float] = {}
        best, last = self.out / "best.safetensors", self.out / "last.safetensors"
        if last.with_suffix(".json").exists() and best.with_suffix(".json").exists():
            self.notes.append(f"{self.out}: the training was finished already; nothing was trained now.")
        self.place.wait()
        for number, stage in enumerate(self.recipe.stages):
            torch.manual_seed(mixed_seed(self.recipe.seed, number))
            method = self.method
            if stage.method is not None:
                method = self._build(stage.method, stage.options, self.method.backbone)
            folder = self.out / "stages" / f"{number}-{stage.name}"
            weights = folder / "weights.safetensors"
            if not weights.exists():
                kept, head = self._kept_head(stage, number), method.backbone.visibility
                if kept is not None and head is not None and kept.exists() and not folder.exists():
                    head.load_state_dict(load_file(kept))
                    self.notes.append(f"stage '{stage.name}': taken from {kept}.")
                else:
                    metrics = self._stage(method, number, folder)
                    if kept is not None and head is not None and self.place.first:
                        _keep(head, kept)
                if self.place.first:
                    self._note_minutes()
                    write_text(folder / "metrics.json", json.dumps(metrics))
                    _keep(method, weights)
                self.place.wait()
            # Always from the file: all processes, and a resumed training, go on from the same numbers.
            method.load_state_dict(load_file(weights))
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        if self.place.first:
            for path in (last, best):
                if not path.with_suffix(".json").exists():
                    save(self.method, self._card(metrics), path)
        self.place.wait()
        metrics = json.loads(best.with_suffix(".json").read_text(encoding="utf-8"))["metrics"]
        return Trained(best, last, metrics, tuple(self.notes), self._minutes)

    @property
    def _minutes(self) -> float:
        return self._before + (time.monotonic() - self._started) / 60

    def _note_minutes(self) -> None:
        write_text(self._clock, f"{self._minutes:.2f}")

    def _teacher(self) -> Teacher:
        """The recipe's teacher, with its embedding of the clear training crops; made if need be."""
        model = self._taught_by
        assert model is not None
        key = hashlib.sha256(f"{model.made_by} {self._content}".encode()).hexdigest()[:16]
        path = self.asked.cache / f"teacher-{key}.safetensors"
        if self.place.first and not path.exists():
            with _bar("teacher", len(self.samples), self.progress) as advance:
                model.embed_samples(self.samples, progress=advance).embedding.save(path)
        self.place.wait()
        return Teacher(model.distance(), Embedding.load(path))

    def _stage(self, method: Method, number: int, folder: Path) -> dict[str, float]:
        stage = self.recipe.stages[number]
        last = number + 1 == len(self.recipe.stages)
        module = StageModule(
            method,
            stage,
            anchors=self._pass(None, 0)["maps"] if stage.anchor else None,
            teacher=self._teacher() if stage.taught else None,
            validate=self._validate() if self.validation is not None else None,
            every=self.recipe.validation.every,
            compiled=self.recipe.compile,
            on_best=(lambda found, metrics: save(found, self._card(metrics), self.out / "best.safetensors"))
            if last
            else None,
            seed=mixed_seed(self.recipe.seed, number),
            cues=self.asked.cues.needs if self.asked.cues is not None else None,
        )
        reader = folder / "reader.safetensors"
        if module.reader is not None and stage.method is None:
            before = (self.out / "stages" / f"{i}-{self.recipe.stages[i].name}" for i in reversed(range(number)))
            kept = next((path / reader.name for path in before if (path / reader.name).exists()), None)
            if kept is not None:
                module.reader.load_state_dict(load_file(kept))
        data: CropDataset | MapDataset = self.crops
        workers = self.recipe.workers
        if stage.cached:
            data = MapDataset([self._pass(stage, i) for i in range(stage.cached)], self.labels)
            workers = 0
        sampler = self._sampler(number)
        loader = DataLoader(
            data, batch_sampler=sampler, num_workers=workers, persistent_workers=workers > 0, collate_fn=None
        )
        checkpoint = folder / "epoch.ckpt"
        going_on = checkpoint.exists()
        if going_on:
            # Lightning makes the loader's iterator, whose workers fetch at once, before it tells the sampler the epoch.
            state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
            sampler.set_epoch(state["epoch"] + 1)
            del state
        log = self.out / "logs" / stage.name / "metrics.csv"
        if going_on and log.exists() and self.place.first:
            # The logger would begin the file anew.
            count = len(list(log.parent.glob("metrics-*.csv")))
            log.replace(log.with_name(f"metrics-{count + 1}.csv"))
        self.place.wait()
        callbacks: list[Callback] = [_EpochCheckpoint(checkpoint, self._note_minutes)]
        if self.progress:
            callbacks.append(TQDMProgressBar(refresh_rate=10))
        several = self.place.world > 1
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with _quiet():
            trainer = lightning.Trainer(
                accelerator="cpu" if several and device == "cpu" else "auto",
                devices=self.place.world,
                strategy="ddp" if several else "auto",
                max_epochs=stage.epochs,
                precision="bf16-mixed" if in_bfloat16(self.recipe.precision, device) else "32-true",
                gradient_clip_val=stage.optimiser.clip or None,
                logger=[
                    CSVLogger(self.out / "logs", stage.name, version=""),
                    TensorBoardLogger(self.out / "logs", "tensorboard", version=stage.name),
                ],
                callbacks=callbacks,
                enable_progress_bar=self.progress,
                enable_model_summary=False,
                use_distributed_sampler=False,
                log_every_n_steps=20,
                default_root_dir=self.out,
            )
            method.to(memory_format=torch.channels_last)
            trainer.fit(module, loader, ckpt_path=checkpoint if going_on else None, weights_only=True)
        module.release()
        if module.reader is not None and stage.method is None and self.place.first:
            _keep(module.reader, reader)
        return module.metrics

    def _sampler(self, number: int) -> Seeded:
        own = self.recipe.stages[number].sampling
        how = own or self.recipe.sampling
        rank, world = self.place.rank, self.place.world
        pk = None
        if how.people:
            try:
                pk = PKSampler(self.labels, how.people, how.crops, seed=self.recipe.seed, rank=rank, world_size=world)
            except DataError as error:
                field = f"stages.{number}.sampling.people" if own else "sampling.people"
                remedy = f"lower {field} or validation.identities, or give more people"
                raise DataError(f"{field}={how.people}", error.cause, remedy) from error
            if pk.report and pk.report not in self.notes:
                self.notes.append(pk.report)
        return Seeded(len(self.labels), pk, how.batch, self.recipe.seed, rank, world)

    # ------------------------------------------------------------------ cached maps

    def _looks(self, backbone: Backbone, transforms: TransformSettings) -> dict[str, object]:
        """Keys of the cache: who looks at which crops, moved in which way."""
        return {
            "backbone": self.recipe.backbone,
            "weights": _digest(backbone.state_dict().values()),
            "transforms": transforms.model_dump(mode="json", exclude={"swap"}),
            "crops": self._content,
        }

    def _kept_head(self, stage: Stage, number: int) -> Path | None:
        """Where the cache keeps what a stage makes of the visibility head; `None` for other stages.

        The method has no part in it, so trainings of several share it.
        """
        if stage.learns != "visibility":
            return None
        key = self._looks(self.method.backbone, self.transforms) | {
            "stage": stage.model_dump(mode="json", exclude={"name"}),
            "sampling": (stage.sampling or self.recipe.sampling).model_dump(mode="json"),
            "seed": [self.recipe.seed, number],
            "precision": in_bfloat16(self.recipe.precision, "cuda" if torch.cuda.is_available() else "cpu"),
            "processes": self.place.world,
            "people": self.labels,
        }
        return self.asked.cache / f"head-{key_digest(key)}.safetensors"

    def _pass(self, stage: Stage | None, number: int) -> Maps:
        """Maps of one augmented pass, or of the clear crops as the start sees them (`stage` None); made if need be."""
        transforms, prompt, backbone = self.transforms, 0.0, self._reference
        crops = self.crops
        if stage is not None:
            prompt, backbone = stage.prompt, self.method.backbone
        else:
            plain = {"zoom": None, "jitter": None, "flip": 0.0, "pad": 0, "occlusion": None, "erasing": None}
            transforms = transforms.model_copy(update=plain)
            crops = CropDataset(crops.crops, self.labels, TrainTransform(transforms, crops.crops))
        assert backbone is not None
        key = self._looks(backbone, transforms) | {
            "seed": self.recipe.seed,
            "pass": number,
            "prompt": prompt,
            "format": 3,
        }
        cues: dict[str, object] | None = None
        if crops.cues is not None:
            cues = {"cues": _digest([t for found in crops.cues for t in found]), "swap": transforms.swap}
        cached = MapPass(self.asked.cache, key, len(self.labels), cues)
        if self.place.first and not cached.ready:
            with _bar("maps", len(self.labels), self.progress) as advance:
                cached.make(backbone, crops, self.recipe.seed + 1 + number, prompt, advance)
        self.place.wait()
        return cached.open()

    # ------------------------------------------------------------------ validation and card

    def _validate(self) -> Validate:
        """Rank-1 and mAP on held-out identities, clear and with seeded occluders of training people."""
        held = self.validation
        assert held is not None
        sources = self.crops.crops[:: max(1, len(self.crops.crops) // 200)]
        kinds: tuple[Kind, ...] = ("object", "grey")
        tables = self.asked.cues
        points = HeldOutPoints(tables.points) if tables is not None and tables.points is not None else None

        def edit(row: int, image: Any) -> Any:
            kind, side, fraction = kinds[row % 2], EDGES[(row // 2) % 4], (0.4, 0.6)[(row // 8) % 2]
            covered, visible = Occluder(kind, side, fraction, sources, self.recipe.seed).edit(row, image)
            if points is not None:
                points.cover(covered, held.query[row], visible)
            return covered, None

        def measure(method: Method) -> dict[str, float]:
            device = next(method.parameters()).device
            card = self._card({}, method)
            # By torch: the weights are others each time, and another engine would compile them anew.
            model = Model(
                copy.deepcopy(method),
                card,
                "validation",
                device=device,
                precision=self.recipe.precision,
                engine="torch",
                keypoints=points,
            )
            gallery = model.embed_samples(held.gallery, skip_bad=True)
            relevance_gallery = [held.gallery[row] for row in gallery.kept]
            found: dict[str, float] = {}
            for name, how in (("clear", None), ("occluded", edit)):
                query = model.embed_samples(held.query, edit=how, skip_bad=True)
                relevance = held.protocol.relevance([held.query[row] for row in query.kept], relevance_gallery)
                result = evaluate(model.distance(), query.embedding, gallery.embedding, relevance)
                found[f"{name}/rank1"] = float(result.summary.metrics.rank_1.value)
                found[f"{name}/mAP"] = float(result.summary.metrics.map.value)
            found["score"] = (found["clear/mAP"] + found["occluded/mAP"]) / 2
            return found

        return measure

    def _card(self, metrics: dict[str, float], method: Method | None = None) -> Card:
        import glimpse

        method = method or self.method
        held = self.recipe.validation
        without = f" without {held.identities} identities held out (seed {held.seed})" if held.identities else ""
        crops = f"{len(self.samples)} crops of {self.ids} identities"
        return Card(
            method=method.name,
            options=method.options.model_dump(mode="json"),
            backbone=self.recipe.backbone,
            visibility=self.recipe.visibility,
            size=self.transforms.size,
            mean=self.transforms.mean,
            std=self.transforms.std,
            interpolation=self.transforms.interpolation,
            ids=self.ids,
            start=self.start,
            training_data=f"{self.dataset.name}, training split{without}: {crops}",
            terms=self.asked.terms,
            cues=self.asked.cues.sources if self.asked.cues is not None else {},
            # Names of files, without the folders of the machine that trained.
            recipe=self.recipe.model_dump(mode="json")
            | {"start": Path(self.recipe.start).name, "teacher": Path(self.recipe.teacher).name},
            metrics=metrics,
            seed=self.recipe.seed,
            epochs=sum(stage.epochs for stage in self.recipe.stages),
            minutes=round(self._minutes, 1),
            machine=_machine(self.place.world),
            commit=commit(),
            command=self.asked.command,
            glimpse=glimpse.__version__,
        )


class _EpochCheckpoint(Checkpoint):
    """Keeps the state at the end of the last epoch, whole or not at all."""

    def __init__(self, path: Path, then: Callable[[], None]) -> None:
        self.path, self.then = path, then

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """After the module's own hook, so that the best score is in it."""
        with atomic(self.path) if trainer.is_global_zero else nullcontext(self.path) as draft:
            trainer.save_checkpoint(draft)
        if trainer.is_global_zero:
            self.then()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's tips, and its warnings of what is meant to be so."""
    meant = (
        "num_workers|logging interval|srun|tensorboardX|litlogger|ckpt_path|callbacks used to create|is not empty|"
        "in eval mode at the start|LeafSpec|sync_dist"
    )
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f".*({meant}).*")
            yield
    finally:
        log.setLevel(level)


@contextmanager
def _bar(what: str, total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; gives what to call with the number of items done."""
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


def _is_there(weights: str) -> bool:
    """Whether `weights` names a file or installed weights."""
    return weights in packaged() or Path(weights).exists()


def _keep(module: nn.Module, path: Path) -> None:
    """Write a module's numbers to a file, whole or not at all."""
    with atomic(path) as draft:
        save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, draft)


def _digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the numbers in `tensors`."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _machine(processes: int) -> str:
    where = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    if torch.cuda.is_available():
        where += f", {torch.cuda.get_device_name()}"
    return where + (f", {processes} processes" if processes > 1 else "")

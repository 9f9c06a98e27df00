"""Train a method by a recipe: stages, checkpoints, validation, weights with a card."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from glimpse.backbones import Start, build_backbone, load_start
from glimpse.backbones.fast import keep_freed_memory
from glimpse.data import DISTRACTOR, JUNK, Dataset, PKSampler, Sample, holdout, open_dataset
from glimpse.data.transforms import TrainTransform, TransformSettings
from glimpse.errors import ConfigError, DataError
from glimpse.evaluation import evaluate
from glimpse.files import atomic, write_text
from glimpse.methods import METHODS, Method
from glimpse.model import Card, Model, save
from glimpse.synthetic.occlusion import SIDES, Occluder
from glimpse.training.crops import CropDataset, Seeded, read_crops
from glimpse.training.maps import MapDataset, MapPass
from glimpse.training.module import StageModule, Validate, clone
from glimpse.training.recipe import Recipe, Stage


@dataclass(frozen=True)
class Trained:
    """What `train` leaves behind.

    Attributes:
        best, last: weights; `best` by the validation score, or the last without validation.
        metrics: validation of `best`.
        notes: what was left out or repeated.
        minutes: time spent in this call.
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
    devices: int = 1,
    skip_bad: bool = False,
    terms: str = "",
    progress: bool = True,
) -> Trained:
    """Train.

    Args:
        recipe: every setting; see `load_recipe`.
        data: a dataset, or `KIND:PATH`; its training split is used.
        out: folder for weights, logs, checkpoints and the recipe.
        resume: go on from the last checkpoint in `out`, if there is one; otherwise `out` must be new or empty.
        cache: folder for cached maps (they can be shared by trainings on the same data); `out/cache` if not given.
        devices: processes, each on its own device (CPU processes talk through gloo).
        skip_bad: leave out crops that cannot be read, and report them.
        terms: licence of the weights and terms of the data, for the card.
        progress: whether to show a progress bar with the remaining time.

    Raises:
        ConfigError: `out` holds the training of another recipe, or a setting cannot be carried out.
        DataError: the data has no training split, or a crop cannot be read.
    """
    return _Training(recipe, data, Path(out), resume, cache, devices, skip_bad, terms, progress).run()


class _Training:
    """The state of one call of `train`."""

    def __init__(
        self,
        recipe: Recipe,
        data: str | Dataset,
        out: Path,
        resume: bool,
        cache: str | Path | None,
        devices: int,
        skip_bad: bool,
        terms: str,
        progress: bool,
    ) -> None:
        keep_freed_memory()
        self.started = time.monotonic()
        self.recipe, self.out, self.devices, self.terms, self.progress = recipe, out, devices, terms, progress
        self.dataset = open_dataset(data) if isinstance(data, str) else data
        self.cache = Path(cache) if cache is not None else out / "cache"
        self.notes: list[str] = []
        self._claim(resume)

        samples = [s for s in self.dataset.split("train") if s.pid not in (JUNK, DISTRACTOR)]
        self.validation: Dataset | None = None
        held = recipe.validation
        if held.identities:
            kept, self.validation = holdout(samples, identities=held.identities, seed=held.seed)
            samples = list(kept)
        crops, rows, bad = read_crops(samples, skip_bad=skip_bad)
        self.notes += [f"left out: {error}" for error in bad]
        self.samples: Sequence[Sample] = [samples[row] for row in rows]
        people = {pid: label for label, pid in enumerate(sorted({s.pid for s in self.samples}))}
        if len(people) < 2:
            raise DataError(self.dataset.name, f"has {len(people)} identities to train on", "give at least two")
        self.labels = [people[s.pid] for s in self.samples]
        self.ids = len(people)

        lightning.seed_everything(recipe.seed, workers=True, verbose=False)
        backbone = build_backbone(recipe.backbone)
        self.start: Start = load_start(backbone, recipe.backbone, recipe.start)
        self.transforms: TransformSettings = recipe.transforms.model_copy(
            update={"mean": self.start.mean, "std": self.start.std}
        )
        self.crops = CropDataset(crops, self.labels, TrainTransform(self.transforms, crops))
        self.method = self._build(recipe.method, recipe.options, backbone)

    def _build(self, name: str, options: dict[str, Any], backbone: torch.nn.Module) -> Method:
        kind = METHODS[name]
        return kind(backbone, self.ids, kind.Options(**options))

    def _claim(self, resume: bool) -> None:
        """Check that `out` is ours to write to."""
        text = self.recipe.model_dump_json(indent=2)
        there = self.out / "recipe.json"
        if there.exists() and resume:
            if there.read_text(encoding="utf-8") != text:
                raise ConfigError(
                    self.out, "holds the training of another recipe", "choose another --out, or pass --no-resume and an empty folder"
                )
            return
        if self.out.exists() and any(p.name != "cache" for p in self.out.iterdir()):
            raise ConfigError(self.out, "is not empty", "choose another --out, or go on with --resume")
        write_text(there, text)

    # ------------------------------------------------------------------ stages

    def run(self) -> Trained:
        metrics: dict[str, float] = {}
        for number, stage in enumerate(self.recipe.stages):
            done = self.out / "stages" / f"{number}-{stage.name}"
            last = number + 1 == len(self.recipe.stages)
            method = self.method
            if stage.method is not None:
                method = self._build(stage.method, stage.options, self.method.backbone)
            weights = done / "weights.safetensors"
            if weights.exists():
                method.load_state_dict(load_file(weights))
                metrics = json.loads((done / "metrics.json").read_text())
                continue
            metrics = self._stage(method, stage, done, last)
            method.requires_grad_(True)
            write_text(done / "metrics.json", json.dumps(metrics))
            if self._first:
                with atomic(weights) as draft:
                    save_file({k: v.contiguous() for k, v in method.state_dict().items()}, draft)
        if self._first:
            save(self.method, self._card(metrics), self.out / "last.safetensors")
            if not (self.out / "best.safetensors").exists():
                save(self.method, self._card(metrics), self.out / "best.safetensors")
        best = self.out / "best.safetensors"
        metrics = json.loads(best.with_suffix(".json").read_text())["metrics"]
        return Trained(best, self.out / "last.safetensors", metrics, tuple(self.notes), self._minutes)

    @property
    def _first(self) -> bool:
        return int(os.environ.get("LOCAL_RANK", "0")) == 0

    @property
    def _minutes(self) -> float:
        return (time.monotonic() - self.started) / 60

    def _stage(self, method: Method, stage: Stage, folder: Path, last: bool) -> dict[str, float]:
        anchors = self._anchors() if stage.anchor else None
        module = StageModule(
            method,
            stage,
            anchors=anchors,
            validate=self._validate(stage) if self.validation is not None else None,
            every=self.recipe.validation.every,
            compiled=self.recipe.compile,
            on_best=(lambda metrics: save(method, self._card(metrics), self.out / "best.safetensors")) if last else None,
        )
        data: Any = self.crops
        workers = self.recipe.workers
        if stage.cached:
            data = MapDataset([self._pass(stage, i) for i in range(stage.cached)], self.labels)
            workers = 0
        sampler = self._sampler(stage)
        loader = DataLoader(
            data, batch_sampler=sampler, num_workers=workers, persistent_workers=workers > 0, collate_fn=None
        )
        callbacks: list[Callback] = [ModelCheckpoint(folder, filename="epoch", save_last=False, enable_version_counter=False, every_n_epochs=1, save_on_train_epoch_end=True)]
        if self.progress:
            callbacks.append(TQDMProgressBar(refresh_rate=10))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(num_workers|logging interval|srun|tensorboardX|litlogger).*")
            trainer = lightning.Trainer(
                accelerator="auto",
                devices=self.devices,
                strategy="ddp_spawn" if self.devices > 1 and not torch.cuda.is_available() else "auto",
                max_epochs=stage.epochs,
                precision="bf16-mixed" if self.recipe.precision == "bf16" else "32-true",
                gradient_clip_val=stage.optimiser.clip or None,
                logger=[CSVLogger(self.out / "logs", stage.name, version=""), TensorBoardLogger(self.out / "logs", "tensorboard", version=stage.name)],
                callbacks=callbacks,
                enable_progress_bar=self.progress,
                enable_model_summary=False,
                use_distributed_sampler=False,
                log_every_n_steps=20,
                default_root_dir=self.out,
            )
            method.to(memory_format=torch.channels_last)
            checkpoint = folder / "epoch.ckpt"
            trainer.fit(module, loader, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
        return module.metrics

    def _sampler(self, stage: Stage) -> Seeded:
        how = stage.sampling or self.recipe.sampling
        rank, world = int(os.environ.get("LOCAL_RANK", "0")), self.devices
        pk = None
        if how.people:
            pk = PKSampler(self.labels, how.people, how.crops, seed=self.recipe.seed, rank=rank, world_size=world)
            if pk.report:
                self.notes.append(pk.report)
        return Seeded(len(self.labels), pk, how.batch, self.recipe.seed, rank, world)

    # ------------------------------------------------------------------ cached maps

    def _pass(self, stage: Stage | None, number: int) -> Any:
        """Cached maps of one augmented pass, or of the clear crops (`stage` None)."""
        transforms = self.transforms
        if stage is None:
            transforms = transforms.model_copy(
                update={"zoom": None, "jitter": None, "flip": 0.0, "pad": 0, "occlusion": None, "erasing": None}
            )
        key = {
            "start": self.start.model_dump(),
            "backbone": self.recipe.backbone,
            "earlier": [s.model_dump(mode="json") for s in self._earlier(stage)],
            "transforms": transforms.model_dump(mode="json"),
            "seed": self.recipe.seed,
            "pass": number,
            "prompt": stage.prompt if stage is not None else 0.0,
            "samples": [s.name for s in self.samples],
        }
        cached = MapPass(self.cache, key, len(self.labels))
        if not cached.ready:
            crops = self.crops
            if stage is None:
                crops = CropDataset(crops.crops, self.labels, TrainTransform(transforms, crops.crops))
            with _Bar("maps", len(self.labels), self.progress) as advance:
                backbone = self.method.backbone
                if stage is None and self._earlier(stage):
                    backbone = build_backbone(self.recipe.backbone)
                    load_start(backbone, self.recipe.backbone, self.recipe.start)
                cached.make(backbone, crops, self.recipe.seed + 1 + number, key["prompt"], advance)
        return cached.open()

    def _earlier(self, stage: Stage | None) -> list[Stage]:
        """Stages before `stage` that changed the backbone."""
        before = []
        for other in self.recipe.stages:
            if stage is not None and other.name == stage.name:
                break
            if not other.cached:
                before.append(other)
        return before if stage is not None else []

    def _anchors(self) -> Any:
        return self._pass(None, 0)[0]

    # ------------------------------------------------------------------ validation and card

    def _validate(self, stage: Stage) -> Validate:
        """Rank-1 and mAP on held-out identities, clear and with seeded occluders of training people."""
        held = self.validation
        assert held is not None
        sources = self.crops.crops[:: max(1, len(self.crops.crops) // 200)]
        kinds = ("object", "grey")

        def edit(row: int, image: Any) -> Any:
            occluder = Occluder(kinds[row % 2], SIDES[(row // 2) % 4], (0.4, 0.6)[(row // 8) % 2], sources, self.recipe.seed)
            return occluder.edit(row, image)[0], None

        def measure(method: Method) -> dict[str, float]:
            precision = "auto" if self.recipe.precision == "bf16" else "float32"
            model = Model(clone(method), self._card({}, method), "validation", precision=precision)
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
        return Card(
            method=method.name,
            options=method.options.model_dump(mode="json"),
            backbone=self.recipe.backbone,
            size=self.transforms.size,
            mean=self.transforms.mean,
            std=self.transforms.std,
            ids=self.ids,
            start=self.start,
            training_data=f"{self.dataset.name}, training split{without}: {len(self.samples)} crops of {self.ids} identities",
            terms=self.terms,
            recipe=self.recipe.model_dump(mode="json"),
            metrics=metrics,
            seed=self.recipe.seed,
            epochs=sum(stage.epochs for stage in self.recipe.stages),
            minutes=round(self._minutes, 1),
            machine=f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
            commit=_commit(),
            command=shlex.join(["glimpse", *sys.argv[1:]]) if Path(sys.argv[0]).name == "glimpse" else "",
            glimpse=glimpse.__version__,
        )


class _Bar:
    """A progress bar that can be switched off."""

    def __init__(self, what: str, total: int, shown: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, desc=what, unit="crop", disable=not shown)

    def __enter__(self) -> Any:
        return self._bar.update

    def __exit__(self, *error: object) -> None:
        self._bar.close()


def _commit() -> str:
    """Commit of the source that runs, with `+` if it was changed; empty if it is not a checkout."""
    here = Path(__file__).parent
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip()

"""One stage of training as a Lightning module."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glimpse.backbones import Look, to_cells
from glimpse.cues.needs import Cues, Needs
from glimpse.errors import ConfigError
from glimpse.methods import Method, Outputs
from glimpse.training.crops import Batch, give_prompts
from glimpse.training.processes import gathered
from glimpse.training.recipe import Optimiser, Stage
from glimpse.training.teacher import Teacher, distance_loss, vector_loss

Validate = Callable[[Method], dict[str, float]]
"""Metrics of a method on held-out identities; `score` among them says which weights are best."""


class StageModule(lightning.LightningModule):
    """Trains a method through one stage.

    With several processes, maps are gathered before the heads, so that losses, mining and the heads' batch norms see
    the whole batch, as one process would; the backbone's batch norms see each process's own crops.

    What is random in a step (prompts, dropout) follows from the seed and the number of the step, so that a resumed
    training computes what an unbroken one would.

    Args:
        method: what learns.
        stage: how.
        anchors: clear maps of the start `[rows, c, h, w]` (float16, memory-mapped), for `stage.anchor`.
        teacher: for `stage.teacher` and `stage.teacher_vector`.
        validate: measures the method on held-out identities.
        every: epochs between validations.
        compiled: whether torch compiles the backbone.
        on_best: called when a validation beats all before it.
        seed: of prompts and dropout.
        cues: those that batches carry, of which the method gets its own part groups.
    """

    def __init__(
        self,
        method: Method,
        stage: Stage,
        *,
        anchors: Any = None,
        teacher: Teacher | None = None,
        validate: Validate | None = None,
        every: int = 1,
        compiled: bool = False,
        on_best: Callable[[Method, dict[str, float]], None] | None = None,
        seed: int = 0,
        cues: Needs | None = None,
    ) -> None:
        super().__init__()
        self.method = method
        own = method.needs(method.options, "train").parts
        self._groups = [cues.parts.index(group) for group in own] if cues is not None else []
        self.stage = stage
        self.anchors = anchors
        self.teacher = teacher
        self.validate_method = validate
        self.every = every
        self.on_best = on_best
        self.seed = seed
        self.best = -math.inf
        self.metrics: dict[str, float] = {}
        # Reads the teacher's vector in the method's.
        self.reader = (
            nn.Linear(_vector_width(method), teacher.width) if teacher is not None and stage.teacher_vector else None
        )
        self._average = (
            {name: tensor.detach().clone() for name, tensor in method.state_dict().items()} if stage.average else {}
        )
        self._frozen = frozen_modules(method.backbone, ("all",) if stage.cached else stage.freeze)
        self._head_only = stage.learns == "visibility"
        self._head_weight = 1.0 if self._head_only else stage.visibility
        head = method.backbone.visibility
        if self._head_only:
            self._frozen = [method]
        elif head is not None and not self._head_weight:
            self._frozen.append(head)  # nothing teaches it here
        learning = {id(p) for p in head.parameters()} if self._head_only and head is not None else set()
        held = [p for module in self._frozen for p in module.parameters() if id(p) not in learning]
        self._held = [p for p in held if p.requires_grad]
        for parameter in self._held:
            parameter.requires_grad_(False)
        look = method.backbone.look
        self._look = torch.compile(look) if compiled and not stage.cached else look

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the running mean of the weights; it follows quickly at first."""
        if not self._average:
            return
        decay = min(self.stage.average, (1 + self.global_step) / (10 + self.global_step))
        for name, tensor in self.method.state_dict().items():
            kept = self._average[name] = self._average[name].to(tensor.device)
            if kept.is_floating_point():
                kept.lerp_(tensor.detach(), 1 - decay)
            else:
                kept.copy_(tensor)

    def averaged(self) -> Method:
        """The method with the mean of the weights; itself, where none is kept."""
        if not self._average:
            return self.method
        method = copy.deepcopy(self.method)
        method.load_state_dict(self._average)
        return method

    def release(self) -> None:
        """Let the method have the mean of the weights, and frozen parts learn again, for the next stage."""
        if self._average:
            self.method.load_state_dict(self._average)
        for parameter in self._held:
            parameter.requires_grad_(True)

    def on_train_start(self) -> None:
        """Set modes; a resumed epoch does not call `on_train_epoch_start`."""
        self._set_modes()

    def on_train_epoch_start(self) -> None:
        """Set modes."""
        self._set_modes()

    def _set_modes(self) -> None:
        """Train, but let frozen parts keep their batch norms' statistics."""
        self.method.train()
        for module in self._frozen:
            module.eval()
        if self._head_only and self.method.backbone.visibility is not None:
            self.method.backbone.visibility.train()

    def look(self, batch: Batch) -> Look:
        """What the backbone makes of a batch, or made of it when it was cached."""
        if self.stage.cached:
            return Look(batch.pixels.float(), batch.visible)
        images, shown = batch.pixels, None
        if self.stage.prompt:
            generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.global_step, self.global_rank))
            images, shown = give_prompts(images, batch.visible, self.stage.prompt, generator)
        found: Look = self._look(images.contiguous(memory_format=torch.channels_last), shown)
        return found

    def outputs(self, look: Look, batch: Batch) -> tuple[Outputs, Tensor, Tensor]:
        """`(outputs of the heads, pids, rows)`, gathered over processes."""
        maps, shown = look.features, look.seen
        pids, rows, cues = batch.pids, batch.rows, batch.cues
        if self.trainer.world_size > 1:
            # In the layout of one process, which decides which numbers dropout drops.
            last = maps.is_contiguous(memory_format=torch.channels_last)
            layout = torch.channels_last if last else torch.contiguous_format
            maps = gathered(maps).contiguous(memory_format=layout)
            pids, rows = gathered(pids), gathered(rows)
            shown = None if shown is None else gathered(shown)
            cues = None if cues is None else Cues(*(gathered(one) if len(one) else one for one in cues))
        if shown is not None and bool((shown == 1).all()):
            shown = None
        # Every process draws the same dropout on the gathered maps.
        torch.manual_seed(mixed_seed(self.seed, self.global_step))
        return self.method.heads(maps, shown, self._own(cues)), pids, rows

    def _own(self, cues: Cues | None) -> Cues | None:
        """The cues that the method asks for, of those that a batch carries."""
        return None if cues is None else cues._replace(parts=cues.parts[:, self._groups])

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Sum of the method's terms, and those of the teacher, the anchor and the visibility head."""
        batch = Batch(*batch)
        look = self.look(batch)
        local: dict[str, Tensor] = {}  # terms that each process has of its own crops
        if self.stage.anchor:
            local["anchor"] = self.stage.anchor * self._anchor(look.features, batch)
        if not self._head_only and not self.stage.cached:
            local |= self.method.early_losses(look, self._own(batch.cues))
        head = self.method.backbone.visibility
        if head is not None and look.logits is not None and self._head_weight:
            local["visibility"] = self._head_weight * head.loss(look.logits, batch.visible)
        terms: dict[str, Tensor] = {}
        if not self._head_only:
            outputs, pids, rows = self.outputs(look, batch)
            terms = self.method.losses(outputs, pids)
            if self.teacher is not None and self.stage.teacher:
                wanted = self.teacher.matrix(rows)
                for name, found in self.method.distances(outputs).items():
                    terms[f"teacher_{name}"] = self.stage.teacher * distance_loss(found, wanted)
            if self.teacher is not None and self.reader is not None:
                read = self.reader(self.method.vector(outputs).float())
                terms["teacher_vector"] = self.stage.teacher_vector * vector_loss(read, self.teacher.vectors(rows))
        terms |= local
        loss = torch.stack(list(terms.values())).sum()
        if not bool(torch.isfinite(loss)):
            bad = [name for name, term in terms.items() if not bool(torch.isfinite(term))]
            raise ConfigError(
                f"stage '{self.stage.name}', step {self.global_step}",
                f"the loss is not finite ({', '.join(bad)})",
                "lower optimiser.lr, or set optimiser.clip",
            )
        said = {name: term.detach() for name, term in terms.items()}
        if self.trainer.world_size > 1:
            # The other terms are the same in all processes. Lightning's sync_dist would wait for a progress bar that
            # only the first process has.
            said |= {name: gathered(said[name][None]).mean() for name in local}
        self.log("loss", torch.stack(list(said.values())).sum(), prog_bar=True, on_step=True, on_epoch=True)
        self.log_dict({f"loss/{name}": term for name, term in said.items()}, on_step=False, on_epoch=True)
        return loss

    def _anchor(self, maps: Tensor, batch: Batch) -> Tensor:
        """Mean over visible cells of 1 - cosine to the start's map of the clear crop, moved as the crop was."""
        clear = torch.from_numpy(self.anchors[batch.rows.cpu().numpy()]).to(maps.device).float()
        size = torch.tensor(batch.visible.shape[:0:-1], device=maps.device, dtype=torch.float32)  # W, H
        first, last = batch.corners[:, 0] / size, batch.corners[:, 1] / size
        height, width = maps.shape[2:]
        y, x = torch.meshgrid(
            (torch.arange(height, device=maps.device) + 0.5) / height,
            (torch.arange(width, device=maps.device) + 0.5) / width,
            indexing="ij",
        )
        cells = torch.stack((x, y), -1)[None]
        there = (cells - first[:, None, None]) / (last - first)[:, None, None]  # where each cell was, in [0, 1]
        target = F.grid_sample(clear, there * 2 - 1, align_corners=False, padding_mode="border")
        seen = to_cells(batch.visible, maps) * ((there > 0) & (there < 1)).all(-1)
        away = 1 - F.cosine_similarity(maps.float(), target, dim=1)
        cells_seen = seen.sum()
        if self.trainer.world_size > 1:
            # Gradients are averaged over processes: each divides by the mean count, so that all cells weigh the same.
            cells_seen = gathered(cells_seen[None]).mean()
        return (away * seen).sum() / cells_seen.clamp_min(1.0)

    def on_train_epoch_end(self) -> None:
        """Validate on the first process; keep the best."""
        last = self.current_epoch + 1 == self.stage.epochs
        often = not self.stage.cached  # heads on cached maps take seconds an epoch: validating them would take longer
        if (
            self.validate_method is None
            or self._head_only
            or not (last or (often and (self.current_epoch + 1) % self.every == 0))
        ):
            return
        if self.trainer.is_global_zero:
            method = self.averaged()
            self.metrics = self.validate_method(method)
            for logger in self.loggers:
                logger.log_metrics({f"val/{k}": v for k, v in self.metrics.items()}, step=self.global_step)
            if self.metrics["score"] > self.best:
                self.best = self.metrics["score"]
                if self.on_best is not None:
                    self.on_best(method, self.metrics)
            self._set_modes()
        self.trainer.strategy.barrier()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The best score so far and the last metrics go with the weights."""
        checkpoint["best"] = self.best
        checkpoint["metrics"] = self.metrics
        checkpoint["average"] = self._average

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the best score so far."""
        self.best = checkpoint["best"]
        self.metrics = checkpoint["metrics"]
        self._average = checkpoint["average"]

    def configure_optimizers(self) -> Any:
        """Two groups: heads, and the backbone at its own factor."""
        how = self.stage.optimiser
        inside = {id(p) for p in self.method.backbone.parameters()}
        learns = [p for p in self.method.parameters() if p.requires_grad]
        if self.reader is not None:
            learns += self.reader.parameters()
        groups = [
            {"params": [p for p in learns if id(p) not in inside], "lr": how.lr},
            {"params": [p for p in learns if id(p) in inside], "lr": how.lr * how.backbone_lr},
        ]
        optimiser = make_optimiser(how, [group for group in groups if group["params"]])
        total = int(self.trainer.estimated_stepping_batches)
        per_epoch = max(1, total // self.stage.epochs)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(how, step, total, per_epoch))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _vector_width(method: Method) -> int:
    """Length of `method.vector`."""
    was_training = method.training
    method.eval()
    with torch.no_grad():
        parameter = next(method.parameters())
        width = method.vector(method.heads(torch.zeros(1, method.backbone.channels, 64, 8).to(parameter))).shape[1]
    method.train(was_training)
    return width


def make_optimiser(how: Optimiser, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser of a stage over parameter groups."""
    if how.kind == "sgd":
        nesterov = how.momentum > 0
        return torch.optim.SGD(groups, how.lr, momentum=how.momentum, nesterov=nesterov, weight_decay=how.weight_decay)
    kind = torch.optim.Adam if how.kind == "adam" else torch.optim.AdamW
    return kind(groups, how.lr, weight_decay=how.weight_decay)


def rate(how: Optimiser, step: int, total: int, per_epoch: int) -> float:
    """Factor on the learning rate at `step` of `total`.

    >>> steps = Optimiser(schedule="step", every=2, gamma=0.1)
    >>> [round(rate(steps, step, 60, 10), 3) for step in (0, 19, 20, 40)]
    [1.0, 1.0, 0.1, 0.01]
    """
    warm = how.warmup * per_epoch
    if step < warm:
        return 0.01 + 0.99 * step / warm
    if how.schedule == "cosine":
        held = max(warm, how.hold * per_epoch)
        fallen = min(1.0, max(0.0, step - held) / max(1.0, total - held))
        return how.least + (1 - how.least) * 0.5 * (1 + math.cos(math.pi * fallen))
    if how.schedule == "step":
        return float(how.gamma ** int(step / per_epoch / how.every))
    return 1.0


def frozen_modules(backbone: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """The parts of a backbone that `names` freeze.

    Raises:
        ConfigError: the backbone has no part of that name.
    """
    if "all" in names:
        return [backbone]
    inner = getattr(backbone, "net", backbone)
    own = {name: module for name, module in backbone.named_children() if name != "net"}  # what was put into it
    parts = {name: module for name, module in inner.named_children() if module is not None} | own
    for name in names:
        if name not in parts:
            raise ConfigError("freeze", f"the backbone has no part '{name}'", f"choose from all, {', '.join(parts)}")
    return [parts[name] for name in names]


def mixed_seed(*numbers: int) -> int:
    """One seed of several numbers, each of which changes it wholly.

    >>> mixed_seed(0, 1) == mixed_seed(0, 1), mixed_seed(0, 1) == mixed_seed(1, 0)
    (True, False)
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1

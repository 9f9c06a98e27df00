"""A backbone run by OpenVINO, which on CPUs is 1.4 to 1.8 times as quick as torch."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from glimpse.backbones.backbone import Backbone, Look


def has_openvino() -> bool:
    """Whether OpenVINO is installed (extra `cpu`)."""
    return importlib.util.find_spec("openvino") is not None


class _Traced(nn.Module):
    """`look` without a prompt, as a tuple of tensors."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        look = self.backbone.look(x)
        return (look.features,) if look.seen is None else (look.features, look.seen)


class OpenVino:
    """A backbone compiled for the processors of this machine; several batches are under way at once.

    Compiling takes some seconds.

    Args:
        backbone: in eval mode; it is not changed.
        size: height and width of the images.
        bfloat16: whether it computes in bfloat16 (in float32 otherwise).

    Attributes:
        jobs: how many batches may be started before the first is waited for.
    """

    def __init__(self, backbone: Backbone, size: tuple[int, int], *, bfloat16: bool) -> None:
        openvino: Any = import_module("openvino")
        # Its front end itself: `openvino.convert_model` takes twice the time and may report its use over the network.
        front: Any = import_module("openvino.frontend")
        torchscript: Any = import_module("openvino.frontend.pytorch.ts_decoder")
        example = torch.zeros(2, 3, *size)
        trace: Any = torch.jit.trace
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of a tracer that torch calls deprecated, and of shapes kept as constants
            traced = trace(_Traced(backbone), example, check_trace=False)
            decoder = torchscript.TorchScriptPythonDecoder(traced, example_input=example)
            frontend = front.FrontEndManager().load_by_framework("pytorch")
            network = frontend.convert(frontend.load(decoder))
        network.reshape({0: openvino.PartialShape([-1, 3, *size])})
        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            # As many as torch would use.
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = openvino.Core().compile_model(network, "CPU", settings)
        # One more than can run, so that none idles while results are fetched.
        self.jobs = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) + 1
        self._requests = [compiled.create_infer_request() for _ in range(self.jobs)]
        self._next = 0

    def start(self, images: Tensor) -> Callable[[], Look]:
        """Begin with a batch of images, float32 `[n, 3, H, W]`.

        Returns:
            What waits for the result. It must be called before `jobs` more batches are started.
        """
        request = self._requests[self._next]
        self._next = (self._next + 1) % self.jobs
        request.wait()  # a job that ended in an error may have left it under way
        request.start_async({0: images.contiguous().numpy()})

        def finish() -> Look:
            request.wait()
            found = [torch.from_numpy(output.data.copy()) for output in request.output_tensors]
            return Look(found[0], found[1] if len(found) > 1 else None)

        return finish

"""ONNX: the graph in one file, with class names and preprocessing in its metadata."""

import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transmix import __version__
from transmix.error import one_line
from transmix.export.check import ExportError, check_same
from transmix.models.loaded import LoadedModel

OPSET = 18
"""The operator set that torch's exporter writes without conversion."""

FILE = "model.onnx"
INPUT, OUTPUT = "pixel_values", "logits"
LARGEST = 2**31 - 2**26
"""Weights of more bytes go into a file beside the graph: a protobuf message ends at 2 GiB."""


def write_onnx(folder: Path, loaded: LoadedModel) -> None:
    """Write model.onnx, check it, run it with onnxruntime and compare.

    The graph takes normalised float32 images (B, 3, S, S), any B, and gives logits (B, K).

    Raises:
        ExportError: torch cannot write the model as ONNX, or its logits differ from the run's.
    """
    program = _program(loaded)
    program.model.metadata_props.update(onnx_metadata(loaded))
    weight_bytes = sum(tensor.nbytes for tensor in loaded.model.state_dict().values())
    program.save(folder / FILE, external_data=weight_bytes > LARGEST)
    check_same(loaded, lambda: open_onnx(folder / FILE), "onnxruntime")


def open_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """Check an ONNX file and return it as a function from normalised images (B, 3, S, S) to logits (B, K)."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path), full_check=True)
    session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def onnx_metadata(loaded: LoadedModel) -> dict[str, str]:
    """Return the metadata of the file; lists and numbers as JSON."""
    image, classes, chosen = loaded.preprocessing.as_json(), list(loaded.classes or ()), loaded.chosen
    size = image["image_size"]
    return {
        "input": f"{INPUT}: normalised float32 RGB images (batch, 3, {size}, {size}): (x / 255 - mean) / std",
        "output": f"{OUTPUT}: (batch, {len(classes)}), before softmax; columns in the order of classes",
        "classes": json.dumps(classes, ensure_ascii=False),
        **{name: value if isinstance(value, str) else json.dumps(value) for name, value in image.items()},
        "model": loaded.settings.model,
        "weights": loaded.name,
        "weights_chosen": loaded.weights,
        **({"step": str(chosen.step)} if chosen else {}),
        "transmix": __version__,
    }


def _program(loaded: LoadedModel) -> Any:
    height, width = loaded.preprocessing.height_width
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # progress, which some versions of torch print
            program: Any = torch.onnx.export(
                _with_plain_attention(loaded.model),
                (torch.zeros(2, 3, height, width),),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=({0: "batch"},),
                verbose=False,
            )
    except Exception as error:  # the exporter raises what the model's code and its own passes happen to raise
        reason = one_line(error.__cause__ or error)
        raise ExportError(f"torch cannot write {loaded.settings.model} as ONNX: {reason}") from error
    # Stack traces, which name the folders of this machine and are as large as the weights of a small model.
    for graph in (program.model.graph, *(function.graph for function in program.model.functions.values())):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
    return program


def _with_plain_attention(model: nn.Module) -> nn.Module:
    """Return a copy with explicit attention (matrix product and softmax), because ONNX's operator set has no other.

    torch's own export of fused attention with a bias (BEiT) fails with "Cannot view a tensor ..." (torch 2.15).
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    return model

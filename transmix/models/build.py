"""The model: made by timm as the recipe says, with the weights that it is to start from."""

import difflib
import inspect
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from transmix.attention import AttentionError, with_class_attention
from transmix.recipes import RecipeError
from transmix.recipes.settings import Model

AMP = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Autocast types by the recipe's names."""


WEIGHT_OPTIONS = {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
"""Arguments of timm.create_model that would let a recipe, or the metadata of a weights file, name a pickle to load."""


def build_model(settings: Model, num_classes: int, image_size: int | None) -> nn.Module:
    """Create a model with a head of `num_classes` for square images of `image_size` pixels (None: its own size).

    Raises:
        RecipeError: a model or option that timm does not know, an image size that the patch does not divide, or
            weights that cannot be had or do not fit.
    """
    if refused := WEIGHT_OPTIONS & settings.model_options.keys():
        names = ", ".join(sorted(refused))
        raise RecipeError(f"model_options cannot set {names}; weights come from pretrained or init")
    if settings.pretrained and settings.init:
        raise RecipeError("pretrained and init both say where weights come from; give one")
    options = {"num_classes": num_classes, "drop_path_rate": settings.drop_path, **settings.model_options}
    if takes_image_size(settings.model) and image_size is not None:
        options["img_size"] = image_size
    head: dict[str, Tensor] = {}
    if settings.init:
        weights, head = _weights(settings)
        options.update(pretrained=True, **weights)
    elif settings.pretrained:
        options.update(pretrained=True)
    try:
        model = timm.create_model(settings.model, **options)
    except Exception as error:  # timm raises what the model's code happens to raise
        reason = " ".join(str(error).split())[:300]
        hint = "; take an option of the recipe away: --model-options NAME=" if "unexpected keyword" in reason else ""
        raise RecipeError(
            f"timm cannot create {settings.model!r} with {options_text(options)}: {reason}{hint}"
        ) from error
    if image_size is not None:
        check_patches(model, image_size)
    if settings.class_attention:
        try:
            model = with_class_attention(model)
        except AttentionError as error:
            raise RecipeError(f"class_attention: {error}") from error
        if head:
            model.load_state_dict(head, strict=False)
    if settings.grad_checkpointing:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    return model


def check_patches(model: nn.Module, image_size: int) -> None:
    """Check that whole patches cover the image.

    Raises:
        RecipeError: the patch size does not divide the image size.
    """
    patch_embed = getattr(model, "patch_embed", None)
    patch = getattr(patch_embed, "patch_size", None)
    convolution = getattr(patch_embed, "proj", None)
    overlapping = isinstance(convolution, nn.Conv2d) and convolution.stride != convolution.kernel_size  # as in PVT
    if patch is None or overlapping:
        return
    for side in (patch,) if isinstance(patch, int) else patch:
        if image_size % side:
            raise RecipeError(
                f"image_size {image_size} is not a multiple of the model's patch of {side} pixels; "
                f"use {image_size // side * side or side} or {(image_size // side + 1) * side}, or another patch_size"
            )


def check_forward(model: nn.Module, image_size: int, num_classes: int) -> None:
    """Check on one empty image that a model takes what it will be trained on and has an output for each class.

    Raises:
        RecipeError: it does not.
    """
    was_training = model.training
    size = f"an image of 3 x {image_size} x {image_size}"
    try:
        with torch.no_grad():
            found = model.eval()(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # whatever the model's code happens to raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise RecipeError(f"the model does not take {size}: {reason}; look at model_options and image_size") from error
    finally:
        model.train(was_training)
    shape = tuple(getattr(found, "shape", ()))
    if shape != (1, num_classes):
        raise RecipeError(
            f"the model makes {shape or type(found).__name__} of {size}, not (1, {num_classes}); look at model_options"
        )


def normaliser(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, channels_last: bool):
    """Return a function from uint8 images (B, 3, H, W) to the model's float32 input on the device."""
    shift, scale = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))

    def normalise(images: Tensor) -> Tensor:
        memory = torch.channels_last if channels_last else torch.contiguous_format
        pixels = images.to(device, non_blocking=True).to(torch.float32, memory_format=memory)
        return pixels.div_(255).sub_(shift).div_(scale)  # to the bit what torchvision does

    return normalise


def head_size(weights: dict[str, Tensor]) -> int | None:
    """Return how many classes the head among a model's weights tells apart; None if there is no head."""
    for name in ("head", "head.fc", "fc", "classifier"):
        if f"{name}.weight" in weights:
            return len(weights[f"{name}.weight"])
    return None


def published_classes(name: str) -> int:
    """Return how many classes a timm model's published weights tell apart.

    Raises:
        RecipeError: timm has no such model, or no weights for it.
    """
    return published_config(name).num_classes


def published_config(name: str) -> timm.models.PretrainedCfg:
    """Return where a timm model's published weights are and what they expect; errors as `published_classes`."""
    takes_image_size(name)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown tag after the dot
        raise RecipeError(f"timm has no published weights {name!r}: {error}") from error
    if config is None or not config.has_weights:
        raise RecipeError(f"timm has no published weights for {name!r}")
    return config


def options_text(options: dict) -> str:
    """Return options as one readable line."""
    return ", ".join(f"{name}={value!r}" for name, value in options.items() if name != "pretrained_cfg_overlay")


def takes_image_size(name: str) -> bool:
    """Whether a timm model is built for one image size (ViTs are, most convolutional nets are not).

    Raises:
        RecipeError: timm has no such model.
    """
    if not timm.is_model(name.split(".")[0]):
        close = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.4)
        raise RecipeError(f"timm has no model {name!r}" + (f"; did you mean {close[0]}?" if close else ""))
    module = inspect.getmodule(timm.model_entrypoint(name.split(".")[0]))
    hybrid = "vision_transformer_hybrid" in getattr(module, "__name__", "")  # passes it on without naming it
    return hybrid or "img_size" in inspect.getsource(module)  # type: ignore[arg-type]


def _weights(settings: Model) -> tuple[dict, dict[str, Tensor]]:
    """Return timm's arguments for starting from a safetensors file or another model's published weights.

    Beside them: the weights of a class-attention head in the file, which timm does not know.
    """
    init = settings.init or ""
    if init.endswith(".safetensors"):
        return _file_weights(Path(init), settings.class_attention)
    if not timm.is_model(init.split(".")[0]):
        close = difflib.get_close_matches(init, timm.list_pretrained(), n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise RecipeError(f"init must be a timm model or a .safetensors file, not {init!r}{hint}")
    return {"pretrained_cfg": published_config(init)}, {}


def _file_weights(path: Path, class_attention: bool) -> tuple[dict, dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"cannot read weights from {path}: {error}") from error
    head = {name: weights.pop(name) for name in list(weights) if name.startswith("class_attention.")}
    if head and not class_attention:
        raise RecipeError(f"{path} holds a model with a class-attention head; ask for one: --class-attention")
    classes = head_size(weights)
    overlay = {"state_dict": weights} | ({} if classes is None else {"num_classes": classes})
    return {"pretrained_cfg_overlay": overlay}, head

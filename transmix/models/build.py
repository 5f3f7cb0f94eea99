"""Create the recipe's model with timm, and load its initial weights."""

import difflib
import inspect
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn

from transmix.attention import AttentionError, with_class_attention
from transmix.attention.eval_mode import eval_mode
from transmix.error import RecipeError, one_line
from transmix.models.start import PICKLES, FileWeights, Loading, Start, listed, read_weights, remedy, watched
from transmix.recipes.settings import Model

AMP = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Autocast types by the recipe's names."""


HIDDEN = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
"""Arguments of timm.create_model that say no more than where weights come from."""

WEIGHT_OPTIONS = HIDDEN | {"checkpoint_path", "cache_dir"}
"""Arguments of timm.create_model that would let a recipe, or the metadata of a weights file, name a pickle to load."""

HUB_SECONDS = 5
"""How long the Hugging Face hub may take to answer."""


def build_model(settings: Model, num_classes: int, image_size: int | None, *, whole: bool = False) -> nn.Module:
    """Create a model with a head of `num_classes` for square images of `image_size` pixels (None: the model's default).

    Args:
        settings: model name, options, and source of the weights.
        num_classes: K, number of outputs.
        image_size: in pixels.
        whole: require that the weights match all tensors exactly.

    Raises:
        RecipeError: a model or option that timm does not know, an image size that the patch does not divide, or
            weights that are unavailable or do not fit.
    """
    model, start = start_model(settings, num_classes, image_size)
    if whole and start is not None and (start.new or start.unused):
        missing = [f"they lack {listed(start.new)}"] if start.new else []
        others = [f"they also have {listed(start.unused)}"] if start.unused else []
        raise RecipeError(f"{start.source} do not belong to {settings.model}: {'; '.join(missing + others)}")
    return model


def start_model(
    settings: Model, num_classes: int, image_size: int | None, classes: Collection[str] | None = None
) -> tuple[nn.Module, Start | None]:
    """Create a model as in `build_model`, and report how its initial weights were loaded.

    Args:
        settings: as in `build_model`.
        num_classes: as in `build_model`.
        image_size: as in `build_model`.
        classes: names of the K classes; if a file of ours has other classes, its head is not loaded. None: unknown.

    Returns:
        The model, and a report of its weights; None if they are random.
    """
    _check_settings(settings)
    options = {"num_classes": num_classes, "drop_path_rate": settings.drop_path, **settings.model_options}
    if takes_image_size(settings.model) and image_size is not None:
        options["img_size"] = image_size
    weights, start = None, None
    source = f"the published weights of {settings.init or settings.model}"
    if settings.init and (path := init_file(settings.init)):
        weights, source = read_weights(path), f"the weights in {path}"
        options.update(pretrained=True, pretrained_cfg_overlay={"state_dict": weights.tensors})
    elif settings.init or settings.pretrained:
        config = fetchable_config(settings.init or settings.model)
        options.update(pretrained=True, **({"pretrained_cfg": config} if settings.init else {}))
        if config.hf_hub_id and (file := cached_file(config)):  # else the hub is asked all the same, and waited for
            options["pretrained_cfg_overlay"] = {"file": file}
    with watched(weights, classes) as loading:
        model = _create(settings, options, source, loading)
    if image_size is not None:
        check_patches(model, image_size)
    if settings.class_attention:
        try:
            model = with_class_attention(model)
        except AttentionError as error:
            raise RecipeError(f"class_attention: {error}") from error
    if loading.missing is not None:
        start = _finish_start(model, settings, loading, weights, source)
    if settings.linear_init == "xavier" and not (settings.init or settings.pretrained):
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
    if settings.grad_checkpointing:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    return model, start


def _check_settings(settings: Model) -> None:
    if refused := WEIGHT_OPTIONS & settings.model_options.keys():
        names = ", ".join(sorted(refused))
        raise RecipeError(f"model_options cannot set {names}; weights come from pretrained or init")
    if settings.pretrained and settings.init:
        raise RecipeError("pretrained and init both say where weights come from; give one")
    if (channels := settings.model_options.get("in_chans", 3)) != 3:
        raise RecipeError(f"model_options in_chans={channels}: images are RGB, so a model has 3 input channels")


def _create(settings: Model, options: dict[str, Any], source: str, loading: Loading) -> nn.Module:
    """Create the model with timm; a failure becomes a one-line error."""
    try:
        return timm.create_model(settings.model, **options)
    except RecipeError:
        raise
    except Exception as error:  # timm raises what the model's code happens to raise
        shapes = re.findall(r"size mismatch for (\S+):.*?\(?\[([\d, ]*)\].*?\[([\d, ]*)\]", str(error))
        if shapes:
            found = [f"{name} is [{theirs}] there and [{ours}] in the model" for name, theirs, ours in shapes]
            raise RecipeError(f"{source} do not fit {settings.model}: {listed(found, limit=2)}") from error
        reason = one_line(error)
        if loading.begun:
            raise RecipeError(f"{source} do not fit {settings.model}: {reason}") from error
        hint = "; take an option of the recipe away: --model-options NAME=" if "unexpected keyword" in reason else ""
        given = ", ".join(f"{name}={value!r}" for name, value in options.items() if name not in HIDDEN)
        raise RecipeError(f"timm cannot create {settings.model!r} with {given}: {reason}{hint}") from error


def _finish_start(
    model: nn.Module, settings: Model, loading: Loading, weights: FileWeights | None, source: str
) -> Start:
    """Load a class-attention head, which timm does not know, and return the report of all weights.

    Raises:
        RecipeError: they match less than half of the model's tensors (without head), or belong to another kind of head.
    """
    if loading.head and not settings.class_attention:
        raise RecipeError(f"{source} belong to a model with a class-attention head; add one: --class-attention")
    # Counters of batch norms are in no file of some ages, and torch does not miss them.
    names = [name for name in model.state_dict() if not name.endswith(".num_batches_tracked")]
    load_tensors(model, loading.head, f"{source} do not fit the class-attention head", strict=False)
    of_head = {name for name in names if name.startswith("class_attention.")}
    missing = set(loading.missing or ()) | of_head - loading.head.keys()
    new = tuple(name for name in names if name in missing)
    config: Any = model.pretrained_cfg
    classifier = config.get("classifier") or ()
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    backbone = [name for name in names if not name.startswith((*heads, "class_attention."))]
    lacking = [name for name in backbone if name in missing]
    if 2 * len(lacking) > len(backbone):
        found = f". Found {listed(weights.tensors)}" if weights else ""
        raise RecipeError(
            f"{source} do not fit {settings.model}: they give {len(backbone) - len(lacking)} of {len(backbone)} "
            f"tensors of its backbone{found}; wanted {listed(lacking)}{remedy(weights.tensors) if weights else ''}"
        )
    notes = [f"warning: {len(lacking)} of the new ones are in the backbone"] if lacking else []
    notes += [*loading.notes, *([f"resized: {listed(loading.resized)}"] if loading.resized else [])]
    return Start(source, len(names) - len(new), len(names), new, tuple(loading.unused), tuple(notes))


def load_tensors(model: nn.Module, tensors: dict[str, Tensor], complaint: str, strict: bool = True) -> None:
    """Load a model's tensors by name.

    Raises:
        RecipeError: `complaint` with the tensors that do not fit.
    """
    try:
        model.load_state_dict(tensors, strict)
    except RuntimeError as error:
        raise RecipeError(f"{complaint}: {one_line(error)}") from error


def check_patches(model: nn.Module, image_size: int) -> None:
    """Check that the patch size divides the image size.

    Raises:
        RecipeError: it does not.
    """
    patch_embed = getattr(model, "patch_embed", None)
    patch = getattr(patch_embed, "patch_size", None)
    convolution = getattr(patch_embed, "proj", None)
    overlapping = isinstance(convolution, nn.Conv2d) and convolution.stride != convolution.kernel_size  # as in PVT
    if patch is None or overlapping:
        return
    for side in (patch,) if isinstance(patch, int) else patch:
        if image_size % side:
            near = f"{image_size // side * side or side} or {(image_size // side + 1) * side}"
            what = f"image_size {image_size} is not a multiple of the model's patch of {side} pixels"
            raise RecipeError(f"{what}; use {near}, or another patch_size")


def check_forward(model: nn.Module, image_size: int, num_classes: int) -> None:
    """Check with one empty image that a model accepts the image size and has an output for each class.

    Raises:
        RecipeError: it does not.
    """
    size = f"an image of 3 x {image_size} x {image_size}"
    try:
        with eval_mode(model), torch.no_grad():
            found = model(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # whatever the model's code happens to raise
        where = "look at model_options and image_size"
        raise RecipeError(f"the model does not take {size}: {one_line(error)}; {where}") from error
    shape = tuple(getattr(found, "shape", ())) or type(found).__name__
    if shape != (1, num_classes):
        raise RecipeError(f"the model returns {shape} for {size}, not (1, {num_classes}); look at model_options")


def normaliser(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, channels_last: bool):
    """Return a function from uint8 images (B, 3, H, W) to the model's float32 input on the device."""
    shift, scale = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))

    def normalise(images: Tensor) -> Tensor:
        memory = torch.channels_last if channels_last else torch.contiguous_format
        pixels = images.to(device, non_blocking=True).to(torch.float32, memory_format=memory)
        return pixels.div_(255).sub_(shift).div_(scale)  # to the bit what torchvision does

    return normalise


def published_config(name: str) -> timm.models.PretrainedCfg:
    """Return the configuration of a timm model's published weights: location and preprocessing.

    Raises:
        RecipeError: timm has no such model, or no weights for it.
    """
    _check_known(name, f"timm has no model {name!r}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # an unknown tag after the dot
        raise RecipeError(f"timm has no published weights {name!r}: {error}") from error
    if config is None or not config.has_weights:
        raise RecipeError(f"timm has no published weights for {name!r}")
    return config


def takes_image_size(name: str) -> bool:
    """Whether a timm model has a fixed image size (ViTs are, most convolutional nets are not).

    Raises:
        RecipeError: timm has no such model.
    """
    _check_known(name, f"timm has no model {name!r}")
    module = inspect.getmodule(timm.model_entrypoint(name.split(".")[0]))
    hybrid = "vision_transformer_hybrid" in getattr(module, "__name__", "")  # passes it on without naming it
    return hybrid or "img_size" in inspect.getsource(module)  # type: ignore[arg-type]


def _check_known(name: str, complaint: str, pretrained: bool = False) -> None:
    """Check that timm has a model; the error names the nearest."""
    if not timm.is_model(name.split(".")[0]):
        close = difflib.get_close_matches(name, timm.list_models(pretrained=pretrained), n=1, cutoff=0.4)
        raise RecipeError(complaint + (f"; did you mean {close[0]}?" if close else ""))


def init_file(init: str) -> Path | None:
    """Return the weights file of `init`: itself, or model.safetensors in a folder; None for a timm model.

    Raises:
        RecipeError: no such file or model; the message names the nearest.
    """
    path = Path(init)
    is_path = init.endswith((".safetensors", *PICKLES)) or "/" in init
    if not is_path and (not path.is_dir() or timm.is_model(init.split(".")[0])):
        complaint = f"init must be a timm model, a weights file or the folder of a run, not {init!r}"
        _check_known(init, complaint, pretrained=True)
        return None
    if path.is_dir():
        path /= "model.safetensors"
    if not path.is_file():
        raise RecipeError(f"cannot read weights from {path}: no such file")
    if path.suffix not in (".safetensors", *PICKLES):
        raise RecipeError(f"init is a .safetensors file, one that torch saved ({', '.join(PICKLES)}) or a run: {init}")
    return path


def cached_file(config: timm.models.PretrainedCfg) -> str | None:
    """Return the local file of a timm model's published weights, if it exists."""
    if not config.hf_hub_id:
        return None
    repository, revision, files = _hub_files(config)
    found = (try_to_load_from_cache(repository, one, revision=revision) for one in files)
    return next((one for one in found if isinstance(one, str)), None)


def _hub_files(config: timm.models.PretrainedCfg) -> tuple[str, str | None, list[str]]:
    """Return the Hugging Face repository, its revision, and the possible file names of the weights."""
    repository, _, revision = (config.hf_hub_id or "").partition("@")
    files = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    return repository, revision or None, files


def check_reachable(settings: Model) -> None:
    """Check that the published weights that a recipe starts from, if it does, are here or can be downloaded.

    Raises:
        RecipeError: they are not, or timm has none; or the settings say two things.
    """
    _check_settings(settings)
    if settings.init is None and settings.pretrained:
        fetchable_config(settings.model)
    elif settings.init is not None and init_file(settings.init) is None:
        fetchable_config(settings.init)


def cached_models() -> list[str]:
    """Return the timm models whose published weights are on this machine."""
    from huggingface_hub import constants

    found = (path.name.removeprefix("models--timm--") for path in Path(constants.HF_HUB_CACHE).glob("models--timm--*"))
    known = timm.list_models(pretrained=True)
    return [name for name in sorted(found) if name in known and cached_file(published_config(name))]


def fetchable_config(name: str) -> timm.models.PretrainedCfg:
    """Return the configuration of a timm model's published weights, if they are cached or the hub is reachable.

    Raises:
        RecipeError: as in `published_config`, or the hub is unreachable.
    """
    config = published_config(name)
    if not config.hf_hub_id or config.state_dict or config.file or cached_file(config):
        return config
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    repository, revision, files = _hub_files(config)
    try:  # one question of our own: the library would ask two files six times, for a minute
        url = huggingface_hub.hf_hub_url(repository, files[0], revision=revision)
        huggingface_hub.get_hf_file_metadata(url, timeout=HUB_SECONDS)
    except EntryNotFoundError:  # it answers; older models have another file
        pass
    except Exception as error:  # of the network library, which differs between versions of the hub's
        here = cached_models()
        others = f"take a model whose weights are here (--model {here[0]}); " if here else ""
        raise RecipeError(
            f"cannot download the published weights of {name} from {huggingface_hub.constants.ENDPOINT} "
            f"({one_line(error)}), and they are not on this machine. Go online or name a mirror (HF_ENDPOINT=URL); or "
            f"download them elsewhere (hf download {repository} {files[0]}) and give the file (--init {files[0]}) or "
            f"the cache that holds them (HF_HUB_CACHE=FOLDER); {others}or start from random weights (--init None)"
        ) from error
    return config

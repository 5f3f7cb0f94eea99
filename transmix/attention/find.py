"""Find the module that computes the attention behind the class prediction, and the module that makes the patches."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from transmix.attention.error import AttentionError
from transmix.attention.head import ClassAttentionHead, why_no_head

TIMM_PATHS = (
    "cls_attn_blocks.-1.attn",  # XCiT
    "blocks_token_only.-1.attn",  # CaiT
    "post_network.-1.attn",  # VOLO
    "transformers.-1.blocks.-1.attn",  # PiT
    "stages.-1.blocks.-1.attn",  # MViT
    "blocks.-1.fusion.-1.-1.attn",  # CrossViT: the class token of the last (large) branch, over the finer patches
    "blocks.-1.fusion.-1.attn",
    "blocks.-1.attn_out",  # TNT
    "blocks.-1.attn",  # ViT, DeiT, BEiT, EVA, DINOv2, DINOv3, ConViT, NaFlexViT and kin
)
"""Where timm's models keep the last attention of their class token; -1 is the last of several."""

ONE_QUERY = ("cls_attn_blocks", "blocks_token_only", "post_network", "attn_pool", "class_attention")
"""Names of modules whose only query is the class token."""

WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module")
"""Where torch.compile and torch's activation checkpointing keep a block that was wrapped by itself."""

HUGGING_FACE = {"vit": 1, "deit": 2, "dinov2": 1, "dinov2_with_registers": 1, "beit": 1}
"""Model types of transformers whose class prediction comes from a class token, and their prefix tokens without
registers."""

TOKEN_NAMES = ("cls", "class_token", "class_embedding", "classtoken")
"""What the parameter of a class token is called, in part."""


HEAD = "put a class-attention head in place of its pooling: transmix.attention.with_class_attention"


@dataclass(frozen=True)
class ClassAttention:
    """The module that computes the attention behind the class prediction.

    Attributes:
        name: the module's dotted name in the model.
        module: its query is the class token alone, or has the class token first.
        grid_from: the module whose input or output has the shape of the patch grid, if there is one.
        size_from: else a module that gets the images: their size and the number of patches give the grid.
        prefix_tokens: number of tokens before the patches (class, distillation, registers), if known.
    """

    name: str
    module: nn.Module
    grid_from: nn.Module | None
    size_from: nn.Module | None
    prefix_tokens: int | None


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of torch.compile, DistributedDataParallel and PEFT.

    Raises:
        AttentionError: nn.DataParallel over several devices.
    """
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            if len(getattr(model, "device_ids", None) or ()) > 1:
                remedy = "use DistributedDataParallel: one process per device, started with torchrun"
                raise AttentionError(f"nn.DataParallel runs copies of the model, which are not read; {remedy}")
            model = model.module
        else:
            get_base = getattr(model, "get_base_model", None)  # of PEFT, which puts its adapters into that model
            inner = get_base() if callable(get_base) else None
            if not isinstance(inner, nn.Module) or inner is model:
                return model
            model = inner


def find_class_attention(
    model: nn.Module, module: nn.Module | str | None = None, prefix_tokens: int | None = None
) -> ClassAttention:
    """Find the module that computes the attention behind the class prediction.

    Args:
        model: unwrapped.
        module: the module itself or its dotted name, for an unknown model or another layer.
        prefix_tokens: number of key tokens before the patches, for an unknown model.

    Raises:
        AttentionError: no such module, a model whose logits do not come from a class token, one that cuts clips and
            not images, or an unknown model.
    """
    if isinstance(_first_convolution(model), nn.Conv3d):
        why = "its patches do not form one 2-D grid. Mix and read single frames (B, C, H, W) with a 2-D model"
        raise AttentionError(f"{type(model).__name__} cuts its patches with a Conv3d, from several frames: {why}")
    found = _known(model) if module is None else _named(model, module)
    return found if prefix_tokens is None else replace(found, prefix_tokens=prefix_tokens)


def _known(model: nn.Module) -> ClassAttention:
    for look in (_class_attention_head, _attention_pool, _hugging_face, _torchvision, _timm):
        if (found := look(model)) is not None:
            return found
    remedy = f"{_token_and_modules(model)}. {_unknown_remedy(model)}"
    raise AttentionError(f"{type(model).__name__} is not a model whose class attention is known. {remedy}")


def _class_attention_head(model: nn.Module) -> ClassAttention | None:
    heads = ((name, module) for name, module in model.named_modules() if isinstance(module, ClassAttentionHead))
    name, head = next(heads, ("", None))
    return None if head is None else ClassAttention(f"{name}.attn", head.attn, head, _first_convolution(model), 1)


def _attention_pool(model: nn.Module) -> ClassAttention | None:
    """One query over the patches: SigLIP's and PE's pool, or the head of CLIP's ResNets (its query: the mean patch)."""
    head = getattr(model, "head", None)
    if type(head).__name__ in ("AttentionPool2d", "RotAttentionPool2d"):
        return ClassAttention("head", head, head, None, 1)  # type: ignore[arg-type]
    pool = getattr(model, "attn_pool", None)
    if not isinstance(pool, nn.Module):
        return None
    if getattr(pool, "latent_len", 1) != 1 or getattr(pool, "pool", "token") != "token":
        raise AttentionError(
            f"{type(model).__name__}'s attention pool averages several queries: no single row belongs to the "
            f"prediction. Use one query (in timm, AttentionPoolLatent with latent_len=1 and pool_type='token')"
        )
    return ClassAttention("attn_pool", pool, *_patches_of(model), None)


def _hugging_face(model: nn.Module) -> ClassAttention | None:
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) == "timm_wrapper":
        try:
            inner = _known(model.timm_model)  # type: ignore[arg-type]
        except AttentionError as error:
            raise AttentionError(str(error).replace(f"{HEAD}(model)", f"{HEAD}(model.timm_model)")) from None
        return replace(inner, name=f"timm_model.{inner.name}")
    if not _is_transformers(model):
        return None
    if getattr(config, "model_type", None) not in HUGGING_FACE:
        raise AttentionError(_why_not_in_transformers(model))
    implementation = config._attn_implementation  # type: ignore[union-attr]
    if implementation not in ("sdpa", "eager"):
        what = f"attn_implementation={implementation!r} computes attention outside torch's functions"
        remedy = "call model.set_attn_implementation('sdpa'), which is fused too"
        raise AttentionError(f"{what}, where it cannot be read; {remedy}")
    if getattr(config, "use_mean_pooling", False):
        why = "its class token does not affect the prediction. Create the model with use_mean_pooling=False"
        raise AttentionError(f"{type(model).__name__} averages its patches (use_mean_pooling=True): {why}")
    prefix = HUGGING_FACE[config.model_type] + getattr(config, "num_register_tokens", 0)  # type: ignore[union-attr]
    name, attention = [(n, m) for n, m in model.named_modules() if type(m).__name__.endswith("Attention")][-1]
    return ClassAttention(name, attention, _first_convolution(model), None, prefix)


def _is_transformers(model: nn.Module) -> bool:
    # Of a class of one's own that inherits from theirs, too.
    return any(kind.__module__.partition(".")[0] == "transformers" for kind in type(model).__mro__)


def _why_not_in_transformers(model: nn.Module) -> str:
    token = _class_token(model)
    found = f"It has a class token ({token}), which its logits may not use" if token else "It has no class token"
    return (
        f"{type(model).__name__} is not known to predict from a class token. {found}. Of transformers, these are read: "
        f"ForImageClassification of ViT, DeiT, Dinov2, Dinov2WithRegisters, and Beit with use_mean_pooling=False. Use "
        f"timm's version of the model (averaging models: with transmix.attention.with_class_attention on it), or a "
        f"wrapper that takes its logits from a class token, with module= the last attention of that token"
    )


def _torchvision(model: nn.Module) -> ClassAttention | None:
    if not isinstance(getattr(model, "conv_proj", None), nn.Module):
        return None
    found = _resolve(model, "encoder.layers.-1.self_attention")
    return found and ClassAttention(*found, model.conv_proj, None, 1)  # type: ignore[arg-type]


def _timm(model: nn.Module) -> ClassAttention | None:
    kind = type(model).__name__
    if kind == "CoaT":
        why = "its class tokens have no softmax over the patches. Use another model"
        raise AttentionError(f"CoaT factorises its attention: {why}")
    found = next((found for path in TIMM_PATHS if (found := _resolve(model, path))), None)
    if found is None and (block := _resolve(model, "blocks.-1")) and hasattr(block[1], "fused_attn"):
        found = block  # attention and MLP side by side in one module
    if found is None or not isinstance(getattr(model, "global_pool", None), str):
        return None
    _check_pool(model, kind, model.global_pool)
    prefix = getattr(model, "num_prefix_tokens", None) or getattr(model, "num_tokens", None) or 1
    return ClassAttention(*found, *_patches_of(model), prefix)  # type: ignore[arg-type]


def _check_pool(model: nn.Module, kind: str, pool: object) -> None:
    has_token = any(getattr(model, name, None) is not None for name in ("cls_token", "cls_token_0")) or (
        getattr(model, "num_prefix_tokens", 0) > 0  # NaFlexViT keeps it in its embedding
    )
    if pool == "token" and has_token:
        return
    if not has_token:
        what = f"{kind} has no class token (global_pool={pool!r}): no attention belongs to its class prediction"
        raise AttentionError(f"{what}. Use a model with a class token and global_pool='token'{_or_head(model)}")
    raise AttentionError(
        f"{kind} averages its class token away or leaves it unused (global_pool={pool!r}): its attention does not "
        f"belong to the prediction. Create the model with global_pool='token'{_or_head(model)}"
    )


def _patches_of(model: nn.Module) -> tuple[nn.Module | None, nn.Module | None]:
    """Return the module that cuts the patches of the last attention, else the module that takes the images."""
    merged_later = any(hasattr(model, stages) for stages in ("transformers", "network", "stages"))  # PiT, VOLO, MViT
    patch_embed = getattr(model, "patch_embed", None)
    if isinstance(patch_embed, nn.ModuleList):  # CrossViT: the last branch's class token looks at the first's patches
        patch_embed = patch_embed[0]
    for stem in (patch_embed, getattr(model, "pixel_embed", None), getattr(model, "embeds", None)):
        if hasattr(stem, "patch_size") and not hasattr(stem, "backbone") and not merged_later:
            return stem, None
    convolution = _first_convolution(model)
    cuts = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.stride != (1, 1)]
    if merged_later or cuts != [convolution]:  # one of several merges what the first has cut
        return None, convolution
    return (convolution, None) if cuts[0].stride == cuts[0].kernel_size else (None, convolution)


def _first_convolution(model: nn.Module) -> nn.Module | None:
    """Return the first convolution of a model over images or clips: it sees them."""
    return next((module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)), None)


def _named(model: nn.Module, module: nn.Module | str) -> ClassAttention:
    for name, candidate in model.named_modules():
        if candidate is module or name == module:
            return ClassAttention(name, candidate, *_patches_of(model), getattr(model, "num_prefix_tokens", None))
    wanted = f"module {module!r}" if isinstance(module, str) else f"the {type(module).__name__} given"
    raise AttentionError(f"{type(model).__name__} has no {wanted}. {_instead(model)}")


def _resolve(model: nn.Module, path: str) -> tuple[str, nn.Module] | None:
    """Follow a path of names and of -1 for the last child; None where there is no such module."""
    module: Any = model
    names = []
    for part in path.split("."):
        while wrapped := next((name for name in WRAPPED if name in module._modules), None):
            module = module._modules[wrapped]
            names.append(wrapped)
        children = dict(module.named_children())
        name = next(reversed(children), "") if part == "-1" else part
        if name not in children or (part == "-1" and not name.rsplit("_")[-1].isdigit()):
            return None
        module = children[name]
        names.append(name)
    return ".".join(names), module


def patch_side(model: nn.Module) -> int | None:
    """Return the side in pixels of the square patches that the first convolution cuts; None if it cuts none."""
    first = _first_convolution(model)
    if first is None or first.stride != first.kernel_size or len(set(first.stride)) > 1:  # type: ignore[arg-type]
        return None
    return int(first.stride[0])  # type: ignore[index]


def has_one_query(name: str) -> bool:
    """Whether the module of this dotted name is known to attend with the class token as its only query."""
    return any(part in ONE_QUERY for part in name.split("."))


def last_norm(model: nn.Module) -> nn.Module:
    """Return the norm after the last block, through which every token goes.

    Raises:
        AttentionError: a model that is not known to have one.
    """
    for path in ("norm", "timm_model.norm", "encoder.ln", *(f"{kind}.layernorm" for kind in HUGGING_FACE)):
        with suppress(AttributeError):
            norm = model.get_submodule(path)
            if not isinstance(norm, nn.Identity):
                return norm
    raise AttentionError(f"{type(model).__name__} is not known to have one norm after its last block, over all tokens")


def class_head(model: nn.Module) -> nn.Module:
    """Return the layer that turns a token (..., D) into logits (..., K).

    Raises:
        AttentionError: none is known, or it takes more than one token.
    """
    for path in ("head", "timm_model.head", "heads", "classifier"):
        with suppress(AttributeError):
            head = model.get_submodule(path)
            first = next((module for module in head.modules() if isinstance(module, nn.Linear)), None)
            width = next((weight.numel() for weight in last_norm(model).parameters()), None)
            if first is not None and first.in_features == width:
                return head
    raise AttentionError(
        f"{type(model).__name__} has no class head that takes one token: pass token_head=nn.Linear(D, K), and give its "
        f"parameters to the optimizer"
    )


def _instead(model: nn.Module) -> str:
    """Return a hint which module to read instead of one that does not exist."""
    try:
        return f"Its class token looks in {_known(model).name!r}, which is found without module="
    except AttentionError as error:
        return str(error)


def _token_and_modules(model: nn.Module) -> str:
    """Describe a model's tokens; list candidate modules only if it has a class token."""
    token = _class_token(model)
    kinds = ((name, type(module).__name__.lower()) for name, module in model.named_modules() if name)
    names = [name for name, kind in kinds if "attention" in kind or "attn" in kind]
    if not names:
        return "It holds no module that looks like attention"
    if token is None:
        return "It holds attention, but no parameter that looks like a class token"
    remedy = "point at the module in which that token looks last, module=..."
    last = ", ".join(names[-3:])
    return f"If its logits come from its class token ({token}), {remedy}; its last attention-like modules: {last}"


def _unknown_remedy(model: nn.Module) -> str:
    if why_no_head(model) is None:
        return f"If it averages its features instead, {HEAD}(model)"
    if _class_token(model) is None:
        return "Use a model with a class token, or one of timm's or torchvision's that averages its features"
    return "If they come from an average instead, use a model whose logits come from a class token"


def _or_head(model: nn.Module) -> str:
    return f", or {HEAD}(model)" if why_no_head(model) is None else ""


def _class_token(model: nn.Module) -> str | None:
    """Return the name of the parameter that looks like a class token."""
    for name, weight in model.named_parameters():
        is_vector = weight.numel() == weight.shape[-1]
        if is_vector and any(part in name.rpartition(".")[2].lower() for part in TOKEN_NAMES):
            return name
    return None

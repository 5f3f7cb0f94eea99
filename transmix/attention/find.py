"""Which module of a model attends for the class prediction, and which of its columns are patches."""

from dataclasses import dataclass

from torch import nn

from transmix.attention.error import AttentionError


@dataclass(frozen=True)
class ClassAttention:
    """Where the attention behind the class prediction is.

    Attributes:
        name: the module's dotted name in the model.
        module: its query is the class token alone, or has the class token first.
        patch_embed: the module that cuts images into patches, if the model has one: it knows the grid.
        prefix_tokens: tokens before the patches (class, distillation, registers), if the model says.
    """

    name: str
    module: nn.Module
    patch_embed: nn.Module | None
    prefix_tokens: int | None


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside torch.compile's and DistributedDataParallel's wrappers."""
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model


def find_class_attention(model: nn.Module, module: nn.Module | str | None = None) -> ClassAttention:
    """Find the module whose attention the class prediction comes from.

    Args:
        model: unwrapped.
        module: the module itself or its dotted name, where the model is not known or another layer is wanted.

    Raises:
        AttentionError: no such module, a model whose logits do not come from a class token, or an unknown model.
    """
    name, found = _named(model, module) if module is not None else _last_class_attention(model)
    patch_embed = getattr(model, "patch_embed", None)
    if not hasattr(patch_embed, "patch_size"):
        patch_embed = None
    return ClassAttention(name, found, patch_embed, getattr(model, "num_prefix_tokens", None))


def _named(model: nn.Module, module: nn.Module | str) -> tuple[str, nn.Module]:
    for name, candidate in model.named_modules():
        if candidate is module or name == module:
            return name, candidate
    wanted = f"module {module!r}" if isinstance(module, str) else f"the {type(module).__name__} given"
    raise AttentionError(f"{type(model).__name__} has no {wanted}. {_candidates(model)}")


def _last_class_attention(model: nn.Module) -> tuple[str, nn.Module]:
    """Look where timm's models keep it."""
    kind = type(model).__name__
    pool = getattr(model, "global_pool", None)
    if isinstance(attention_pool := getattr(model, "attn_pool", None), nn.Module):
        return "attn_pool", attention_pool
    for blocks in ("cls_attn_blocks", "blocks_token_only", "blocks"):  # XCiT, CaiT, ViT and kin
        stack = getattr(model, blocks, None)
        if not isinstance(stack, nn.ModuleList | nn.Sequential) or not len(stack):
            continue
        attention = getattr(stack[-1], "attn", None)
        if isinstance(attention, nn.Module):
            _check_pool(model, kind, pool)
            return f"{blocks}.{len(stack) - 1}.attn", attention
    raise AttentionError(
        f"{kind} is not a model whose class attention is known: looked for 'attn_pool' and for the 'attn' of the last "
        f"of 'cls_attn_blocks', 'blocks_token_only' or 'blocks'. {_candidates(model)}"
    )


def _check_pool(model: nn.Module, kind: str, pool: object) -> None:
    if pool == "token" and getattr(model, "num_prefix_tokens", 0) > 0:
        return
    if getattr(model, "cls_token", None) is None:
        raise AttentionError(
            f"{kind} has no class token (global_pool={pool!r}): nothing attends for its class prediction. Use a model "
            f"with a class token and global_pool='token'"
        )
    raise AttentionError(
        f"{kind} averages its class token away or leaves it unused (global_pool={pool!r}): its attention does not "
        f"say where the prediction looks. Create the model with global_pool='token'"
    )


def _candidates(model: nn.Module) -> str:
    names = [
        name
        for name, module in model.named_modules()
        if name and any(word in type(module).__name__.lower() for word in ("attention", "attn"))
    ]
    if not names:
        return "It holds no module that looks like attention."
    shown = ", ".join(names[-3:])
    return f"Point at the module that attends for the class token, module=...; its last attention-like modules: {shown}"

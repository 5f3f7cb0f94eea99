"""The row computed alone equals the first row of the whole matrix, in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from transmix import AttentionError
from transmix.attention.row import first_row, weights_of_multi_head, weights_of_sdpa


def row_of_sdpa(*args, **kwargs):
    return first_row(weights_of_sdpa(*args, **kwargs, queries=1))


def row_of_multi_head_attention(*args, **kwargs):
    return first_row(weights_of_multi_head(*args, **kwargs, queries=1))


def first_row_in_full(query, key, mask=None, scale=None):
    """The whole softmax matrix in slow float64, head by head; its first row, mean over heads."""
    query, key = query.detach().double().numpy(), key.detach().double().numpy()
    batch, heads, queries, width = query.shape
    scale = 1 / math.sqrt(width) if scale is None else scale
    if mask is not None:
        mask = np.broadcast_to(mask.numpy(), (batch, heads, queries, key.shape[2]))
    rows = np.zeros((batch, key.shape[2]))
    for row in range(batch):
        for head in range(heads):
            scores = query[row, head] @ key[row, head * key.shape[1] // heads].T * scale
            if mask is not None:
                allowed = mask[row, head]
                scores = np.where(allowed, scores, -np.inf) if mask.dtype == bool else scores + allowed
            weights = np.exp(scores - scores.max(1, keepdims=True))
            rows[row] += (weights / weights.sum(1, keepdims=True))[0] / heads
    return rows


def qkv(batch=3, heads=4, queries=7, keys=7, width=5, kv_heads=None, seed=0):
    rng = torch.Generator().manual_seed(seed)
    kv_heads = kv_heads or heads
    query = torch.randn(batch, heads, queries, width, generator=rng) * 2
    key, value = (torch.randn(batch, kv_heads, keys, width, generator=rng) * 2 for _ in range(2))
    return query, key, value


def a_bool_mask(*shape):
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[..., 0] = True
    return mask


def a_float_mask(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


CALLS = {
    "plain": ({}, {}),
    "one query": ({"queries": 1}, {}),
    "scale": ({}, {"scale": 0.7}),
    "scale 0": ({}, {"scale": 0.0}),
    "bool mask": ({}, {"attn_mask": a_bool_mask(3, 1, 7, 7)}),
    "bool mask per head": ({}, {"attn_mask": a_bool_mask(3, 4, 7, 7)}),
    "bool mask for all": ({}, {"attn_mask": a_bool_mask(7, 7)}),
    "one bool row for all": ({}, {"attn_mask": a_bool_mask(1, 7)}),
    "float mask": ({}, {"attn_mask": a_float_mask(1, 4, 7, 7)}),
    "float mask of bfloat16": ({}, {"attn_mask": a_float_mask(7, 7).bfloat16().float()}),
    "grouped queries": ({"kv_heads": 2}, {"enable_gqa": True}),
    "one key head for all": ({"kv_heads": 1}, {"enable_gqa": True}),
    "dropout": ({}, {"dropout_p": 0.5}),
    "other length of keys": ({"keys": 4}, {}),
    "all at once": (
        {"kv_heads": 2, "keys": 6},
        {"enable_gqa": True, "scale": 0.2, "attn_mask": a_float_mask(3, 4, 7, 6)},
    ),
    "causal, one query": ({"queries": 1}, {"is_causal": True}),
}


def assert_row_is_first_of_the_matrix(row_of, shapes, call):
    query, key, value = qkv(**shapes)
    row = row_of(query, key, value, **call)
    expected = first_row_in_full(query, key, call.get("attn_mask"), call.get("scale"))
    assert row.dtype == torch.float32
    assert row.shape == expected.shape
    assert np.allclose(row, expected, atol=1e-6)


@pytest.mark.parametrize(("shapes", "call"), CALLS.values(), ids=CALLS)
def test_the_row_is_the_first_of_the_whole_matrix(shapes, call):
    assert_row_is_first_of_the_matrix(row_of_sdpa, shapes, call)


def last_row(query, key, value, **call):
    return row_of_sdpa(query[:, :, -1:], key, value, **call)


def without(name):
    return lambda *qkv, **call: row_of_sdpa(*qkv, **{key: value for key, value in call.items() if key != name})


WRONG = {
    "another query": (last_row, "plain"),
    "the first head only": (lambda query, key, value: row_of_sdpa(query[:, :1], key[:, :1], value), "plain"),
    "scale forgotten": (without("scale"), "scale"),
    "mask forgotten": (without("attn_mask"), "bool mask"),
    "bias forgotten": (without("attn_mask"), "float mask"),
    "mask turned": (
        lambda *qkv, attn_mask: row_of_sdpa(*qkv, attn_mask=~attn_mask | (torch.arange(7) == 1)),
        "bool mask",
    ),
    "heads of keys tiled": (
        lambda query, key, value, enable_gqa: row_of_sdpa(query, key.repeat(1, 2, 1, 1), value),
        "grouped queries",
    ),
    "dropped out": (
        lambda query, key, value, dropout_p: F.dropout(row_of_sdpa(query, key, value), dropout_p),
        "dropout",
    ),
}


@pytest.mark.parametrize(("wrong", "call"), WRONG.values(), ids=WRONG)
def test_a_wrong_row_is_rejected(wrong, call):
    with pytest.raises(AssertionError):
        assert_row_is_first_of_the_matrix(wrong, *CALLS[call])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_the_row_sums_to_one_and_equals_the_matrix_for_any_shape(batch, heads, queries, keys, seed):
    query, key, value = qkv(batch, heads, queries, keys, seed=seed)
    row = row_of_sdpa(query, key, value)
    assert torch.allclose(row.sum(1), torch.ones(batch), atol=1e-5)
    assert np.allclose(row, first_row_in_full(query, key), atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_row_of_low_precision_is_that_of_the_same_numbers_in_float64(kind, autocast):
    query, key, value = (tensor.to(kind) for tensor in qkv())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        row = row_of_sdpa(query, key, value)
    assert row.dtype == torch.float32
    assert np.allclose(row, first_row_in_full(query, key), atol=1e-6)
    in_low = (query[:, :, :1] @ key.transpose(-2, -1) / math.sqrt(5)).softmax(-1)[:, :, 0].mean(1)
    assert not np.allclose(in_low.float(), first_row_in_full(query, key), atol=1e-6)


def test_no_gradient_reaches_the_row():
    query, key, value = (tensor.requires_grad_() for tensor in qkv())
    assert not row_of_sdpa(query, key, value).requires_grad


def test_a_causal_mask_is_refused():
    with pytest.raises(AttentionError) as error:
        row_of_sdpa(*qkv(), is_causal=True)
    assert str(error.value) == "attention is causal: the first token sees nothing but itself"


def test_a_query_of_another_shape_is_refused():
    query, key, value = (tensor[0] for tensor in qkv())
    with pytest.raises(AttentionError) as error:
        row_of_sdpa(query, key, value)
    assert str(error.value) == "expected a query of shape (batch, heads, tokens, width), got (4, 7, 5)"


# ------------------------------------------------------------------------------------ nn.MultiheadAttention


def recorded(module, *args, **kwargs):
    """The arguments with which a module calls `F.multi_head_attention_forward`, and what it hands out."""
    calls, function = [], F.multi_head_attention_forward

    def spy(*args, **kwargs):
        calls.append((args, kwargs))
        return function(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "multi_head_attention_forward", spy)
        output = module(*args, **kwargs)
    return *calls[0], output


def a_module(**settings):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, **settings)
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.5)
    return module


ATTENTIONS = {
    "plain": ({}, None),
    "batch first": ({"batch_first": True}, None),
    "no bias": ({"bias": False}, None),
    "widths of their own": ({"kdim": 8, "vdim": 6}, None),
    "bool mask": ({}, ~a_bool_mask(5, 7)),
    "float mask": ({}, a_float_mask(5, 7)),
    "bool mask per head": ({}, ~a_bool_mask(3 * 2, 5, 7)),
    "float mask per head": ({}, a_float_mask(3 * 2, 5, 7)),
}


@pytest.mark.parametrize(("settings", "mask"), ATTENTIONS.values(), ids=ATTENTIONS)
def test_the_row_is_the_first_of_multihead_attentions_own_weights(settings, mask):
    module, rng = a_module(**settings), torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(length, 2, width, generator=rng) for length, width in ((5, 12), (7, module.kdim), (7, module.vdim))
    )
    if module.batch_first:
        query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
    args, kwargs, (_, weights) = recorded(module, query, key, value, attn_mask=mask)
    row = row_of_multi_head_attention(*args, **kwargs)
    assert not row.requires_grad
    assert torch.allclose(row, weights[:, 0], atol=1e-6)
    assert not torch.allclose(row, weights[:, 1], atol=1e-2)


def test_a_bool_mask_given_to_the_function_itself_says_who_may_not_look():
    module, tokens = a_module(), torch.randn(7, 2, 12, generator=torch.Generator().manual_seed(0))
    args, kwargs, _ = recorded(module, tokens, tokens, tokens)
    kwargs["attn_mask"] = ~a_bool_mask(7, 7)  # nn.MultiheadAttention itself would make it a float mask
    _, weights = F.multi_head_attention_forward(*args, **{**kwargs, "need_weights": True})
    row = row_of_multi_head_attention(*args, **kwargs)
    assert torch.allclose(row, weights[:, 0], atol=1e-6)
    assert torch.equal(row[0] == 0, kwargs["attn_mask"][0])


def test_the_row_of_multihead_attention_is_computed_in_float32_under_autocast():
    module, tokens = a_module(), torch.randn(7, 2, 12, generator=torch.Generator().manual_seed(0))
    args, kwargs, (_, weights) = recorded(module, tokens, tokens, tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        row = row_of_multi_head_attention(*args, **kwargs)
        _, low = module(tokens, tokens, tokens)
    assert row.dtype == torch.float32
    assert torch.allclose(row, weights[:, 0], atol=1e-6)
    assert not torch.allclose(low[:, 0].float(), weights[:, 0], atol=1e-6)  # the tolerance tells


VARIANTS = {
    "bias_k": ({"add_bias_kv": True}, {}),
    "add_zero_attn": ({"add_zero_attn": True}, {}),
    "padding": ({}, {"key_padding_mask": torch.zeros(2, 5, dtype=torch.bool)}),
}


@pytest.mark.parametrize(("settings", "call"), VARIANTS.values(), ids=VARIANTS)
def test_variants_of_multihead_attention_that_cannot_be_read_are_refused(settings, call):
    tokens = torch.randn(5, 2, 12)
    args, kwargs, _ = recorded(a_module(**settings), tokens, tokens, tokens, **call)
    with pytest.raises(AttentionError) as error:
        row_of_multi_head_attention(*args, **kwargs)
    assert str(error.value) == (
        "nn.MultiheadAttention with bias_k, add_zero_attn, static keys, key padding or unbatched input cannot be read"
    )

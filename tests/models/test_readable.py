"""Every model in the table is read as it says, equal to a softmax formed in full; every refusal names a remedy."""

import importlib
import json
from functools import cache
from pathlib import Path

import pytest
import torch

pytest.importorskip("timm")
pytest.importorskip("torchvision")
pytest.importorskip("transformers")

import explicit as oracle
import models as maker
from readable import COLUMNS, READABLE, REFUSED, VIT, Readable, build, example

from transmix import AttentionError, AttentionReader
from transmix.models.readable import model_text, read_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
IDS = [f"{entry.library}-{entry.name}-{entry.options_text}{'-head' * entry.head}" for entry in READABLE]
EXACT = 1e-5
"""What float32 may differ by."""

each_model = pytest.mark.parametrize("entry", READABLE, ids=IDS)

COMPILED = (
    "vit_tiny_patch16_224", "vit_base_patch16_xp_224", "vit_relpos_base_patch16_cls_224", "vit_tiny_r_s16_p8_224",
    "naflexvit_base_patch16_gap", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "cait_xxs24_224",
    "beit_base_patch16_224", "eva_giant_patch14_224", "eva02_tiny_patch14_224",
    "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3",
    "vit_small_patch16_rope_mixed_224", "vit_base_patch16_clip_224", "resnet50_clip", "vit_base_patch16_siglip_224",
    "vit_pe_core_tiny_patch16_384", "pit_ti_224", "tnt_s_patch16_224", "convit_tiny", "crossvit_9_240",
    "swin_tiny_patch4_window7_224", "vit_b_16", "ViTForImageClassification",
)  # fmt: skip
"""What the eager compiler traces whole here; `make models` compiles every model in earnest."""


class Case:
    """A small model, images for it, the row that is read and the softmax (B, G, L, S) formed in full."""

    def __init__(self, entry):
        torch.manual_seed(0)
        self.images = example(entry, entry.small_size, 3)
        self.model = oracle.sharpen(build(entry, entry.small_size, "small"))
        self.reader = AttentionReader(self.model)
        self.model(self.images)
        self.attention, self.grid = self.reader.take()[:2]
        self.explicit = oracle.explicit_attention(self.model, self.reader.name, self.images)

    @property
    def row(self):
        """(B, P): the oracle's row of the class token over the patches, mean over heads."""
        return self.patches(self.explicit[:, :, 0].mean(1))

    def patches(self, row):
        return row[:, -self.attention.shape[1] :]


@pytest.fixture(scope="module")
def case():
    """Make a case once for all tests."""
    made = cache(lambda index: Case(READABLE[index]))
    return lambda entry: made(READABLE.index(entry))


def distance(one, other):
    return (one - other).abs().max().item()


@each_model
def test_a_model_is_read_as_its_softmax_formed_in_full(entry, case):
    tried = case(entry)
    (height, width), (h, w) = entry.small_size, tried.grid
    assert h * w == tried.attention.shape[1]
    assert h * width == w * height, "the grid has the images' shape"
    assert distance(tried.attention, tried.row) < EXACT


@each_model
def test_wrong_rows_columns_and_heads_are_told_apart(entry, case):
    tried = case(entry)
    assert tried.attention.std(1).mean() * tried.attention.shape[1] > 0.2, "far from uniform"
    wrong = [tried.patches(tried.explicit[:, head, 0]) for head in range(tried.explicit.shape[1])]  # one head
    wrong += [tried.patches(tried.explicit[:, :, query].mean(1)) for query in range(1, tried.explicit.shape[2])]
    wrong += [tried.row.roll(1, 0), tried.row.roll(1, 1), tried.row.flip(1)]  # another image, another order of patches
    whole = tried.explicit[:, :, 0].mean(1)
    if whole.shape[1] > tried.row.shape[1]:  # the class token's column taken for a patch
        wrong.append(whole[:, : tried.row.shape[1]])
    assert all(distance(one, tried.attention) > 100 * EXACT for one in wrong)


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_model_is_read_alike(name, case):
    tried = case(next(entry for entry in READABLE if entry.name == name))
    torch.compiler.reset()
    torch.compile(tried.model, backend="eager", fullgraph=True)(tried.images)
    assert distance(tried.reader.take().row, tried.row) < EXACT


@each_model
def test_module_and_grid_of_the_published_size_are_those_of_the_table(entry):
    row = next(row for row in read_table() if maker.key_of_row(row) == maker.key_of(entry))
    found = maker.locate(entry)
    assert found == {name: row[name] for name in found}
    assert set(found) == {"read", "module", "size", "grid"}


def test_the_table_has_the_models_of_the_list_in_its_order():
    rows = read_table()
    assert list(rows[0]) == list(COLUMNS)
    assert [maker.key_of_row(row) for row in rows] == [maker.key_of(entry) for entry in (*READABLE, *REFUSED)]
    assert [row["family"] for row in rows] == [entry.family for entry in (*READABLE, *REFUSED)]


def test_the_list_is_as_long_as_promised():
    assert len(set(IDS)) == len(READABLE)
    assert len(READABLE) >= 70
    assert len({entry.name for entry in READABLE if entry.library == "timm"}) >= 50
    assert len({entry.family for entry in READABLE}) >= 45
    assert {entry.library for entry in READABLE} == {"timm", "torchvision", "transformers"}
    assert len(COMPILED) >= 25
    assert len(REFUSED) >= 13


def test_what_the_table_measured_is_what_is_promised():
    for row in read_table():
        if row["read"] == "refused":
            assert row["refusal"]
            continue
        assert float(row["difference"]) < EXACT, row
        assert row["compiled"] == "yes", row
        assert row["made_with"].startswith("torch "), row
        assert bool(row["overhead"]) == bool(row["timed"]), row
        assert not row["overhead"] or 0.5 < float(row["overhead"]) < 2, row


def test_the_page_is_made_from_the_table():
    assert maker.page(read_table()) == PAGE.read_text(encoding="utf-8"), "run make models"


HEAD = "put a class-attention head in place of its pooling: transmix.attention.with_class_attention(model)"
NO_TOKEN = (
    "has no class token (global_pool='avg'): no attention belongs to its class prediction. Use a model with a class "
    f"token and global_pool='token', or {HEAD}"
)
AVERAGED = (
    "averages its class token away or leaves it unused (global_pool='avg'): its attention does not belong to the "
    f"prediction. Create the model with global_pool='token', or {HEAD}"
)
UNKNOWN = "is not a model whose class attention is known."
POINT = (
    "If its logits come from its class token (cls_token), point at the module in which that token looks last, "
    "module=...; its last attention-like modules:"
)
TEXTS = {
    "coat_tiny": "CoaT factorises its attention: its class tokens have no softmax over the patches. Use another model",
    "vit_small_patch16_18x2_224": f"VisionTransformer {UNKNOWN} {POINT} blocks.16.attns.1.attn, "
    "blocks.17.attns.0.attn, blocks.17.attns.1.attn. If they come from an average instead, use a model whose logits "
    "come from a class token",
    "samvit_base_patch16_224": f"VisionTransformerSAM {NO_TOKEN}",
    "beit_base_patch16_224": f"Beit {AVERAGED}",
    "eva02_tiny_patch14_224": f"Eva {AVERAGED}",
    "vit_small_patch16_dinov3": f"Eva {AVERAGED}",
    "vit_base_patch16_siglip_gap_224": f"VisionTransformer {NO_TOKEN}",
    "swin_tiny_patch4_window7_224": f"SwinTransformer {UNKNOWN} It holds attention, but no parameter that "
    f"looks like a class token. If it averages its features instead, {HEAD}",
    "levit_128s": f"LevitDistilled {NO_TOKEN}",
    "convnext_atto": f"ConvNeXt {UNKNOWN} It holds no module that looks like attention. If it averages its features "
    f"instead, {HEAD}",
    "naflexvit_base_patch16_map": "NaFlexEmbeds was given patches (2, 24, 192) instead of images: every sample then "
    "has its own grid, and one box mask does not fit all. Give images (B, C, H, W) of one size",
    "BeitForImageClassification": "BeitForImageClassification averages its patches (use_mean_pooling=True): its class "
    "token does not affect the prediction. Create the model with use_mean_pooling=False",
    "ViTForImageClassification": "attn_implementation='flex_attention' computes attention outside torch's functions, "
    "where it cannot be read; call model.set_attn_implementation('sdpa'), which is fused too",
}


@pytest.mark.parametrize("entry", REFUSED, ids=[f"{entry.library}-{entry.name}" for entry in REFUSED])
def test_what_cannot_be_read_is_refused_with_a_remedy(entry):
    assert maker.refusal(entry) == TEXTS[entry.name]
    row = next(row for row in read_table() if maker.key_of_row(row) == maker.key_of(entry))
    assert row["refusal"] == TEXTS[entry.name]


def test_a_model_that_is_read_after_all_is_no_refusal():
    with pytest.raises(RuntimeError, match="vit_tiny_patch16_224 is listed as refused, but it is read"):
        maker.refusal(READABLE[0])


def test_the_remedy_of_flex_attention_works():
    entry = next(entry for entry in REFUSED if "flex" in entry.options_text)
    with torch.device("meta"):
        model = build(entry, (224, 224))
        with pytest.raises(AttentionError, match="set_attn_implementation"):
            AttentionReader(model)
        model.set_attn_implementation("sdpa")
        with AttentionReader(model) as reader:
            model(example(entry, (224, 224)))
            assert reader.take().row.shape == (2, 196)


def test_a_row_shows_its_options_as_a_call():
    assert model_text({"model": "deit", "options": ""}) == "deit"
    assert model_text({"model": "beit", "options": "global_pool='token'"}) == "beit(global_pool='token')"


def test_only_the_families_asked_for_are_measured_again():
    chosen = [entry for entry in READABLE if maker.is_wanted(entry, ["swin", "CaiT"])]
    assert {entry.family for entry in chosen} == {"Swin", "Swin v2", "CaiT"}
    assert all(maker.is_wanted(entry, None) for entry in READABLE)


def test_a_short_version_is_as_wide_as_the_published_model():
    chosen = [entry for entry in READABLE if entry.short and entry.family in ("ViT", "EVA", "SigLIP")]
    assert len(chosen) == 7
    with torch.device("meta"):
        for entry in chosen:
            full, short = (build(entry, (224, 224), sizes) for sizes in ("full", "short"))
            assert max(len(weight) for weight in full.parameters()) == max(len(weight) for weight in short.parameters())
            assert len(list(short.parameters())) < len(list(full.parameters()))


def test_the_benchmark_times_steps_in_turn_and_leaves_the_model_as_it_was(monkeypatch):
    monkeypatch.syspath_prepend(PAGE.parents[1] / "benchmarks")
    benchmark = importlib.import_module("reading_overhead")
    tiny = Readable("ViT", "timm", "vit_tiny_patch16_224", size=32, short=VIT)
    steps, seconds = [], benchmark.seconds

    def noted(model, images, labels, read):
        steps.append(read)
        taken = seconds(model, images, labels, read)
        assert "forward" not in model.blocks[-1].attn.__dict__
        return taken

    monkeypatch.setattr(benchmark, "seconds", noted)
    figures = benchmark.measure(tiny, batch=2, repeats=3, device="cpu")
    assert steps == [False, True, True, False] * 2 + [False, True]
    assert figures["quartiles"][0] <= figures["median"] <= figures["quartiles"][1]
    assert figures["plain_ms"] > 0


def test_times_reach_the_table_and_the_page(tmp_path, monkeypatch):
    rows = [row | {"overhead": "", "timed": ""} for row in read_table()]
    assert "No times were measured yet." in maker.page(rows)
    times = [
        {"key": READABLE[0].key, "median": 1.00449, "timed": "a CPU, 2 threads"},
        {"key": READABLE[1].key, "median": 1.02, "timed": "a CPU, 2 threads, short"},
        {"key": ["timm", "gone", "", ""], "median": 1.02, "timed": "a CPU, 2 threads"},
    ]
    monkeypatch.setattr(maker, "TIMES", tmp_path / "times.json")
    assert maker.with_times(rows) == rows
    maker.TIMES.write_text(json.dumps(times))
    timed = maker.with_times(rows)
    assert [row["overhead"] for row in timed[:3]] == ["1.004", "1.020", ""]
    page = maker.page(timed)
    assert "| 1.020 † |" in page
    assert f"Measured on a CPU, 2 threads. {len(READABLE) - 2} rows were not measured yet." in page

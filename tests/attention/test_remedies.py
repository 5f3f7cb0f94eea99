"""Every remedy that a refusal names, followed to the letter: the model is read, and its logits use what is read."""

import re

import pytest
import torch
from torch import nn

from transmix import AttentionError, AttentionReader
from transmix.attention import with_class_attention
from transmix.attention.head import why_no_head

timm = pytest.importorskip("timm")
CLASSES = 5
TINY = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": CLASSES, "img_size": (32, 48)}
SWIN = {
    "img_size": (32, 64), "embed_dim": 16, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4, "patch_size": 4,
    "num_classes": CLASSES,
}  # fmt: skip
HF = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96, "patch_size": 8,
    "image_size": 32, "num_labels": CLASSES,
}  # fmt: skip


def tiny(name, **changes):
    """A small timm model in which every part matters."""
    return shake(timm.create_model(name, **{**TINY, **changes}))


def shake(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    return model


def logits(model, images):
    output = model(images)
    return getattr(output, "logits", output)


def assert_is_read_and_used(model, images, module=None):
    """The row lies over a grid, and without what it led to the logits are others."""
    reader = AttentionReader(model.train(), module)
    logits(model, images)
    row, (h, w), _ = reader.take(images)
    assert row.shape == (len(images), h * w)
    assert used_by_logits(model, dict(model.named_modules())[path_of(model, reader.name)], images)
    reader.detach()


def path_of(model, name):
    """A reader speaks of the model inside of wrappers; here it is found by the end of its name."""
    return next(path for path, _ in model.named_modules() if path == name or path.endswith(f".{name}"))


def used_by_logits(model, module, images):
    """Whether the logits change as the module's output for the class token (its first, or its only one) becomes 0."""

    def without(_, __, output):
        first = output[0] if isinstance(output, tuple) else output
        changed = first.clone()
        changed[(slice(None), 0) if first.ndim == 3 else slice(None)] = 0
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    model.eval()
    with torch.no_grad():
        before = logits(model, images)
        hook = module.register_forward_hook(without)
        after = logits(model, images)
        hook.remove()
    return not torch.allclose(before, after, rtol=0, atol=1e-6)


def refusal(model, module=None):
    with pytest.raises(AttentionError) as error:
        AttentionReader(model, module)
    return str(error.value)


HEAD = "put a class-attention head in place of its pooling: transmix.attention.with_class_attention(model)"


def test_the_check_tells_a_module_that_the_logits_do_not_use():
    averaging = tiny("beit_base_patch16_224")
    images = torch.randn(3, 3, 32, 48)
    averaging.eval()
    assert not used_by_logits(averaging, averaging.blocks[1].attn, images)
    token = tiny("beit_base_patch16_224", global_pool="token")
    assert used_by_logits(token, token.blocks[1].attn, images)


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3"])
@pytest.mark.parametrize("remedy", ["Create the model with global_pool='token'", HEAD])
def test_an_averaged_class_token(name, remedy):
    model = tiny(name)
    assert remedy in refusal(model)
    model = tiny(name, global_pool="token") if "Create" in remedy else with_class_attention(model)
    assert_is_read_and_used(model, torch.randn(3, 3, 32, 48))


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("swin_tiny_patch4_window7_224", SWIN, (32, 64)),
        ("vit_base_patch16_siglip_gap_224", TINY, (32, 48)),
        ("test_convnext", {"num_classes": CLASSES}, (64, 96)),
        ("resnet18", {"num_classes": CLASSES}, (64, 96)),
    ],
)
def test_a_model_without_a_class_token(name, options, size):
    model = shake(timm.create_model(name, **options))
    text = refusal(model)
    assert HEAD in text
    assert "module=" not in text
    assert_is_read_and_used(with_class_attention(model), torch.randn(3, 3, *size))


def test_a_class_token_of_an_unknown_model():
    model = tiny("vit_small_patch16_18x2_224")
    text = refusal(model)
    assert "with_class_attention" not in text
    for name in re.search(r"attention-like modules: ([\w., ]+)\. If", text)[1].split(", "):
        assert_is_read_and_used(model, torch.randn(3, 3, 32, 48), name)


def test_a_name_that_is_not_there():
    model = tiny("deit_tiny_patch16_224")
    assert refusal(model, "blocks.7.attn") == (
        "VisionTransformer has no module 'blocks.7.attn'. Its class token looks in 'blocks.1.attn', which is found "
        "without module="
    )
    assert_is_read_and_used(model, torch.randn(3, 3, 32, 48))
    assert "global_pool='token'" in refusal(tiny("beit_base_patch16_224"), "blocks.7.attn")


def test_a_pool_of_several_queries():
    from timm.layers import AttentionPoolLatent

    model = tiny("vit_base_patch16_siglip_224")
    model.attn_pool = AttentionPoolLatent(48, num_heads=2, latent_len=2, pool_type="avg")
    text = refusal(model)
    assert text == (
        "VisionTransformer's attention pool averages several queries: no single row belongs to the prediction. Use one "
        "query (in timm, AttentionPoolLatent with latent_len=1 and pool_type='token')"
    )
    model.attn_pool = AttentionPoolLatent(48, num_heads=2, latent_len=1, pool_type="token")
    assert_is_read_and_used(shake(model), torch.randn(3, 3, 32, 48))


def test_a_stem_of_several_convolutions_is_not_taken_for_what_cuts_patches():
    model = shake(timm.create_model("vit_base_mci_224", img_size=(64, 96), depth=1, num_classes=CLASSES))
    images = torch.randn(2, 3, 64, 96)
    with AttentionReader(model.train()) as reader:
        model(images)
        assert reader.take(images)[1:] == ((4, 6), (64, 96))
    assert_is_read_and_used(model, images)


class Adapters(nn.Module):
    """Stands between PEFT's model and ours, as its LoraModel does."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model.forward(*args, **kwargs)


class Peft(nn.Module):
    """As peft.PeftModel: hands over the attributes and the call of the model that adapters were put into."""

    def __init__(self, model):
        super().__init__()
        self.base_model = Adapters(model)

    def get_base_model(self):
        return self.base_model.model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model.model, name)

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)


def test_a_model_with_adapters_of_peft():
    images = torch.randn(3, 3, 32, 48)
    assert_is_read_and_used(Peft(tiny("deit_tiny_patch16_224")), images)
    averaging = tiny("beit_base_patch16_224")
    assert HEAD in refusal(Peft(averaging))
    assert_is_read_and_used(Peft(with_class_attention(averaging)), images)


@pytest.mark.parametrize("wrap", [Peft, torch.compile], ids=["peft", "torch.compile"])
def test_a_head_is_put_into_a_model_before_it_is_wrapped(wrap):
    wrapped = wrap(tiny("beit_base_patch16_224"))
    kind = type(wrapped)
    with pytest.raises(AttentionError) as error:
        with_class_attention(wrapped)
    assert str(error.value) == (
        f"{kind.__name__} is a wrapper around a model: put the head into that model before it is wrapped"
    )
    assert type(wrapped) is kind


class Clips(nn.Module):
    """A model of clips (B, C, T, H, W), with a class token."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Conv3d(3, 48, (2, 8, 8), (2, 8, 8))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 48))
        self.attn = nn.MultiheadAttention(48, 2, batch_first=True)


def test_patches_of_several_frames():
    text = (
        "Clips cuts its patches with a Conv3d, from several frames: its patches do not form one 2-D grid. Mix and read "
        "single frames (B, C, H, W) with a 2-D model"
    )
    assert refusal(Clips()) == refusal(Clips(), "attn") == text
    assert_is_read_and_used(tiny("deit_tiny_patch16_224"), torch.randn(3, 3, 32, 48))


NO_PLACE = {
    "efficientvim_m1": "EfficientViM's features are a list of 4, each with its own pooling: one head cannot replace "
    "them. Use another model",
    **{
        name: f"{kind} never pools its features: its forward does not come to forward_head, where a head would pool "
        "them. Use a model that classifies"
        for name, kind in {
            "gemma4_vit_167m_enc": "Gemma4VitEncoder",
            "qwen3_vit_88m_enc": "Qwen3VitEncoder",
            "deepseek_vit_412m_enc": "DeepseekVitEncoder",
            "mobilenetv5_300m_enc": "MobileNetV5Encoder",
        }.items()
    },
}


@pytest.mark.parametrize(("name", "text"), NO_PLACE.items(), ids=NO_PLACE)
def test_a_model_in_which_a_head_has_no_place_is_refused_and_left_alone(name, text):
    with torch.device("meta"):
        model = timm.create_model(name)
    kind, modules = type(model), [path for path, _ in model.named_modules()]
    with pytest.raises(AttentionError) as error:
        with_class_attention(model)
    assert str(error.value) == text
    assert type(model) is kind
    assert [path for path, _ in model.named_modules()] == modules
    assert "with_class_attention" not in refusal(model)


def test_asking_for_a_head_leaves_weights_and_generators_alone():
    model = timm.create_model("resnet18", num_classes=CLASSES).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, kept = torch.get_rng_state(), {name: id(value) for name, value in model.named_parameters()}
    assert why_no_head(model) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: id(value) for name, value in model.named_parameters()} == kept
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["naflexvit_base_patch16_gap", "gemma4_vit_167m"])
def test_a_head_reads_images_and_refuses_patches_of_many_sizes(name):
    model = timm.create_model(name, depth=1, embed_dim=48, num_heads=2, num_classes=CLASSES)
    model = shake(with_class_attention(model))
    assert_is_read_and_used(model, torch.randn(2, 3, 64, 96))
    where = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij"), -1).flatten(0, 1)
    packed = {
        "patches": torch.randn(2, 12, 768),
        "patch_coord": where.expand(2, -1, -1),
        "patch_valid": torch.ones(2, 12, dtype=torch.bool),
    }
    with pytest.raises(AttentionError) as error:
        model(packed)
    kind = type(model).__mro__[2].__name__
    assert str(error.value) == (
        f"{kind} was given patches of images of different sizes, some of them padding: one box mask does not fit all. "
        "Give images (B, C, H, W) of one size"
    )


READ_OF_TRANSFORMERS = {
    "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher", "Dinov2ForImageClassification",
    "Dinov2WithRegistersForImageClassification", "ViTForImageClassification",
}  # fmt: skip
NEEDS_MORE = ("Auto", "TimmWrapper", "Dinat", "PerceiverForImageClassificationC", "PerceiverForImageClassificationF")
OF_TRANSFORMERS = (
    "is not known to predict from a class token. {found}. Of transformers, these are read: ForImageClassification of "
    "ViT, DeiT, Dinov2, Dinov2WithRegisters, and Beit with use_mean_pooling=False. Use timm's version of the model "
    "(averaging models: with transmix.attention.with_class_attention on it), or a wrapper that takes its logits from a "
    "class token, with module= the last attention of that token"
)


def in_transformers(name, **changes):
    """A tiny model of transformers, or a full one on the meta device where its configuration has other names."""
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, name)
    return kind(kind.config_class(**{**HF, **changes}))


def test_every_image_classifier_of_transformers_is_read_or_refused_with_what_it_has():
    transformers = pytest.importorskip("transformers")
    names = [name for name in dir(transformers) if "ForImageClassification" in name and not name.startswith(NEEDS_MORE)]
    assert len(names) > 35
    read, texts = set(), {}
    for name in names:
        kind = getattr(transformers, name)
        with torch.device("meta"):
            model = kind(kind.config_class(num_labels=CLASSES))
        try:
            AttentionReader(model).detach()
            read.add(name)
        except AttentionError as error:
            texts[name] = (str(error), {weight for weight, _ in model.named_parameters()})
            with pytest.raises(AttentionError):
                with_class_attention(model)
    assert "use_mean_pooling=False" in texts.pop("BeitForImageClassification")[0]
    for name, (text, weights) in texts.items():
        token = re.search(r"It has a class token \(([\w.]+)\), which its logits may not use", text)
        found = token[0] if token else "It has no class token"
        assert text == f"{name} {OF_TRANSFORMERS.format(found=found)}"
        assert not token or token[1] in weights
    assert read == READ_OF_TRANSFORMERS


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in sorted(READ_OF_TRANSFORMERS)),
        ("BeitForImageClassification", {"use_mean_pooling": False}),
    ],
)
def test_what_is_said_to_be_read_of_transformers_is(name, changes):
    assert_is_read_and_used(shake(in_transformers(name, **changes)), torch.randn(3, 3, 32, 32))


def test_flex_attention_of_transformers():
    model = shake(in_transformers("ViTForImageClassification", attn_implementation="flex_attention"))
    assert "call model.set_attn_implementation('sdpa')" in refusal(model)
    model.set_attn_implementation("sdpa")
    assert_is_read_and_used(model, torch.randn(3, 3, 32, 32))


class FromClassToken(nn.Module):
    """CLIP's encoder, with logits from its class token: CLIPForImageClassification averages its patches."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.classifier = encoder, nn.Linear(48, CLASSES)

    def forward(self, images):
        return self.classifier(self.encoder(images).last_hidden_state[:, 0])


def test_a_wrapper_of_a_model_of_transformers():
    transformers = pytest.importorskip("transformers")
    sizes = {name: value for name, value in HF.items() if name != "num_labels"}
    config = transformers.CLIPVisionConfig(**sizes)
    classes = transformers.CLIPConfig(vision_config=sizes, num_labels=CLASSES)
    averaging = shake(transformers.CLIPForImageClassification(classes))
    found = "It has a class token (vision_model.embeddings.class_embedding), which its logits may not use"
    assert refusal(averaging) == f"CLIPForImageClassification {OF_TRANSFORMERS.format(found=found)}"
    images = torch.randn(3, 3, 32, 32)
    last = next(path for path, _ in averaging.named_modules() if path.endswith("layers.1.self_attn"))
    assert not used_by_logits(averaging, averaging.get_submodule(last), images), "nothing to point at"
    wrapper = shake(FromClassToken(transformers.CLIPVisionModel(config)))
    last = next(path for path, _ in wrapper.named_modules() if path.endswith("layers.1.self_attn"))
    assert_is_read_and_used(wrapper, images, last)


def test_a_model_of_timm_within_transformers():
    transformers = pytest.importorskip("transformers")
    options = {name: value for name, value in TINY.items() if name != "num_classes"}
    config = transformers.TimmWrapperConfig(
        architecture="beit_base_patch16_224", num_labels=CLASSES, model_args=options
    )
    model = shake(transformers.TimmWrapperForImageClassification(config))
    assert f"{HEAD[:-1]}.timm_model)" in refusal(model)
    with_class_attention(model.timm_model)
    assert_is_read_and_used(model, torch.randn(3, 3, 32, 48))

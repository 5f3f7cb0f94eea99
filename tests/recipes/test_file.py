"""Recipes are read strictly, written back in full, and refused where their settings contradict each other."""

import inspect
import re
from collections import Counter
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import transmix.recipes
from transmix import AttentionReader, Mixer
from transmix.cli.options import as_defaults, with_current_names
from transmix.labels import AreaLabels, AttentionLabels
from transmix.mixing import CutMix, Mixup
from transmix.recipes import (
    Recipe,
    RecipeError,
    changed_settings,
    check_recipe,
    dump_recipe,
    load_recipe,
    recipe_names,
    recipe_text,
    resolved,
)
from transmix.recipes.mixing import build_mixer, build_rule, title
from transmix.recipes.settings import Mixing

SECTIONS = ("data", "augmentation", "model", "mixing", "optimization", "run")


def changed(recipe=None, **changes):
    """A recipe with settings changed by name, whatever their section; with data unless told otherwise."""
    recipe = recipe or Recipe()
    changes = {"data": "digits", **changes}
    for section in SECTIONS:
        names = [field.name for field in fields(getattr(recipe, section))]
        mine = {name: changes.pop(name) for name in names if name in changes}
        recipe = replace(recipe, **{section: replace(getattr(recipe, section), **mine)})
    assert not changes
    return recipe


@pytest.fixture
def load(tmp_path):
    """Load a recipe from text."""

    def load_text(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return load_recipe(str(path))

    return load_text


def refuses(load, text, message):
    with pytest.raises(RecipeError) as raised:
        load(text)
    where, _, said = str(raised.value).partition(": ")
    assert where.endswith("recipe.yaml")
    assert said == message


# Round trip.


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_survives_being_written_and_read(load, name):
    recipe = load_recipe(name)
    assert load(dump_recipe(recipe)) == recipe
    assert recipe != Recipe()
    check_recipe(changed(recipe))


def test_every_recipe_file_in_the_package_is_listed():
    folder = Path(transmix.recipes.__file__).parent
    assert recipe_names() == sorted(path.stem for path in folder.glob("*.yaml"))
    assert "digits" in recipe_names()
    assert recipe_text("digits") == (folder / "digits.yaml").read_text(encoding="utf-8")


def test_what_is_written_has_every_setting():
    assert yaml.safe_load(dump_recipe(Recipe())) == yaml.safe_load(yaml.safe_dump(_lists(asdict(Recipe()))))


def _lists(values):
    if isinstance(values, dict):
        return {key: _lists(value) for key, value in values.items()}
    return list(values) if isinstance(values, tuple) else values


numbers = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]))
scalars = st.booleans() | st.integers() | numbers | words
options = st.dictionaries(words, scalars | st.lists(scalars, min_size=1, max_size=3).map(tuple), max_size=3)


@settings(max_examples=60, deadline=None)
@given(numbers, words, options, st.tuples(numbers, numbers), st.none() | st.integers())
def test_any_settings_survive_being_written_and_read(tmp_path_factory, lr, data, model_options, betas, workers):
    recipe = changed(lr=lr, data=data, model_options=model_options, betas=betas, workers=workers)
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    read = load_recipe(str(path))
    assert read == recipe
    assert {key: type(value) for key, value in read.model.model_options.items()} == {
        key: type(value) for key, value in model_options.items()
    }


@pytest.mark.parametrize("text", ["", "# nothing", "mixing:", "mixing: {}", "~"])
def test_what_a_file_leaves_out_keeps_its_default(load, text):
    assert load(text) == Recipe()


def test_what_a_file_states_is_taken_and_nothing_else_changes(load):
    assert load("mixing: {switch_prob: 0.8}\nrun: {seed: 3}") == changed(data=None, switch_prob=0.8, seed=3)


# Unknown names.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixing: {switch-prob: 0.8}", "unknown setting mixing.switch-prob; did you mean switch_prob?"),
        ("optimization: {warmup: 5}", "unknown setting optimization.warmup; did you mean warmup_lr?"),
        ("mixng: {switch_prob: 0.8}", "unknown setting mixng; did you mean mixing?"),
        ("switch_prob: 0.8", f"unknown setting switch_prob; known: {', '.join(SECTIONS)}"),
        ("1: 2", f"unknown setting 1; known: {', '.join(SECTIONS)}"),
        (
            "data: {zzz: 1}",
            "unknown setting data.zzz; known: data, image_size, train_images, balance, workers, cache_gb, on_device, "
            "download, data_dir, held_out, val_fraction, image_column, label_column, grey_range, on_bad_image, "
            "max_bad_images",
        ),
    ],
)
def test_an_unknown_name_is_an_error_that_gives_the_nearest(load, text, message):
    refuses(load, text, message)


def test_a_setting_in_another_section_is_unknown_there(load):
    with pytest.raises(RecipeError, match=r": unknown setting run\.lr"):
        load("run: {lr: 1.0}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "no recipe is called 'digit'; did you mean digits?"),
        ("imagenet-deit-small", "no recipe is called 'imagenet-deit-small'; did you mean imagenet_deit_small?"),
        ("../digits", "no recipe is called '../digits'; did you mean digits?"),
        ("qqq", f"no recipe is called 'qqq'; known: {', '.join(recipe_names())}"),
    ],
)
def test_an_unknown_recipe_gives_the_nearest_name(name, message):
    for read in (load_recipe, recipe_text):
        with pytest.raises(RecipeError, match=f"^{re.escape(message)}$"):
            read(name)


# Wrong types.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimization: {lr: fast}", "optimization.lr must be a number, not 'fast'"),
        ("optimization: {lr: true}", "optimization.lr must be a number, not True"),
        ("optimization: {lr: }", "optimization.lr must be a number, not None"),
        ("optimization: {lr: [1.0]}", "optimization.lr must be a number, not [1.0]"),
        ("optimization: {epochs: 1.0}", "optimization.epochs must be a whole number, not 1.0"),
        ("optimization: {epochs: 1e2}", "optimization.epochs must be a whole number, not '1e2'"),
        ("optimization: {epochs: true}", "optimization.epochs must be a whole number, not True"),
        ("data: {workers: two}", "data.workers must be a whole number, not 'two'"),
        ("run: {deterministic: 1}", "run.deterministic must be true or false, not 1"),
        ("run: {deterministic: 'true'}", "run.deterministic must be true or false, not 'true'"),
        ("run: {device: 0}", "run.device must be a text, not 0"),
        ("data: {data: 7}", "data.data must be a text, not 7"),
        ("optimization: {clip_grad: none}", "optimization.clip_grad must be a number, not 'none'"),
        ("optimization: {betas: [0.9]}", "optimization.betas must be a list of 2 numbers, not [0.9]"),
        ("augmentation: {mean: [1, 2]}", "augmentation.mean must be a list of 3 numbers, not [1, 2]"),
        ("augmentation: {mean: 0.5}", "augmentation.mean must be a list of 3 numbers, not 0.5"),
        ("augmentation: {mean: abc}", "augmentation.mean must be a list of 3 numbers, not 'abc'"),
        ("optimization: {betas: [0.9, x]}", "optimization.betas must be a number, not 'x'"),
        ("mixing: {loss: }", "mixing.loss must be one of cross-entropy, bce, not None"),
        ("model: {amp: [bf16]}", "model.amp must be one of none, bf16, fp16, auto, not ['bf16']"),
        ("model: {model_options: tiny}", "model.model_options must be settings (name: value), not 'tiny'"),
        (
            "model: {model_options: {depth: [1, [2]]}}",
            "model.model_options.depth must be a number, a text, true, false or a list of such, not [1, [2]]",
        ),
        ("mixing: [cutmix]", "mixing must be settings (name: value), not ['cutmix']"),
        ("mixing: 0", "mixing must be settings (name: value), not 0"),
        ("mixing: false", "mixing must be settings (name: value), not False"),
        ("mixing: []", "mixing must be settings (name: value), not []"),
        ("cutmix", "a recipe must be settings (name: value), not 'cutmix'"),
        ("[mixing]", "a recipe must be settings (name: value), not ['mixing']"),
        ("[]", "a recipe must be settings (name: value), not []"),
        ("false", "a recipe must be settings (name: value), not False"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_that_says_what_it_must_be(load, text, message):
    refuses(load, text, message)


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001", "'0.001'"])
def test_a_number_may_be_written_with_an_exponent_and_no_dot(load, text):
    recipe = load(f"optimization: {{lr: {text}, clip_grad: 2e0, betas: [9e-1, 1]}}")
    assert recipe.optimization.lr == 0.001
    assert recipe.optimization.clip_grad == 2.0
    assert recipe.optimization.betas == (0.9, 1.0)
    assert [type(beta) for beta in recipe.optimization.betas] == [float, float]


def test_a_whole_number_is_a_number_and_becomes_a_float(load):
    warmup = load("optimization: {warmup_epochs: 2}").optimization.warmup_epochs
    assert warmup == 2.0
    assert type(warmup) is float


def test_settings_that_may_be_none_take_null(load):
    recipe = load("augmentation: {rand_augment: null}\noptimization: {clip_grad: 1.0, ema_decay: ~}")
    assert recipe.augmentation.rand_augment is None
    assert recipe.optimization.clip_grad == 1.0
    assert recipe.optimization.ema_decay is None


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix", "mixup+cutmix", "transmix"])
def test_every_named_choice_is_taken(load, mix):
    assert load(f"mixing: {{mix: {mix}}}").mixing.mix == mix


def test_model_options_keep_the_types_of_their_values(load):
    options = load("model: {model_options: {a: 1, b: 1.5, c: true, d: x, e: [2, 2]}}").model.model_options
    assert options == {"a": 1, "b": 1.5, "c": True, "d": "x", "e": (2, 2)}
    assert [type(value) for value in options.values()] == [int, float, bool, str, tuple]


# Text that is no recipe.


NO_YAML = ["mixing: [", "a: b: c", "? [1]\n: 2", "run: \0", "run: 2020-13-45", "run: !!int x", "a: !!timestamp x"]


@pytest.mark.parametrize("text", [*NO_YAML, "[" * 5000])
def test_text_that_is_not_yaml_is_an_error_on_one_line(load, text):
    with pytest.raises(RecipeError, match=r"^[^\n]*recipe\.yaml is not YAML: [^\n]+$"):
        load(text)


def test_python_tags_are_refused_and_run_nothing(load, tmp_path):
    made = tmp_path / "made"
    text = f"run: !!python/object/apply:os.mkdir ['{made.as_posix()}']"
    with pytest.raises(RecipeError, match=r"is not YAML: could not determine a constructor for the tag"):
        load(text)
    assert not made.exists()
    yaml.unsafe_load(text)
    assert made.exists()  # the text does run where it is not refused


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_a_missing_file_is_an_error(tmp_path, suffix):
    path = tmp_path / f"absent.{suffix}"
    with pytest.raises(RecipeError, match=f"^cannot read the recipe {re.escape(str(path))}: .*No such file"):
        load_recipe(str(path))


def test_a_file_that_is_not_text_is_an_error(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=f"^cannot read the recipe {re.escape(str(path))}: 'utf-8' codec"):
        load_recipe(str(path))


# Settings.


def test_names_are_unique_over_all_sections():
    names = Counter(field.name for section in SECTIONS for field in fields(getattr(Recipe(), section)))
    assert [field.name for field in fields(Recipe)] == list(SECTIONS)
    assert names.most_common(1)[0][1] == 1


def refused(message, **changes):
    with pytest.raises(RecipeError) as raised:
        check_recipe(changed(**changes))
    assert str(raised.value) == message


def test_the_defaults_need_nothing_but_data():
    check_recipe(changed())
    refused("no data: give --data digits, or a folder of images, CIFAR files or Parquet shards", data=None)


@pytest.mark.parametrize(
    "name",
    ["image_size", "epochs", "batch_size", "accumulate", "repeats", "log_every", "eval_every", "keep_checkpoints"],
)
def test_counts_must_be_at_least_one(name):
    rest = {"warmup_epochs": 0.0}
    refused(f"{name} must be at least 1, not 0", **{name: 0}, **rest)
    refused(f"{name} must be at least 1, not -2", **{name: -2}, **rest)
    check_recipe(changed(**{name: 1}, **rest))


@pytest.mark.parametrize(
    ("message", "wrong", "right"),
    [
        ("warmup_epochs 5.5 exceeds epochs 5", {"epochs": 5, "warmup_epochs": 5.5}, {"warmup_epochs": 5.5}),
        ("warmup_epochs 301.0 exceeds epochs 300", {"warmup_epochs": 301.0}, {"epochs": 5, "warmup_epochs": 5.0}),
        ("smoothing must lie in [0, 1), not 1.0", {"smoothing": 1.0}, {"smoothing": 0.0}),
        ("smoothing must lie in [0, 1), not -0.1", {"smoothing": -0.1}, {"smoothing": 0.9}),
        ("mix_start must be at least 0, not -1", {"mix_start": -1}, {"mix_start": 299}),
        ("prob is a probability, not 1.5", {"prob": 1.5}, {"prob": 1.0}),
        ("switch_prob is a probability, not -0.5", {"switch_prob": -0.5}, {"switch_prob": 1.0}),
        ("switch_prob is a probability, not nan", {"switch_prob": float("nan")}, {"switch_prob": 0.1}),
        ("eval_crop is a fraction in (0, 1], not 0.0", {"eval_crop": 0.0}, {"eval_crop": 1.0}),
        ("eval_crop is a fraction in (0, 1], not 1.1", {"eval_crop": 1.1}, {"eval_crop": 0.1}),
        (
            "bce_threshold needs --loss bce, but the loss is cross-entropy",
            {"bce_threshold": 0.0, "mix": "cutmix"},
            {"bce_threshold": 0.0, "mix": "cutmix", "loss": "bce"},
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(message, wrong, right):
    refused(message, **wrong)
    check_recipe(changed(**right))


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("without CutMix (cutmix_alpha 0) no image has a box", {"cutmix_alpha": 0.0}),
        ("with switch_prob 0 every mixed batch is Mixup, which has no box", {"switch_prob": 0.0}),
        ("prob 0 mixes no batch", {"prob": 0.0}),
        ("mix_epochs 0 mixes no batch", {"mix_epochs": 0}),
        ("mix_start 3 leaves none of 3 epochs to mix in", {"mix_start": 3, "epochs": 3, "warmup_epochs": 0.0}),
        ("mix_start 4 leaves none of 2 epochs to mix in", {"mix_start": 4, "mix_epochs": 2}),
        ("weight 0 leaves the label to the area", {"labels_options": {"weight": 0.0}}),
        (
            "bce_threshold makes targets 0 or 1, so how much of a label each image gets is lost",
            {"bce_threshold": 0.0, "loss": "bce"},
        ),
    ],
)
def test_settings_under_which_transmix_would_change_nothing_are_refused(reason, changes):
    remedy = "Change that, or train with other --labels (or --mix)"
    refused(f"TransMix would change nothing here: {reason}. {remedy}", mix="transmix", **changes)
    check_recipe(changed(mix="mixup+cutmix", **changes))


def test_cutmix_alone_needs_no_switch():
    check_recipe(changed(mix="transmix", switch_prob=0.0, mixup_alpha=0.0))


# Differences.


def test_changed_settings_are_listed_old_and_new():
    before = changed(lr=1e-3, mix="cutmix")
    after = changed(lr=2e-3, mix="transmix", betas=(0.9, 0.95), model_options={"depth": 3})
    assert changed_settings(before, after) == [
        "model_options: {} -> {'depth': 3}",
        "mix: cutmix -> mixup+cutmix",
        "labels: area -> attention",
        "labels_options: {} -> {'weight': 0.5, 'downsample': 'nearest', 'shift': 0}",
        "lr: 0.001 -> 0.002",
        "betas: (0.9, 0.999) -> (0.9, 0.95)",
    ]


@pytest.mark.parametrize(
    ("text", "line"), [("mixing:\n  mix: none\n  mix: cutmix\n", "mix"), ("data: {}\nmixing: {}\ndata: {}\n", "data")]
)
def test_a_setting_that_is_given_twice_is_refused(load, text, line):
    with pytest.raises(RecipeError, match=rf"{line} \(line 3\) is given twice; keep one"):
        load(text)


def test_equal_recipes_differ_in_nothing():
    assert changed_settings(changed(), changed()) == []


# Mix and labels, and names of before.

BEFORE = """
mixing:
  {mix: transmix, mixup_alpha: 0.8, cutmix_alpha: 1.0, mix_prob: 0.7, switch_prob: 0.8, mix_mode: elem, mix_epochs: 14,
   attention_weight: 0.25, downsample: fraction, loss: cross-entropy, smoothing: 0.0, bce_threshold: null}
"""


def test_a_section_of_before_means_what_it_meant(load):
    mixing = resolved(load(BEFORE)).mixing
    assert (mixing.mix, mixing.labels, mixing.prob, mixing.mode) == ("mixup+cutmix", "attention", 0.7, "elem")
    assert mixing.labels_options == {"weight": 0.25, "downsample": "fraction", "shift": 0}
    assert build_rule(mixing) == AttentionLabels(0.25, "fraction")
    mixer = build_mixer(mixing)
    assert (mixer.methods, mixer.prob, mixer.mode) == ((CutMix(), Mixup()), 0.7, "elem")
    by_area = load(BEFORE.replace("transmix", "cutmix"))
    assert resolved(by_area).mixing.labels_options == {}
    assert build_rule(by_area.mixing) == AreaLabels()
    check_recipe(replace(by_area, data=replace(by_area.data, data="digits")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mixing: {mix_prob: 0.5, prob: 0.4}", "mixing.mix_prob is an old name of prob, which is given too; keep one"),
        (
            "mixing: {downsample: nearest, labels_options: {downsample: fraction}}",
            "downsample is given twice, in mixing and in labels_options; keep one",
        ),
    ],
)
def test_a_setting_under_both_its_names_is_refused(load, text, message):
    refuses(load, text, message)


def test_one_way_of_training_is_one_recipe_however_it_is_written(load):
    ways = [
        load("mixing: {mix: transmix}"),
        load("mixing: {mix: mixup+cutmix, labels: attention}"),
        load("mixing: {mix: transmix, attention_weight: 0.5}"),
        load("mixing: {mix: mixup+cutmix, labels: attention, labels_options: {weight: 0.5, downsample: nearest}}"),
    ]
    assert all(resolved(one) == resolved(ways[0]) for one in ways)
    assert all(changed_settings(one, ways[0]) == [] for one in ways)
    assert resolved(load("mixing: {mix: mixup+cutmix}")) != resolved(ways[0])
    assert resolved(resolved(ways[0])) == resolved(ways[0])


@pytest.mark.parametrize(
    ("mix", "labels", "name"),
    [
        ("transmix", None, "transmix"),
        ("mixup+cutmix", "attention", "transmix"),
        ("mixup+cutmix", None, "mixup+cutmix"),
        ("cutmix", "area", "cutmix"),
        ("cutmix", "line", "cutmix by line"),
        ("transmix", "centre", "mixup+cutmix by centre"),
        ("cutmix+mixup", "attention", "transmix"),
    ],
)
def test_a_mix_with_its_labels_has_one_name(mix, labels, name):
    assert title(mix, labels) == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mix": "cutmix", "mix_options": {"radius": 1}}, "mix_options radius belongs to no method of cutmix"),
        ({"mix": "cutmix", "mix_weights": {"cutmix": 1}}, "mix_weights cutmix: of mixup and cutmix alone give"),
        ({"mix": "cutmix+cutmix"}, "mix: cutmix+cutmix names a method twice"),
        ({"mix": "cutmix+mixupp"}, "mix: no method is called 'mixupp'; did you mean mixup?"),
        ({"mix": "none", "labels": "attention"}, "TransMix would change nothing here: mix none mixes no batch"),
        ({"mix": "cutmix", "labels": "line", "prob": 0.0}, "labels 'line' would change nothing here: prob 0 mixes no"),
        ({"cutmix_minmax": (0.6, 0.2)}, "mix: cutmix_minmax must be two rising fractions in [0, 1], not (0.6, 0.2)"),
    ],
)
def test_what_no_method_or_rule_takes_is_refused(changes, message):
    with pytest.raises(RecipeError) as refused_recipe:
        check_recipe(changed(**changes))
    assert message in str(refused_recipe.value)


def test_every_option_of_the_mixer_and_the_reader_is_a_setting(load):
    text = """
mixing:
  {mix: mixup+cutmix, cutmix_minmax: [0.2, 0.5], correct_lam: false, partner: random, mode: batch, switch_prob: 0.25,
   prob: 0.5, mixup_alpha: 0.3, cutmix_alpha: 0.7, module: blocks.3.attn, prefix_tokens: 2, grid: [4, 5]}
"""
    mixing = load(text).mixing
    mixer = build_mixer(mixing)
    assert mixer.chances == [(CutMix(0.7, (0.2, 0.5), False), 0.25), (Mixup(0.3), 1.0)]
    assert (mixer.prob, mixer.partner) == (0.5, "random")
    assert (mixing.module, mixing.prefix_tokens, mixing.grid) == ("blocks.3.attn", 2, (4, 5))
    known = set(inspect.signature(Mixer).parameters) - {"generator", "methods"}
    reader = set(inspect.signature(AttentionReader).parameters) - {"model", "training", "eval", "every_block", "tokens"}
    assert known | reader <= {one.name for one in fields(Mixing)}


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--mix-prob 0.5 --lr 1", "--prob 0.5 --lr 1"),
        ("--mix-mode=elem", "--mode elem"),
        ("--attention-weight 1 --mix cutmix", "--mix cutmix --labels-options weight=1"),
        ("--downsample=fraction --attention_weight=0.3", "--labels-options downsample=fraction weight=0.3"),
        (
            "--labels-options weight=1 --downsample fraction --seed 1",
            "--seed 1 --labels-options weight=1 downsample=fraction",
        ),
        (
            "--labels-options=downsample=fraction --lr 1 --labels_options weight=0.7 --mix cutmix",
            "--lr 1 --mix cutmix --labels-options downsample=fraction weight=0.7",
        ),
        ("--out downsample --resume", "--out downsample --resume"),
    ],
)
def test_a_command_line_of_before_means_what_it_meant_and_settings_of_several_places_add_up(words, meant):
    assert with_current_names(words.split()) == meant.split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--attention-weight"], "--attention-weight needs a value"),
        (["--downsample="], "--downsample needs a value"),
        (["--attention-weight", "--mix", "cutmix"], "--attention-weight needs a value"),
        (["--prob", "0.5", "--mix-prob", "0.7"], "--prob is given twice, once under its old name; keep one"),
        (["--attention-weight", "0.7", "--labels-options", "weight=0.3"], "weight of the labels is given twice"),
    ],
)
def test_a_command_line_that_says_two_things_or_nothing_is_refused(words, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        with_current_names(words)


@pytest.mark.parametrize(
    ("section", "words", "means"),
    [
        ("{mix: cutmix, labels: area}", ["--mix", "transmix"], ("mixup+cutmix", "attention", 0.5)),
        ("{mix: transmix, attention_weight: 0.25}", ["--mix", "mixup+cutmix"], ("mixup+cutmix", "area", None)),
        ("{mix: transmix, labels: attention, labels_options: {weight: 0.25}}", ["--mix=none"], ("none", "area", None)),
        ("{mix: transmix, attention_weight: 0.25}", ["--labels", "area"], ("mixup+cutmix", "area", None)),
        ("{mix: transmix, attention_weight: 0.25}", ["--labels", "centre"], ("mixup+cutmix", "centre", 1.0)),
        ("{mix: transmix, attention_weight: 0.25}", ["--lr", "1"], ("mixup+cutmix", "attention", 0.25)),
        ("{mix: cutmix}", ["--labels", "attention"], ("cutmix", "attention", 0.5)),
    ],
)
def test_a_mix_on_the_command_line_brings_its_own_labels_whatever_the_recipe_says(load, section, words, means):
    """A run's own recipe.yaml names its labels; `--mix cutmix` over it must still be CutMix with labels by area."""
    recipe = as_defaults(load(f"mixing: {section}"), words)
    mix, labels = (words[-1] if words[0] == option else None for option in ("--mix", "--labels"))
    mix = words[0].partition("=")[2] if words[0].startswith("--mix=") else mix
    mixing = replace(recipe.mixing, mix=mix or recipe.mixing.mix, labels=labels or recipe.mixing.labels)
    found = resolved(replace(recipe, mixing=mixing)).mixing
    assert (found.mix, found.labels, found.labels_options.get("weight")) == means


def test_settings_of_labels_without_labels_are_refused(load):
    with pytest.raises(RecipeError, match="labels are by area here; give --labels too"):
        as_defaults(load("mixing: {mix: cutmix}"), ["--labels-options", "weight=0.7"])
    assert as_defaults(load("mixing: {mix: transmix}"), ["--labels-options", "weight=0.7"]).mixing.mix == "transmix"


@pytest.mark.parametrize("value", ["1e-1", "0.1", 0.1])
def test_a_number_that_yaml_reads_as_text_is_a_number(load, value):
    mixing = resolved(load(f"mixing: {{mix: transmix, attention_weight: {value}}}")).mixing
    assert mixing.labels_options["weight"] == 0.1
    whole = resolved(load("mixing: {mix: transmix, attention_weight: 1}")).mixing.labels_options["weight"]
    assert (whole, type(whole)) == (1.0, float)


@pytest.mark.parametrize("value", ["abc", "true", "[0.5]"])
def test_a_setting_of_a_rule_that_is_no_number_is_named(load, value):
    recipe = load(f"mixing: {{mix: transmix, labels_options: {{weight: {value}}}}}")
    with pytest.raises(RecipeError, match="labels: weight must be a number, not"):
        check_recipe(replace(recipe, data=replace(recipe.data, data="digits")))

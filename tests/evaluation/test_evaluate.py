import json
import math

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from transmix.evaluation.evaluate import evaluate

CLASSES, HEIGHT, WIDTH = 7, 4, 6


def small_model():
    torch.manual_seed(0)
    layers = nn.BatchNorm2d(3), nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * HEIGHT * WIDTH, CLASSES)
    return nn.Sequential(*layers)


def data(samples=23):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (samples, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8)
    return images, torch.randint(CLASSES, (samples,), generator=generator)


def in_batches(images, labels, sizes):
    return [(i, y, None) for i, y in zip(images.split(sizes), labels.split(sizes), strict=True)]


def normalise(images):
    return images.float() / 127.5 - 1


def score(model, batches, **changes):
    return evaluate(model, batches, CLASSES, "cpu", **{"normalise": normalise, **changes})


def assert_same(ours, theirs, tolerance=1e-6):
    assert ours.keys() == theirs.keys()
    assert torch.as_tensor(ours["confusion"]).equal(torch.as_tensor(theirs["confusion"]))
    for part, values in theirs["reliability"].items():
        assert ours["reliability"][part] == pytest.approx(values, abs=1e-5), part
    for name, value in theirs.items():
        assert name in ("confusion", "reliability") or ours[name] == pytest.approx(value, abs=tolerance, nan_ok=True), (
            name
        )


def test_scores_are_those_of_the_model_in_evaluation_mode():
    model, (images, labels) = small_model(), data()
    scores = score(model, in_batches(images, labels, [10, 1, 12]))
    with torch.no_grad():
        logits = model.eval()(normalise(images))
    assert scores["images"] == 23
    assert scores["nonfinite_logits"] == 0
    assert scores["top1"] == pytest.approx((logits.argmax(1) == labels).double().mean().item(), abs=1e-6)
    assert scores["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), abs=1e-6)
    assert set(scores) == {
        "images",
        "loss",
        "nonfinite_logits",
        "top1",
        "top5",
        "calibration_error",
        "reliability",
        "per_class_accuracy",
        "confusion",
    }


def test_uneven_batches_give_the_result_of_one_batch():
    model, (images, labels) = small_model(), data()
    assert_same(score(model, in_batches(images, labels, [1, 19, 3])), score(model, in_batches(images, labels, [23])))


def test_padding_rows_are_left_out():
    model, (images, labels) = small_model(), data(10)
    padded = torch.cat([images, images[:3]])
    padded_labels = torch.cat([labels, torch.full((3,), -1)])
    valid = torch.arange(13) < 10
    mixed_up = torch.randperm(13, generator=torch.Generator().manual_seed(2))
    all_padding = (images[:3], torch.full((3,), -1), torch.zeros(3, dtype=torch.bool))
    batches = [(padded[mixed_up], padded_labels[mixed_up], valid[mixed_up]), all_padding]
    assert_same(score(model, batches), score(model, in_batches(images, labels, [10])))


def test_counting_the_padding_would_give_another_result():
    model, (images, labels) = small_model(), data(10)
    padded, padded_labels = torch.cat([images, images[:3]]), torch.cat([labels, labels[:3]])
    ours = score(model, [(padded, padded_labels, torch.arange(13) < 10)])
    assert ours["images"] == 10
    assert score(model, [(padded, padded_labels, None)])["loss"] != pytest.approx(ours["loss"], abs=1e-4)


def test_every_module_returns_to_its_own_mode():
    model = small_model().train()
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score(model, in_batches(*data(), [23]))
    assert [module.training for module in model] == [False, True, True, True]
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_modes_return_also_when_a_metric_raises_and_somebody_keeps_the_error():
    model = small_model().train()
    with pytest.raises(ValueError, match=r"expected logits \(B, 8\)") as kept:
        evaluate(model, in_batches(*data(), [23]), 8, "cpu", normalise=normalise)
    assert not torch.is_inference_mode_enabled()
    assert all(module.training for module in model.modules())
    assert kept.tb is not None  # the frames, and with them whatever they hold, are still alive


def test_modes_return_also_when_a_batch_raises():
    model = small_model().train()

    def broken():
        yield from in_batches(*data(), [23])
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        score(model, broken())
    assert all(module.training for module in model.modules())


def test_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    model, batches = small_model(), in_batches(*data(), [23])
    torch.set_rng_state(before)
    score(model, batches)
    assert torch.equal(before, torch.get_rng_state())


def test_autocast_reaches_the_model_only_when_asked():
    seen = []
    model = small_model()
    model[3].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    batches = in_batches(*data(), [23])
    plain, mixed = score(model, batches), score(model, batches, amp_dtype=torch.bfloat16)
    assert seen == [torch.float32, torch.bfloat16]
    assert mixed["loss"] == pytest.approx(plain["loss"], abs=0.02)


def test_float_images_pass_through_normalise_too():
    model, (images, labels) = small_model(), data()
    as_float = in_batches(images / 255, labels, [23])
    ours = score(model, as_float, normalise=lambda x: 2 * x - 1)
    assert_same(ours, score(model, in_batches(images, labels, [23])), tolerance=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_an_empty_evaluation_set_is_refused(padded):
    images, labels = data(4)
    batches = [(images, labels, torch.zeros(4, dtype=torch.bool))] if padded else []
    with pytest.raises(ValueError, match="nothing to evaluate"):
        score(small_model(), batches)


def test_images_left_as_integers_are_refused():
    with pytest.raises(TypeError, match="normalise must give floating point"):
        score(small_model(), in_batches(*data(), [23]), normalise=lambda x: x)


def test_a_model_with_another_number_of_classes_is_refused():
    with pytest.raises(ValueError, match=r"expected logits \(B, 8\)"):
        evaluate(small_model(), in_batches(*data(), [23]), 8, "cpu", normalise=normalise)


def test_a_mask_that_does_not_fit_is_refused():
    images, labels = data(4)
    with pytest.raises(ValueError, match="expected valid"):
        score(small_model(), [(images, labels, torch.ones(3, dtype=torch.bool))])


def test_a_model_that_gives_nan_has_no_loss_and_no_right_answer():
    scores = score(small_model(), in_batches(*data(), [23]), normalise=lambda x: x.float() * math.nan)
    assert scores["nonfinite_logits"] == 23
    assert math.isnan(scores["loss"])
    assert math.isnan(scores["calibration_error"])
    assert scores["top1"] == scores["top5"] == 0


class Wrapped(DistributedDataParallel):
    """A DDP wrapper without processes, whose forward would wait for the other ranks."""

    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module

    def forward(self, images):
        raise AssertionError("ranks with different numbers of batches would wait for each other here")


def test_the_forward_of_the_ddp_wrapper_is_not_used():
    model, batches = small_model(), in_batches(*data(), [23])
    assert_same(score(Wrapped(model), batches), score(model, batches))


RANK = """
    import json, sys
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    from test_evaluate import data, in_batches, score, small_model

    rank, folder = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = small_model().train()
    images, labels = data()
    shares = (images[:18], labels[:18], [5, 1, 12]), (images[18:], labels[18:], [5])
    result = {
        "uneven": score(model, in_batches(*shares[rank])),
        "one rank without a batch": score(model, in_batches(images, labels, [20, 3]) if rank else []),
    }
    try:
        score(model, [])
    except ValueError as error:
        result["empty"] = str(error)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump(result, file, default=lambda counts: counts.tolist())
    dist.destroy_process_group()
"""


def test_two_processes_give_the_result_of_one_with_uneven_shares_and_with_none(two_processes, tmp_path):
    two_processes(RANK)
    alone = score(small_model(), in_batches(*data(), [23]))
    for rank in range(2):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert_same(result["uneven"], alone)
        assert_same(result["one rank without a batch"], alone)
        assert "nothing to evaluate" in result["empty"]

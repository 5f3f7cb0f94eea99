"""Every script runs at a tiny size, prints its table and writes its rows. Times are not looked at."""

import json
import sys

import pytest

from transmix.methods import NAMED

TINY = {
    "step_overhead": ["--cases", "vit_tiny_patch16_224:2", "--side", "32"],
    "mixing": ["--batches", "4", "--side", "16", "--classes", "5", "--calls", "1"],
    "loss": ["--batch", "4", "--classes", "10", "--calls", "1", "--dtypes", "float32", "bf16"],
    "methods": ["--model", "vit_tiny_patch16_224", "--batch", "2", "--side", "64"],
    "pipeline": ["--images", "4", "--batch", "4", "--side", "16", "--stored", "20", "24"],
    "evaluation": [
        "--images", "4", "--batch", "4", "--stored", "20", "24", "--workers", "0", "--model", "vit_tiny_patch16_224",
    ],
    "on_device": ["--images", "4", "--batch", "2", "--size", "8"],
    "scaling": [
        "--depth", "1", "--classes", "3", "5", "--tokens", "4", "--batches", "2", "--processes",
    ],
    "gpu_step": [
        "--device", "cpu", "--side", "32", "--batch", "2", "--steps", "1", "--matrix", "16", "--kernels", "3",
        "--model", "vit_tiny_patch16_224",
    ],
}  # fmt: skip


@pytest.fixture
def rows_of(script, tmp_path, capsys):
    """Run a benchmark at its tiny size and give its rows by (case, variant)."""

    def run(name):
        path = tmp_path / "out.json"
        script(name).main([*TINY[name], "--rounds", "2", "--threads", "1", "--json", str(path)])
        found = json.loads(path.read_text())
        assert found["benchmark"] == name
        printed = capsys.readouterr().out
        for row in found["rows"]:
            assert row["case"] in printed
            assert row["variant"] in printed
            assert all(low <= high for low, high in [row.get("ratio_quartiles", (0, 1))])
            if "peer" in row and row["variant"] == row["peer"]:
                assert row["ratio"] == 1
        return {(row["case"], row["variant"]): row for row in found["rows"]}

    return run


def test_step_overhead(rows_of):
    rows = rows_of("step_overhead")
    case = "vit_tiny_patch16_224 batch 2"
    assert list(rows) == [(case, way) for way in ("none", "cutmix", "transmix", "last unfused", "reference")]
    ratios = {way: row["memory_ratio"] for (_, way), row in rows.items()}
    assert ratios["cutmix"] == 1
    assert ratios["transmix"] == pytest.approx(1, abs=0.005)
    assert ratios["reference"] > ratios["last unfused"] > ratios["transmix"]
    assert rows[case, "none"]["over_none"] == 1


def test_app_answer(script, tmp_path, capsys):
    script("app_answer").main(["--boxes", "2", "--json", str(tmp_path / "out.json")])
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == ["the row that TransMix reads", "the first layer's heads"]
    said = capsys.readouterr().out
    assert all(row["variant"] in said and row["median_ms"] > 0 for row in rows)


def test_step_overhead_refuses_to_leave_out_what_it_compares_with(script, capsys):
    with pytest.raises(SystemExit):
        script("step_overhead").main(["--ways", "transmix"])
    assert "--ways must include cutmix" in capsys.readouterr().err


def test_methods(rows_of):
    rows = rows_of("methods")
    assert [way for _, way in rows] == ["cutmix", "transmix", *NAMED]
    bounds = {way: round(row["bound"], 2) for (_, way), row in rows.items()}
    assert (bounds["cutmix"], bounds["tlalign"], bounds["smmix"]) == (1.1, 1.1, 1.47)
    assert all(row["memory_ratio"] > 0.9 for row in rows.values())


def test_mixing(rows_of):
    rows = rows_of("mixing")
    cases = [f"{method} {mode}, batch 4" for mode in ("batch", "elem") for method in ("cutmix", "mixup")]
    assert list(dict.fromkeys(case for case, _ in rows)) == cases
    assert {variant for _, variant in rows} == {"transmix", "transmix + dense", "timm", "timm, copy", "torchvision"}


def test_on_device(rows_of):
    rows = rows_of("on_device")
    cases = [f"{kind}, 8 pixels, 0 workers" for kind in ("digits", "cifar", "resized", "resized+colour")]
    assert list(rows) == [(case, way) for case in cases for way in ("loader", "on device")]


def test_loss(rows_of):
    rows = rows_of("loss")
    assert {case for case, _ in rows} == {"10 classes, batch 4, float32", "10 classes, batch 4, bf16"}
    assert all(row["peak_mb"] > 0 for row in rows.values())


def test_all_losses_give_the_same_gradient(script):
    import torch

    loss = script("loss")
    logits = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradients = {name: run() for name, run in loss.variants(logits, loss.mixed_labels(6, 9, "cpu")).items()}
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, gradients["timm"], atol=1e-6), name


def test_the_loss_holds_at_least_a_third_less_than_dense_targets_over_21841_classes(script, tmp_path):
    path = tmp_path / "out.json"
    script("loss").main(["--batch", "2", "--classes", "21841", "--calls", "1", "--rounds", "2", "--json", str(path)])
    ratios = {row["variant"]: row["memory_ratio"] for row in json.loads(path.read_text())["rows"]}
    assert ratios["transmix"] <= 1 / 1.5
    assert ratios["torch"] > 1 / 1.5


def test_pipeline(rows_of):
    rows = rows_of("pipeline")
    stages = ["stage read", "stage decode", "stage augment", "stage collate", "stage normalise"]
    loaders = [f"{kind} loader, 0 workers" for kind in ("synthetic", "cached", "full")]
    assert list(dict.fromkeys(case for case, _ in rows)) == stages + loaders
    assert all(row["images_per_second"] > 0 for row in rows.values())
    for (case, _), row in rows.items():  # a whole number of cores, and one fewer would not do
        if "loader" in case:
            cores = row["cores_for_8000"]
            assert (cores - 1) * row["images_per_second"] < 8000 <= cores * row["images_per_second"]


def test_evaluation(rows_of):
    assert list(rows_of("evaluation")) == [("vit_tiny_patch16_224, batch 4", "transmix")]


def test_all_normalisations_give_the_same_pixels(script):
    import torch

    pipeline = script("pipeline")
    images = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = (torch.tensor(values).mul(255)[:, None, None] for values in (pipeline.MEAN, pipeline.STD))
    ours = pipeline.normaliser(pipeline.MEAN, pipeline.STD, torch.device("cpu"), channels_last=False)(images)
    assert torch.allclose(ours, pipeline.timm_normalise(images, mean, std), atol=1e-5)


def test_scaling(rows_of):
    rows = rows_of("scaling")
    assert list(dict.fromkeys(case for case, _ in rows)) == ["3 classes", "5 classes", "4 tokens", "2 batch"]


@pytest.fixture
def scaling_arguments(script):
    flags = {"device": "cpu", "threads": 1, "rounds": 2, "steps": 1, "model": "vit_tiny_patch16_224", "depth": 1}
    return script("scaling").Namespace(**flags, classes=[3], tokens=[1], batches=[2], json=None)


def test_one_of_several_processes_trains_and_the_first_writes_its_times(
    script, scaling_arguments, tmp_path, monkeypatch
):
    monkeypatch.setenv("RANK", "0")
    shared = {"meet": str(tmp_path / "meet"), "times": str(tmp_path / "times"), "size": 1}
    script("scaling").main(["--process", json.dumps({**vars(scaling_arguments), **shared})])
    times = json.loads((tmp_path / "times").read_text())
    assert {name: len(found) for name, found in times.items()} == {"cutmix": 2, "transmix": 2, "reference": 2}


def fake_python(folder, text):
    """Write a program that stands in for Python: it is given a script's command line and does `text` instead."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_times_of_several_processes_are_those_of_the_first(script, scaling_arguments, tmp_path, monkeypatch):
    scaling = script("scaling")
    writes = """
shared, rank = json.loads(sys.argv[3]), os.environ["RANK"]
open(shared["meet"] + rank, "w").close()
if rank == "0": json.dump({"cutmix": [shared["size"]]}, open(shared["times"], "w"))
"""
    monkeypatch.setattr(scaling.sys, "executable", fake_python(tmp_path, writes))
    assert scaling.in_processes(scaling_arguments, 3) == {"cutmix": [3]}


def test_a_process_that_fails_is_an_error_with_its_last_words(script, scaling_arguments, tmp_path, monkeypatch):
    scaling = script("scaling")
    fails = 'print("out of luck") if os.environ["RANK"] == "1" else None\nsys.exit(int(os.environ["RANK"]))'
    monkeypatch.setattr(scaling.sys, "executable", fake_python(tmp_path, fails))
    with pytest.raises(SystemExit, match="out of luck"):
        scaling.in_processes(scaling_arguments, 2)


def test_gpu_step(rows_of):
    rows = rows_of("gpu_step")
    cases = [case for case, _ in rows]
    assert list(dict.fromkeys(cases)) == ["matrix rate", "step, batch 2", "parts", "kernels"]
    assert cases.count("parts") == 5
    assert all(row["share"] > 0 for row in rows.values() if row["case"] in ("parts", "kernels"))
    assert all(row["mfu"] > 0 for row in rows.values() if row["case"].startswith("step"))


def test_flops_are_what_the_model_multiplies(script):
    # DeiT-Tiny at 32 pixels: 4 patches and the class token, width 192, 12 blocks, 1,000 classes; forward times 3, but
    # no gradient goes to the images.
    width, tokens, blocks = 192, 5, 12
    patches = 4 * 3 * 16 * 16 * width
    block = 12 * tokens * width**2 + 2 * tokens**2 * width
    forward = 2 * (patches + blocks * block + width * 1000)
    assert script("gpu_step").flops_per_image("deit_tiny_patch16_224", 32) == 3 * forward - 2 * patches


def test_gpu_step_skips_where_there_is_no_gpu(script, monkeypatch, capsys):
    gpu_step = script("gpu_step")
    monkeypatch.setattr(gpu_step.torch.cuda, "is_available", lambda: False)
    gpu_step.main([])
    assert capsys.readouterr().out.startswith("skipped: torch sees no CUDA device")


def test_all_runs_what_it_is_told_and_prints_one_table(script, tmp_path, monkeypatch, capfd):
    everything = script("all")
    row = {"case": "10 classes", "peer": "timm", "median_ms": 1.5}
    rows = [row | {"variant": "transmix", "ratio": 0.5, "memory_ratio": 2.0}, row | {"variant": "timm", "ratio": 1.0}]
    writes = f"""
path = sys.argv[sys.argv.index("--json") + 1]
json.dump({{"benchmark": "loss", "rows": {rows}}}, open(path, "w")) if "loss" in sys.argv[1] else sys.exit(3)
"""
    monkeypatch.setattr(everything.sys, "executable", fake_python(tmp_path, writes))
    monkeypatch.setattr(everything, "CPU", {"loss": [], "mixing": []})
    (tmp_path / "mixing_cpu.json").write_text("left over from an older run")
    everything.main(["--out", str(tmp_path)])
    printed = capfd.readouterr().out
    assert "== mixing: FAILED with exit code 3" in printed
    assert printed.endswith("== all\nloss: 10 classes: transmix x0.500 mem x2.00; timm 1.5 ms\n")


def test_all_stops_a_script_and_its_processes_in_time(script, tmp_path, monkeypatch, capfd):
    everything = script("all")
    sleeps = "import subprocess\nsubprocess.run(['sleep', '60'])"
    monkeypatch.setattr(everything.sys, "executable", fake_python(tmp_path, sleeps))
    monkeypatch.setattr(everything, "LEAST", 0)
    everything.run_all({"loss": []}, {"loss": tmp_path / "loss.json"}, minutes=0.3 / 60)
    assert "== loss: stopped, the time is up after 0 s" in capfd.readouterr().out


def test_all_starts_nothing_when_the_time_is_up(script, tmp_path, capsys):
    script("all").run_all({"loss": []}, {"loss": tmp_path / "loss.json"}, minutes=0)
    assert "== loss: not run, the 0 minutes are up" in capsys.readouterr().out

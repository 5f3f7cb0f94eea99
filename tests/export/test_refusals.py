"""What cannot be exported or loaded is said in one line, and nothing is left behind."""

import json
import shutil

import pytest
from safetensors.torch import save_file

from transmix.cli import main
from transmix.export.error import ExportError
from transmix.export.write import export_run, write_export
from transmix.models.loaded import load_model


def complaint(capsys, *arguments):
    assert main(["export", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("transmix: ")


def test_a_folder_with_something_in_it_is_refused_and_left_as_it_is(run, tmp_path, capsys):
    (tmp_path / "note.txt").write_text("mine")
    says = "exists already; give another --out, or remove it first"
    assert complaint(capsys, run, "--out", tmp_path) == f"{tmp_path} {says}"
    assert complaint(capsys, run, "--out", tmp_path / "note.txt") == f"{tmp_path / 'note.txt'} {says}"
    assert (tmp_path / "note.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert main(["export", str(run), "--out", str(tmp_path / "empty")]) == 0
    assert len(list((tmp_path / "empty").iterdir())) == 3


def test_what_is_not_a_run_is_named(tmp_path, capsys):
    assert complaint(capsys, tmp_path / "absent") == f"{tmp_path / 'absent'}: no such run folder"
    assert complaint(capsys, tmp_path) == f"{tmp_path} is no run (no recipe.yaml)"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "recipe.yaml").touch()
    assert complaint(capsys, tmp_path) == f"{tmp_path} holds no whole checkpoint."
    assert complaint(capsys, tmp_path, "--checkpoint", "best") == f"{tmp_path} has no evaluated checkpoint."
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("format", "package"), [("huggingface", "transformers"), ("onnx", "onnxscript"), ("onnx", "onnxruntime")]
)
def test_a_missing_package_is_named_with_its_extra(format, package, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("transmix.export.write.find_spec", lambda name: None if name == package else name)
    line = complaint(capsys, run, "--out", tmp_path / "out", "--format", "timm", format)
    assert line == f"{package} is not installed: pip install 'transmix[{format}]', or leave --format {format} out"
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_answered_with_those_there_are(run, tmp_path, capsys):
    assert "invalid choice 'coreml'" in complaint(capsys, run, "--format", "coreml")
    with pytest.raises(ExportError, match="formats are timm, huggingface, onnx, one or more, not none"):
        export_run(run, tmp_path / "out", [])


@pytest.fixture
def run_without_ema(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    for folder in (copy / "checkpoints").iterdir():
        (folder / "ema.safetensors").unlink()
        manifest = json.loads((folder / "manifest.json").read_text())
        del manifest["ema.safetensors"]
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    return copy


def test_a_run_without_an_ema_gives_its_model_unless_the_ema_is_asked_for(run_without_ema, capsys):
    run = run_without_ema
    assert load_model(run).name == "model"
    assert complaint(capsys, run, "--weights", "ema") == (
        f"{run} has no EMA (ema_decay was not set); use --weights model"
    )
    assert not (run / "export").exists()


def test_a_damaged_checkpoint_is_not_exported(run_without_ema, capsys):
    for folder in (run_without_ema / "checkpoints").iterdir():
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\xff")
    line = complaint(capsys, run_without_ema)
    assert "holds no whole checkpoint. " in line
    assert "model.safetensors is damaged" in line


def test_weights_that_do_not_give_the_logits_are_not_left_behind(run, tmp_path, monkeypatch, capsys):
    def save_changed(tensors, path, metadata):
        tensors["head.bias"][0] += 0.01
        save_file(tensors, path, metadata)

    monkeypatch.setattr("transmix.export.timm.save_file", save_changed)
    line = complaint(capsys, run, "--out", tmp_path / "out")
    assert line.startswith("transmix gives other logits for the export than the run's model (they differ by 0.0")
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_cannot_open_the_files_is_named(run, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such\nmodel")

    trained = load_model(run)
    monkeypatch.setattr("transmix.export.timm.load_model", lambda _: trained)
    monkeypatch.setattr("timm.create_model", fail)
    with pytest.raises(ExportError, match=r"^timm cannot open the export: no such model\. Leave this format out$"):
        write_export(trained, tmp_path / "out", ["timm"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError("No space left on device")])
def test_what_stops_half_way_leaves_nothing(failure, run, tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise failure

    monkeypatch.setattr("transmix.export.write.card", stop)
    interrupted = failure is KeyboardInterrupt
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == (130 if interrupted else 2)
    if not interrupted:
        says = f"transmix: cannot write {tmp_path / 'out'}: No space left on device\n"
        assert capsys.readouterr().err == says
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_torch_cannot_write_is_named(run, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no such\noperator")

    monkeypatch.setattr("torch.onnx.export", fail)
    with pytest.raises(ExportError, match=r"^torch cannot write vit_tiny_patch16_224 as ONNX: no such operator$"):
        write_export(load_model(run), tmp_path / "out", ["onnx"])
    assert list(tmp_path.iterdir()) == []

"""A checkpoint is whole or not there, and whatever damages it is found and named."""

import json

import pytest
import torch

from transmix.runs.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    newest_checkpoint,
    read_tensors,
    remove_old_checkpoints,
    save_checkpoint,
    verify_checkpoint,
)


def checkpoint(step):
    tensors = {
        "model": {"weight": torch.full((2, 3), float(step)), "count": torch.tensor(step)},
        "optimizer": {"weight|exp_avg": torch.randn(3, 2).T, "weight|step": torch.tensor(1.0)},
        "random-0": {"cpu": torch.get_rng_state()},
    }
    return Checkpoint(tensors, {"step": step, "best": None}, {"transmix": '{"model": "x"}'})


def test_what_was_saved_is_loaded_bit_for_bit(tmp_path):
    saved = checkpoint(3)
    folder = save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(folder)
    assert folder.name == "step-00000003"
    assert loaded.state == saved.state
    assert loaded.metadata == saved.metadata
    for stem, tensors in saved.tensors.items():
        assert all(loaded.tensors[stem][name].equal(tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "random-0.safetensors", "state.json", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "zeroed", "one bit"])
def test_damage_to_any_file_is_found_and_the_older_checkpoint_is_taken(name, damage, tmp_path):
    older, newer = (save_checkpoint(tmp_path, checkpoint(step)) for step in (1, 2))
    path, content = newer / name, (newer / name).read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "zeroed":
            path.write_bytes(bytes(len(content)))
        case "one bit":
            # In the manifest: in a checksum, where it still is JSON.
            at = content.index(b"sha256") + 12 if name == "manifest.json" else len(content) // 2
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(CheckpointError, match="step-00000002"):
        verify_checkpoint(newer)
    found, problems = newest_checkpoint(tmp_path)
    assert found == older
    assert len(problems) == 1


def test_a_save_that_broke_off_leaves_no_checkpoint(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, checkpoint(1))
    monkeypatch.setattr("transmix.runs.checkpoint._fsync", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, checkpoint(2))
    assert newest_checkpoint(tmp_path)[0] == tmp_path / "step-00000001"
    monkeypatch.undo()
    remove_old_checkpoints(tmp_path, keep=1, best_step=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_old_checkpoints_go_and_the_best_stays(tmp_path):
    for step in range(1, 7):
        save_checkpoint(tmp_path, checkpoint(step))
    remove_old_checkpoints(tmp_path, keep=2, best_step=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000005", "step-00000006"]


def test_saving_over_a_damaged_checkpoint_sets_it_aside(tmp_path):
    folder = save_checkpoint(tmp_path, checkpoint(1))
    (folder / "model.safetensors").write_bytes(b"")
    save_checkpoint(tmp_path, checkpoint(1))
    verify_checkpoint(folder)
    assert len(list(tmp_path.glob("damaged-step-00000001-*"))) == 1


def test_a_pickle_under_a_safetensors_name_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=r"cannot read .*model\.safetensors"):
        read_tensors(path)


def test_the_manifest_names_every_other_file(tmp_path):
    folder = save_checkpoint(tmp_path, checkpoint(1))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest) == {path.name for path in folder.iterdir()} - {"manifest.json"}

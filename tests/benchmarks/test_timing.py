import json
from pathlib import Path
from statistics import median

import pytest

ROW_KEYS = {"case", "variant", "peer", "median_ms", "quartiles_ms", "ratio", "ratio_quartiles"}


def test_variants_take_turns_and_each_is_first_as_often(script):
    called = []
    variants = {name: lambda name=name: called.append(name) for name in "abc"}
    times = script("timing").take_turns(variants, 3, calls=2, warm_up=1)
    assert "".join(called) == "abc" + "aabbcc" + "bbccaa" + "ccaabb"
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_time_is_that_of_one_call(script, monkeypatch):
    timing = script("timing")
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def run():
        clock[0] += 3.0

    assert timing.seconds(run, calls=4) == 3.0


def test_ratios_are_taken_round_by_round_and_not_between_medians(script):
    times = {"peer": [1.0, 2.0, 10.0], "mine": [2.0, 2.0, 30.0]}
    mine = script("timing").rows("case", times, "peer")[1]
    assert mine["ratio"] == 2.0  # of 2, 1 and 3; the medians' own is 1
    assert mine["ratio_quartiles"] == [1.5, 2.5]
    assert mine["median_ms"] == 2000.0
    assert median(times["mine"]) / median(times["peer"]) == 1.0


def test_quartiles_lie_within_what_was_measured_also_of_two_rounds(script):
    middle, (low, high) = script("timing").spread([1.0, 2.0])
    assert 1 <= low <= middle <= high <= 2


def test_a_report_prints_a_table_and_writes_all_rows_with_where_they_come_from(script, tmp_path, capsys):
    timing = script("timing")
    path = tmp_path / "new" / "out.json"
    arguments = timing.parse(timing.flags("text", rounds=3), ["--json", str(path)], {})
    report = timing.Report("benchmarks/some.py", arguments, ["--rounds", "3"])
    made = timing.rows("one case", {"peer": [1.0, 1.0], "mine": [1.5, 1.5]}, "peer")
    report.add([row | {"peak_mb": 12.34} for row in made], {"peak_mb": ".1f"})
    report.add(timing.rows("other case", {"peer": [1.0, 2.0]}, "peer"))
    found = json.loads(path.read_text())
    assert (found["benchmark"], found["command"]) == ("some", "python benchmarks/some.py --rounds 3")
    assert found["settings"]["rounds"] == 3
    assert {"device", "cores", "threads", "load_at_start", "system", "python", "versions", "commit"} <= found.keys()
    assert [row["case"] for row in found["rows"]] == ["one case", "one case", "other case"]
    assert found["rows"][0].keys() == ROW_KEYS | {"peak_mb"}
    printed = capsys.readouterr().out
    assert "one case  mine     1500.0  1.500  1.500-1.500     12.3" in printed


def test_of_folders_a_report_keeps_the_names(script, tmp_path):
    timing = script("timing")
    words = ["--data", str(tmp_path / "PETS"), "--json", str(tmp_path / "out.json")]
    parser = timing.flags("text", rounds=3)
    parser.add_argument("--data", type=Path)
    report = timing.Report("benchmarks/some.py", timing.parse(parser, words, {}), words)
    assert report.about["command"] == "python benchmarks/some.py --data PETS --json out.json"
    assert report.about["settings"]["data"] == "PETS"


def test_gpu_sizes_are_defaults_that_other_flags_win_over(script, monkeypatch):
    timing = script("timing")
    monkeypatch.setattr(timing.torch.cuda, "is_available", lambda: True)
    parser = timing.flags("text", rounds=3)
    parser.add_argument("--batch", type=int, default=1)
    found = timing.parse(parser, ["--gpu", "--rounds", "7"], {"batch": 256, "rounds": 9})
    assert (found.device, found.batch, found.rounds) == ("cuda", 256, 7)


@pytest.mark.parametrize(
    ("words", "said"), [(["--gpu"], "torch sees no CUDA device"), (["--rounds", "1"], "--rounds must be at least 2")]
)
def test_what_cannot_be_measured_is_a_usage_error(script, capsys, monkeypatch, words, said):
    timing = script("timing")
    monkeypatch.setattr(timing.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        timing.parse(timing.flags("text", rounds=3), words, {})
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err

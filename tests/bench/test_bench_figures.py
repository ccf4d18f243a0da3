"""What is reckoned from the measured turns, and how it is told."""

from __future__ import annotations

import copy
from pathlib import Path

import bench_outputs as outputs
import pytest

from featherweight import config
from featherweight.augment.specification import validate
from featherweight.bench import equal, predict, speed, table, time_to
from featherweight.bench.speed import forms, summarise, turn_size
from featherweight.bench.time_to import summarise as summarise_runs
from featherweight.utils import UserError


def test_a_ratio_is_taken_turn_by_turn_and_not_between_medians() -> None:
    plain, ours, none = outputs.speed_output()["networks"][0]["loops"]
    assert plain["images_per_second"] == 100.0
    assert ours["images_per_second"] == 400.0
    assert plain["ratio"] == {"min": 1.0, "median": 1.0, "max": 1.0}
    assert ours["ratio"] == pytest.approx({"min": 4.0, "median": 4.5, "max": 5.0})  # 4, 5 and 4.5
    assert none["images_per_second"] == 500.0


def test_operations_are_six_for_each_multiply_add() -> None:
    plain, ours, _ = outputs.speed_output()["networks"][0]["loops"]
    assert plain["flops_per_second"] == 50e6 * 6 * 100
    assert ours["of_matrix_product"] == pytest.approx({"fp32": 0.5, "bf16": 0.25})  # 120 G of 240 G and of 480 G


def test_the_cost_of_augmentation_is_what_going_without_saves() -> None:
    plain, ours, none = outputs.speed_output()["networks"][0]["loops"]
    # 400, 600 and 360 pictures a second against 500, turn by turn
    assert ours["augmentation_cost"] == pytest.approx({"min": -0.2, "median": 0.2, "max": 0.28})
    assert none["augmentation_cost"] == {"min": 0, "median": 0, "max": 0}
    assert plain["augmentation_cost"] is None
    without = copy.deepcopy(outputs.RAW_NETWORK)
    without["loops"] = without["loops"][:2]
    assert summarise(without, outputs.PRODUCT)["loops"][1]["augmentation_cost"] is None


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (1000.0, (1000, 1)),
        (1130.0, (1250, 1)),
        (3.0, (250, 1)),  # at least a batch
        (49_990.0, (50_000, 1)),
        (70_000.0, (50_000, 1)),
        (160_000.0, (50_000, 3)),
    ],
)
def test_a_turn_is_of_whole_batches_and_whole_passes(wanted: float, expected: tuple[int, int]) -> None:
    assert turn_size(wanted, 250, 50_099) == expected


def test_each_recipe_gets_the_forms_that_suit_it() -> None:
    def of(recipe: str, *asked: str) -> list[str]:
        return forms(config.resolve(recipe, {}), asked)

    assert of("feather_quick") == ["full size", "recipe"]
    assert of("separable_100k") == ["albumentations", "batched"]
    assert of("dilated_160k_ours") == ["recipe"]
    assert of("separable_100k", "none", "batched", "none") == ["none", "batched"]
    with pytest.raises(UserError, match="no form 'fastest'"):
        of("feather_quick", "fastest")
    with pytest.raises(UserError, match="no small pictures"):
        of("separable_100k", "full size")


def test_every_form_is_a_change_the_configuration_takes() -> None:
    for name, changes in speed.FORMS.items():
        changed = config.resolve("feather_quick", changes)
        for key, value in changes.items():
            assert config.get(changed, key) == value, name
        validate(changed.augment, 32, 32)


def test_a_target_is_met_by_the_mean_and_each_run_is_told() -> None:
    runs = [outputs.run(0, 0.849, 100.0, 0.85), outputs.run(1, 0.853, 110.0, 0.85)]
    assert [run["met"] for run in runs] == [False, True]
    found = summarise_runs(runs, 0.85)
    assert found["met"]
    assert found["runs_that_met"] == 1
    assert found["train_seconds"] == {"min": 100.0, "mean": 105.0, "max": 110.0}
    assert found["accuracy_deviation"] == pytest.approx(0.002 * 2**0.5)
    assert not summarise_runs([*runs, outputs.run(2, 0.84, 90.0, 0.85)], 0.85)["met"]
    assert runs[0]["flops_per_second"] == 2e11


def test_latencies_and_rates_of_inference() -> None:
    found = predict.figures([[0.010] * 90 + [0.050] * 10, [0.020] * 100], 4)
    assert found["images_per_second"] == pytest.approx((4 / 0.014 + 4 / 0.020) / 2)
    assert found["latency_median"] == 0.020
    assert found["latency_95"] == 0.020
    assert predict.figures([[0.010] * 9 + [0.050]], 1)["latency_95"] == 0.050
    assert predict.agreement([1, 2, 3, 4], [1, 2, 3, 5]) == 0.75


def test_the_markdown_of_training_speed() -> None:
    lines = table.speed_table(outputs.speed_output()).split("\n")
    assert " at commit " not in lines[-1]
    dated = outputs.speed_output() | {"commit": "0123456789abcdef+changes"}
    assert "--model separable_100k` at commit 0123456789+changes on " in table.speed_table(dated)
    assert lines[0].startswith("| network | training loop | images/s | ratio |")
    assert lines[1] == "|---|---|---:|---:|---:|---:|---:|---:|"
    assert lines[2] == "| separable_100k | plain loop, fp32 | 100 | 1 | 1.50 GB | 30 | 12 % | 6.2 % |"
    assert lines[3] == ("|  | ours, batched, bf16 | 400 | **4.50 (4.00–5.00)** | 0.90 GB | 120 | 50 % | 25 % |")
    remarks = lines[-1]
    assert "240 GFLOP/s in fp32, 480 in bf16" in remarks
    assert "separable_100k, batched: 20.0 % (-20.0 – 28.0)" in remarks
    assert "this project's own fused operations" in remarks
    assert "`featherweight bench --model separable_100k` on cpu Abacus 2, 2 cores, 2 threads" in remarks
    assert "other processes took 2.1 % of the processors' time, the host's other guests 0.4 %" in remarks


def test_a_difference_counts_only_beyond_the_noise() -> None:
    def runs(*accuracies: float) -> list[dict]:
        return [{"precision": "fp32", "accuracy": accuracy, "seconds": 1.0} for accuracy in accuracies]

    plain, ours, _ = outputs.equal_output()["networks"][0]["loops"]
    assert "difference" not in plain
    assert ours["difference"] == pytest.approx(0.02 / 6)
    # By hand: s² 0.0001 and 0.000233, standard error sqrt(0.000333/3) = 0.01054, Welch's freedom 3.45, t 2.96
    assert ours["difference_interval"] == pytest.approx([0.00333 - 0.0312, 0.00333 + 0.0312], abs=2e-4)
    assert ours["within_noise"]
    _, worse = equal.compare({"plain loop": runs(0.60, 0.61, 0.62), "batched": runs(0.50, 0.51, 0.52)})
    assert not worse["within_noise"]
    assert worse["difference_interval"][1] < -0.05
    _, wider = equal.compare({"plain loop": runs(0.60, 0.61, 0.62), "batched": runs(0.50, 0.51, 0.52)}, 4)
    assert wider["difference_interval"][0] < worse["difference_interval"][0]
    _, one_sided = equal.compare({"plain loop": runs(0.6, 0.6), "batched": runs(0.59, 0.61)})
    assert one_sided["within_noise"]
    _, same = equal.compare({"plain loop": runs(0.6, 0.6), "batched": runs(0.6, 0.6)})
    assert (same["difference_interval"], same["within_noise"]) == ([0, 0], True)


def test_what_is_compared_differs_in_nothing_but_what_makes_it_fast() -> None:
    for model in equal.MODELS:
        base = speed.base_job(model, speed.Options(workers=1))
        plain, *ours = equal._runs(base, equal.FORMS, 2, [7])
        settings = [config.to_dict(run.job.config()) for run in (plain, *ours)]
        for other in settings[1:]:
            other["augment"]["engine"] = settings[0]["augment"]["engine"]
            other["recipe"] = settings[0]["recipe"]
            assert other == settings[0]
        assert settings[0]["data"]["train_on"] == "train"
        assert not settings[0]["read_test"]
        assert settings[0]["teacher"]["weights"] == ""


def test_the_markdown_of_equal_epochs() -> None:
    text = table.speed_table(outputs.equal_output())
    assert "| separable_100k | plain loop, fp32 | 61.00 ± 1.00 % |  | 11 min 40 s |" in text
    assert "|  | ours, batched, bf16 | 61.33 ± 1.53 % | +0.33 (-2.8 to +3.5) | 90 s |" in text
    assert "after 2 equal epochs, mean ± standard deviation over 3 seeds" in text
    assert "within noise: 0 lies in the intervals" in text


def test_the_markdown_of_the_other_two() -> None:
    runs = table.speed_table(outputs.time_output())
    assert "| 0 | 1 min 40 s" not in runs  # under two minutes: whole seconds
    assert "| 0 | 100 s | 105 s | 15 | 20.0 | 1.25 GB | 84.90 % | no |" in runs
    assert "85.10 ± 0.28 %, reaches 85 % (1 of 2 runs do)" in runs
    inference = table.speed_table(outputs.predict_output())
    assert "| torch fp32 | 256 | 2,560 | 100.00 ms | 100.00 ms | 100.0 % |" in inference
    assert "| ONNX int8 |  |  | not available |  |  |" in inference
    assert "ONNX int8 is not available: onnxruntime is not installed." in inference


@pytest.mark.parametrize("broken", [{}, {"kind": "speed"}, {"kind": "records"}, [], None, {"kind": ["speed"]}])
def test_anything_else_is_refused_in_one_line(broken) -> None:
    with pytest.raises(UserError, match="no output of `featherweight bench`"):
        table.speed_table(broken)


def test_terminal_tables_fit_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from featherweight.terminal import print_table

    monkeypatch.setenv("COLUMNS", "80")
    made = (outputs.speed_output(), outputs.time_output(), outputs.predict_output(), outputs.equal_output())
    for output in made:
        for one in table.terminal_tables(output):
            print_table(one.columns, one.rows, title=one.title or None, right=one.right)
            shown = capsys.readouterr().out
            assert max(map(len, shown.splitlines())) <= 80
            body = [line for line in shown.splitlines() if line.strip()]
            assert len(body) == 1 + bool(one.title) + 1 + len(one.rows), shown  # no row is folded into two lines


def test_the_figure_has_a_bar_for_every_loop_on_a_scale_from_nothing(tmp_path: Path) -> None:
    from featherweight.explain.speed import draw_bars

    made = ((outputs.speed_output(), 3), (outputs.time_output(), 2), (outputs.predict_output(), 2))
    for output, count in (*made, (outputs.equal_output(), 3)):
        found = table.panels(output)
        assert sum(len(panel.bars) for panel in found) == count
        path = tmp_path / f"{output['kind']}.png"
        draw_bars(found, path)
        assert path.read_bytes().startswith(b"\x89PNG")
    (panel,) = table.panels(outputs.speed_output())
    assert [bar.reference for bar in panel.bars] == [True, False, False]
    assert (panel.bars[1].low, panel.bars[1].value, panel.bars[1].high) == (360.0, 400.0, 600.0)
    assert panel.bars[1].note == "400 = 4.5×"


def test_seeds_are_given_once_and_the_test_pictures_are_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="each seed once"):
        time_to.measure(0.85, "feather_quick", [1, 1])
    blind = tmp_path / "blind.toml"
    blind.write_text("read_test = false\n")
    with pytest.raises(UserError, match="leaves the test pictures unread"):
        time_to.measure(0.85, str(blind), [0])

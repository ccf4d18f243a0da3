"""The shifted pictures against independent oracles (scipy, Pillow, statistics), and the network measured on them."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from featherweight import weights
from featherweight.cli import main
from featherweight.datasets import PictureSet, load_test
from featherweight.evaluation import evaluate
from featherweight.evaluation.shifts import SHIFTS, contrast, evaluate_shifted, gaussian_blur, gaussian_noise, jpeg

FUNCTIONS = (gaussian_blur, gaussian_noise, jpeg, contrast)


def pictures(count: int, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth coloured pictures with some texture, as photographs have."""
    random = np.random.default_rng(seed)
    coarse = ndimage.gaussian_filter(random.normal(size=(count, height, width, 3)), (0, 4, 4, 0))
    values = 128 + 60 * coarse / coarse.std() + 12 * random.normal(size=coarse.shape)
    return torch.from_numpy(values.round().clip(0, 255).astype(np.uint8))


def levels(images: torch.Tensor) -> np.ndarray:
    return images.numpy().astype(np.float64)


@pytest.mark.parametrize("sigma", [0.5, 0.75, 1.0, 1.25, 1.5, 9.0])
def test_blur_is_scipys(sigma: float) -> None:
    images = pictures(3, 32, 20)
    known = ndimage.gaussian_filter(levels(images), (0, sigma, sigma, 0), mode="reflect", truncate=4.0)
    found = levels(gaussian_blur(images, sigma))
    assert np.abs(found - known).max() <= 0.5 + 1e-9  # nothing but the rounding to whole levels
    assert np.abs(found - levels(images)).mean() > 1


def test_blur_spreads_a_point_evenly_and_keeps_plain_pictures() -> None:
    point = torch.zeros(1, 33, 33, 3, dtype=torch.uint8)
    point[0, 16, 16, 1] = 255
    blurred = gaussian_blur(point, 1.0)[0]
    assert torch.equal(blurred, blurred.transpose(0, 1))
    assert torch.equal(blurred, blurred.flip(0))
    assert int(blurred[16, 16, 1]) == round(255 / (2 * np.pi) * (0.99994 / 1.0) ** 2)  # the peak of the density
    assert not blurred[..., [0, 2]].any()
    plain = torch.full((2, 32, 32, 3), 77, dtype=torch.uint8)
    assert torch.equal(gaussian_blur(plain, 1.5), plain)


@pytest.mark.parametrize("deviation", [0.02, 0.06, 0.1])
def test_noise_has_the_deviation_it_states_and_no_mean(deviation: float) -> None:
    grey = torch.full((40, 32, 32, 3), 128, dtype=torch.uint8)
    noise = levels(gaussian_noise(grey, deviation)) - 128
    expected = np.sqrt((255 * deviation) ** 2 + 1 / 12)  # and that of rounding
    count = noise.size
    assert noise.std() == pytest.approx(expected, rel=4 / np.sqrt(2 * count))  # four standard errors
    assert abs(noise.mean()) < 4 * expected / np.sqrt(count)
    within = (np.abs(noise) <= 255 * deviation).mean()
    assert within == pytest.approx(0.6827, abs=0.04)  # a normal curve's share within one deviation (levels are coarse)
    planes = noise.transpose(3, 0, 1, 2).reshape(3, -1)
    assert np.abs(np.corrcoef(planes) - np.eye(3)).max() < 0.03
    neighbours = np.corrcoef(noise[:, :, :-1].ravel(), noise[:, :, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02


def test_noise_follows_from_the_seed_and_the_place_alone() -> None:
    images = pictures(7)
    first = gaussian_noise(images, 0.05)
    assert torch.equal(first, gaussian_noise(images, 0.05))
    assert torch.equal(first[:3], gaussian_noise(images[:3], 0.05))
    assert not torch.equal(first, gaussian_noise(images, 0.05, seed=1))
    long = torch.full((1203, 4, 4, 3), 128, dtype=torch.uint8)  # more than one part
    assert torch.equal(gaussian_noise(long, 0.05)[:1001], gaussian_noise(long[:1001], 0.05))
    assert len(torch.unique(gaussian_noise(long, 0.05), dim=0)) == 1203  # no part repeats another


@pytest.mark.parametrize("quality", [75, 45, 15])
def test_jpeg_is_pillows_round_trip(quality: int) -> None:
    images = pictures(4)
    found = jpeg(images, quality)
    for picture, back in zip(images.numpy(), found.numpy(), strict=True):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling=2)  # 2 is Pillow's number for 4:2:0
        file.seek(0)
        assert np.array_equal(np.asarray(Image.open(file)), back)


@pytest.mark.parametrize("factor", [0.8, 0.5, 0.2])
def test_contrast_keeps_the_mean_and_scales_the_deviation(factor: float) -> None:
    images = pictures(5)
    before, after = levels(images), levels(contrast(images, factor))
    over = (1, 2)
    assert np.abs(after.mean(over) - before.mean(over)).max() < 0.3  # rounding favours plateaus at 0 and 255 a little
    assert after.std(over) == pytest.approx(factor * before.std(over), abs=0.3)
    for one, other in zip(before.transpose(0, 3, 1, 2), after.transpose(0, 3, 1, 2), strict=True):
        for plane, paler in zip(one, other, strict=True):
            assert np.corrcoef(plane.ravel(), paler.ravel())[0, 1] > 0.998  # nothing else than a straight line


def test_contrast_of_nothing_is_plain_and_of_all_is_the_same() -> None:
    images = pictures(3)
    assert torch.equal(contrast(images, 1), images)
    plain = contrast(images, 0)
    assert torch.equal(plain, plain[:, :1, :1].expand_as(plain))


@pytest.mark.parametrize("shift", SHIFTS, ids=lambda shift: shift.name)
def test_strengths_grow(shift: Any) -> None:
    images = pictures(20)
    assert len(shift.strengths) == 5
    distances = [float((shift.apply(images, s).double() - images.double()).square().mean()) for s in shift.strengths]
    assert distances[0] > 1  # more than a level's worth
    assert all(low < high for low, high in itertools.pairwise(distances)), distances


@pytest.mark.parametrize("function", FUNCTIONS)
def test_pictures_come_back_as_pictures(function: Any) -> None:
    images = pictures(2, 24, 30)
    before = images.clone()
    found = function(images, 40 if function is jpeg else 0.5)
    assert found.shape == images.shape
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert torch.equal(images, before)  # what came in is left alone
    extremes = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(16 * 32 * 3).reshape(1, 32, 32, 3)
    near = function(extremes, 95 if function is jpeg else 0.3)
    assert near[:, :8].double().mean() < 128 < near[:, 24:].double().mean()  # black did not wrap round to white
    for wrong in (images.float(), images[0], images.permute(0, 3, 1, 2)):
        with pytest.raises(ValueError, match="uint8"):
            function(wrong, 40 if function is jpeg else 0.5)


@pytest.mark.parametrize(
    ("function", "strength"), [(gaussian_blur, 0), (gaussian_noise, -1), (jpeg, 0), (contrast, -1)]
)
def test_impossible_strengths_are_refused(function: Any, strength: float) -> None:
    with pytest.raises(ValueError, match="not"):
        function(pictures(1), strength)


class BrightnessTeller(torch.nn.Module):
    """Tells by the mean of the normalised picture whether it is bright."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=(1, 2, 3))
        return torch.stack([-mean, mean], 1)


class SharpnessTeller(torch.nn.Module):
    """Calls a picture rough when neighbours differ by more than 0.1 of the scale."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rough = (x[..., 1:] - x[..., :-1]).abs().mean(dim=(1, 2, 3)) - 0.1
        return torch.stack([-rough, rough], 1)


def test_a_network_is_measured_on_the_shifted_pictures() -> None:
    rough = (pictures(30).int() // 4 + torch.randint(0, 150, (30, 32, 32, 3), generator=torch.manual_seed(0))).to(
        torch.uint8
    )
    smooth = torch.full((30, 32, 32, 3), 100, dtype=torch.uint8)
    both = PictureSet(torch.cat([rough, smooth]), torch.tensor([1] * 30 + [0] * 30), ("smooth", "rough"))
    counts: list[int] = []
    unit = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "device": "cpu"}
    found = {
        one.shift.name: one
        for one in evaluate_shifted(SharpnessTeller(), both, **unit, batch_size=7, done=counts.append)
    }
    assert counts == [7, 7, 7, 7, 7, 7, 7, 7, 4] * 20
    assert evaluate(SharpnessTeller(), both, **unit).accuracy == 1
    assert found["blur"].found[-1].per_class == {"smooth": 1, "rough": 0}  # blurred, rough is smooth
    assert found["noise"].found[0].per_class == {"smooth": 1, "rough": 1}
    assert found["noise"].found[-1].per_class == {"smooth": 0, "rough": 1}  # noisy, smooth is rough
    assert found["contrast"].found[-1].per_class == {"smooth": 1, "rough": 0}
    told = found["blur"].to_dict()
    assert told["mean_accuracy"] == pytest.approx(sum(told["accuracy"]) / 5)
    known = PictureSet(contrast(both.images, 0.2), both.labels, both.classes)
    assert found["contrast"].digests[-1] == known.digest()
    assert len({digest for one in found.values() for digest in one.digests}) == 20
    level = evaluate_shifted(BrightnessTeller(), both, mean=(0.45,) * 3, std=(1.0,) * 3, device="cpu")
    assert {one.shift.name: [e.accuracy for e in one.found] for one in level}["contrast"] == [
        evaluate(BrightnessTeller(), both, mean=(0.45,) * 3, std=(1.0,) * 3, device="cpu").accuracy
    ] * 5  # contrast keeps each picture's brightness


# ------------------------------------------------------------------------------------------------------ the command


@pytest.fixture
def folder(untrained_digits: Path) -> Path:
    return untrained_digits


def test_the_command_writes_what_it_measured(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "little.json"
    assert main(["eval", str(folder), "--shifted", "--out", str(out), "--json", "--device", "cpu"]) == 0
    told = json.loads(capsys.readouterr().out)
    written = json.loads(out.read_text(encoding="utf-8"))
    assert told["shifted"] == written
    assert written["weights_sha256"] == weights.read_card(folder / "model.json").weights_sha256
    assert (written["kind"], written["name"], written["split"], written["dataset"]) == (
        "shifted",
        "little",
        "test",
        "digits",
    )
    assert written["images"] == len(load_test("digits"))
    assert written["clean"]["accuracy"] == told["accuracy"]
    assert str(tmp_path) not in out.read_text(encoding="utf-8")
    assert written["command"] == f"featherweight eval {folder.name} --shifted"
    network, card = weights.load(folder)
    clean = load_test("digits")
    noisy = PictureSet(gaussian_noise(clean.images, 0.08), clean.labels, clean.classes)
    known = evaluate(network, noisy, mean=card.mean, std=card.std, device="cpu")
    (noise,) = [shift for shift in written["shifts"] if shift["shift"] == "noise"]
    assert noise["accuracy"][3] == known.accuracy
    assert noise["calibration_error"][3] == pytest.approx(known.calibration_error)
    means = [sum(shift["accuracy"]) / 5 for shift in written["shifts"]]
    assert written["mean_accuracy"] == pytest.approx(sum(means) / 4)


def test_the_command_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(folder), "--shifted", "--split", "val", "--device", "cpu"]) == 0
    out, _ = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 80
    rows = [line.split() for line in out.splitlines()]
    (blur,) = [row for row in rows if row[:1] == ["blur"] and len(row) == 7]
    assert float(blur[6]) == pytest.approx(sum(map(float, blur[1:6])) / 5, abs=0.02)
    assert "0.5, 0.75, 1, 1.25, 1.5" in out


def test_without_it_nothing_is_shifted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(folder), "--json", "--device", "cpu"]) == 0
    assert "shifted" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "x.json"], "--out belongs to --shifted"),
        (["--shifted", "--out", "/dev/null/x.json"], "cannot write /dev/null/x.json"),
        (["--shifted", "--out", "."], "no plain file"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_measured(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["eval", str(folder), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.cifar10
def test_real_pictures_are_shifted_as_stated(cifar10_dir: Path) -> None:
    """On CIFAR-10's test pictures: every strength changes more than the one before, and none destroys the picture."""
    test = load_test("cifar10", cifar10_dir)
    images = test.images[::10]
    for shift in SHIFTS:
        changed = [levels(shift.apply(images, strength)) for strength in shift.strengths]
        distances = [np.sqrt(((one - levels(images)) ** 2).mean()) for one in changed]
        assert distances == sorted(distances), shift.name
        assert 0.5 < distances[0] < distances[-1] < 64, shift.name
        strongest = changed[-1]
        assert np.corrcoef(strongest.ravel(), levels(images).ravel())[0, 1] > 0.75, shift.name
        assert abs(strongest.mean() - levels(images).mean()) < 3, shift.name

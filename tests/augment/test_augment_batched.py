"""Normalisation, draws, and the batched engine on its own: exact values, purity, devices."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from augment_pictures import MEAN, STD, normalised, one_draw, random_pictures, spec_with
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.augment import BatchAugmenter, draw, normalize
from featherweight.augment.draws import NUMBERS, Draws, interpret
from featherweight.config import AugmentConfig
from featherweight.utils import UserError

SPEC = AugmentConfig(affine_p=0.6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(3, 32, 32, 3), (2, 5, 7, 3), (0, 4, 4, 3)])
def test_normalize_against_plain_arithmetic(shape: tuple[int, ...]) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    batch = normalize(torch.from_numpy(pictures), MEAN, STD)
    assert batch.dtype == torch.float32
    assert batch.shape == (shape[0], 3, *shape[1:3])
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert np.allclose(batch.permute(0, 2, 3, 1).numpy(), normalised(pictures), atol=2e-6, rtol=0)


def test_normalize_reads_views_and_leaves_them_alone() -> None:
    pictures = torch.from_numpy(random_pictures(6))
    view = pictures[::2].flip(2).transpose(1, 2)
    before = pictures.clone()
    assert torch.equal(normalize(view, MEAN, STD), normalize(view.contiguous(), MEAN, STD))
    assert torch.equal(pictures, before)


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 8, 8, 3), torch.zeros(8, 8, 3, dtype=torch.uint8)],
)
def test_other_pictures_are_refused(bad: torch.Tensor) -> None:
    for use in (
        lambda: normalize(bad, MEAN, STD),
        lambda: BatchAugmenter(SPEC, MEAN, STD)(bad, generator()),
        lambda: BatchAugmenter(SPEC, MEAN, STD).apply(bad, one_draw(2)),
    ):
        with pytest.raises(UserError, match="uint8"):
            use()


def test_mean_and_deviation_are_checked() -> None:
    pictures = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    for mean, std in ((MEAN, (0.2, 0.2, 0.0)), (MEAN[:2], STD), (MEAN, (*STD, 1.0))):
        with pytest.raises(UserError, match="three numbers"):
            normalize(pictures, mean, std)


def test_a_constant_kept_under_inference_mode_serves_outside_it() -> None:
    pictures = torch.from_numpy(random_pictures(2, side=9))
    mean = (0.5, 0.25, 0.125)
    with torch.inference_mode():
        inside = normalize(pictures, mean, STD).clone()
    weight = torch.ones(3, requires_grad=True)
    (normalize(pictures, mean, STD) * weight[:, None, None]).sum().backward()
    assert torch.equal(inside, normalize(pictures, mean, STD))


def test_draws_are_a_pure_function_of_the_generator() -> None:
    first, again, other = (draw(SPEC, 64, 32, 32, generator(seed)) for seed in (7, 7, 8))
    for field in fields(Draws):
        assert torch.equal(getattr(first, field.name), getattr(again, field.name))
        assert not torch.equal(getattr(first, field.name), getattr(other, field.name))
    torch.manual_seed(0)
    state = torch.get_rng_state()
    draw(SPEC, 64, 32, 32, generator(7))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"


def test_probabilities_of_nought_and_one_are_exact() -> None:
    never = draw(replace(SPEC, flip_p=0.0, affine_p=0.0, hole_p=0.0), 5000, 32, 32, generator())
    always = draw(replace(SPEC, flip_p=1.0, affine_p=1.0, hole_p=1.0), 5000, 32, 32, generator())
    for name in ("flip", "affine", "hole"):
        assert not getattr(never, name).any()
        assert getattr(always, name).all()


@given(height=st.integers(2, 300), width=st.integers(2, 300), size=st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_the_hole_is_inside_for_every_number_a_generator_can_give(height: int, width: int, size: int) -> None:
    size = min(size, height, width)
    largest = 1 - 2.0**-24  # the largest float32 below 1
    numbers = torch.tensor([0.0, 0.5, largest]).expand(NUMBERS, 3)
    drawn = interpret(replace(SPEC, hole_size=size), numbers, height, width)
    assert drawn.hole_top.tolist()[::2] == [0, height - size]
    assert drawn.hole_left.tolist()[::2] == [0, width - size]
    assert 0 <= int(drawn.hole_top[1]) <= height - size


def test_without_draws_only_normalised() -> None:
    pictures = torch.from_numpy(random_pictures(4))
    assert torch.equal(BatchAugmenter(SPEC, MEAN, STD).apply(pictures, one_draw(4)), normalize(pictures, MEAN, STD))


def test_flip_is_exact_and_chooses() -> None:
    pictures = torch.from_numpy(random_pictures(4))
    draws = replace(one_draw(4), flip=torch.tensor([True, False, False, True]))
    expected = normalize(pictures, MEAN, STD)
    expected[[0, 3]] = expected[[0, 3]].flip(3)
    assert torch.equal(BatchAugmenter(SPEC, MEAN, STD).apply(pictures, draws), expected)


def test_whole_pixel_shifts_and_quarter_turns_are_numpys() -> None:
    """numpy's own pad (reflect = reflect_101) and rot90 as oracles, where no interpolation is needed."""
    pictures = random_pictures(1, side=16)
    truth = normalised(pictures)[0]
    for border, mode in (("reflect_101", {"mode": "reflect"}), ("constant", {"mode": "constant"})):
        augmenter = BatchAugmenter(spec_with(affine_p=1.0, border=border), MEAN, STD)

        def apply(augmenter: BatchAugmenter = augmenter, **values: Any) -> np.ndarray:
            draws = one_draw(affine=True, **values)
            return augmenter.apply(torch.from_numpy(pictures), draws)[0].permute(1, 2, 0).numpy()

        padded = np.pad(truth, ((8, 8), (8, 8), (0, 0)), **mode)  # type: ignore[call-overload]
        assert np.allclose(apply(shift_x=3 / 16, shift_y=-5 / 16), padded[13:29, 5:21], atol=2e-4)
        assert np.allclose(apply(angle=90.0), np.rot90(truth), atol=2e-4)
        assert np.allclose(apply(angle=180.0), truth[::-1, ::-1], atol=2e-4)


@pytest.mark.parametrize(("height", "width"), [(20, 32), (33, 17)])
def test_pictures_need_not_be_square(height: int, width: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    draws = one_draw(
        2, affine=True, shift_x=2 / width, shift_y=3 / height, hole=True, hole_top=height - 16, hole_left=1
    )
    out = BatchAugmenter(AugmentConfig(border="constant"), MEAN, STD).apply(torch.from_numpy(pictures), draws)
    expected = np.zeros((2, height, width, 3))
    expected[:, 3:, 2:] = normalised(pictures)[:, :-3, :-2]
    expected[:, height - 16 :, 1:17] = 0
    assert np.allclose(out.permute(0, 2, 3, 1).numpy(), expected, atol=2e-4)


def test_the_hole_is_exactly_one_square_of_zeros() -> None:
    pictures = torch.full((300, 32, 32, 3), 255, dtype=torch.uint8)
    batch = BatchAugmenter(spec_with(hole_p=1.0), MEAN, STD)(pictures, generator(4))
    assert ((batch == 0).sum((1, 2, 3)) == 3 * 16 * 16).all()
    rows, columns = (batch == 0).any(1).any(2), (batch == 0).any(1).any(1)
    assert (rows.sum(1) == 16).all()
    assert (columns.sum(1) == 16).all()


def test_the_input_is_left_alone_and_the_output_is_channels_last() -> None:
    pictures = torch.from_numpy(random_pictures(64))
    before = pictures.clone()
    batch = BatchAugmenter(SPEC, MEAN, STD)(pictures, generator())
    assert torch.equal(pictures, before)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batch.dtype == torch.float32
    assert batch.shape == (64, 3, 32, 32)
    assert BatchAugmenter(SPEC, MEAN, STD)(pictures[:0], generator()).shape == (0, 3, 32, 32)


def test_autocast_and_inference_mode_change_nothing() -> None:
    pictures = torch.from_numpy(random_pictures(32))
    augmenter = BatchAugmenter(SPEC, MEAN, STD)
    plain = augmenter(pictures, generator())
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert torch.equal(augmenter(pictures, generator()), plain)


@pytest.mark.parametrize("border", ["reflect_101", "constant"])
def test_the_way_of_other_devices_gives_the_same_pictures(border: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps for GPUs, carried out here on the CPU, against the CPU's own."""
    augmenter = BatchAugmenter(spec_with(flip_p=0.5, affine_p=0.5, hole_p=0.5, border=border), MEAN, STD)
    pictures = torch.from_numpy(random_pictures(64))
    on_cpu = augmenter(pictures, generator(2))
    monkeypatch.setattr("featherweight.augment.batched._chooses", lambda device: False)
    elsewhere = augmenter(pictures, generator(2))
    assert torch.allclose(elsewhere, on_cpu, atol=1e-6)
    assert elsewhere.is_contiguous(memory_format=torch.channels_last)


def test_nothing_depends_on_the_values_off_the_cpu() -> None:
    """On the meta device tensors have shapes but no values: whatever would wait for values, or shape itself by them,
    raises there. So the same steps never wait for a GPU."""
    pictures = torch.empty(16, 32, 32, 3, dtype=torch.uint8, device="meta")
    batch = BatchAugmenter(SPEC, MEAN, STD)(pictures, generator())
    assert batch.shape == (16, 3, 32, 32)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(NotImplementedError):
        torch.empty(3, device="meta").nonzero()  # what this test relies on


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: a test that needs it did not run")
def test_on_cuda_without_waiting() -> None:
    pictures = torch.from_numpy(random_pictures(256))
    augmenter = BatchAugmenter(SPEC, MEAN, STD)
    there = pictures.cuda()
    augmenter(there, generator())  # constants are sent once
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = augmenter(there, generator(5))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.allclose(batch.cpu(), augmenter(pictures, generator(5)), atol=1e-4)

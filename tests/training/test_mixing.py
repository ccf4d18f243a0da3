"""Mixtures against their definitions, and the loss of a mixture against the one of mixed labels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from featherweight.config import MixConfig
from featherweight.training.mixing import mixed, mixed_loss

PICTURES = torch.randn(8, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def many(config: MixConfig, count: int = 400) -> list:
    return [mixed(PICTURES, config, seed=1, step=step, total_steps=count) for step in range(count)]


def test_no_mixing_is_the_batch_itself() -> None:
    mixture = mixed(PICTURES, MixConfig(), seed=0, step=0, total_steps=10)
    assert mixture.pictures is PICTURES
    assert mixture.share == 1


def test_mixup_blends_by_its_share() -> None:
    found = many(MixConfig(mixup=0.4))
    for mixture in found:
        right = mixture.share * PICTURES + (1 - mixture.share) * PICTURES.flip(0)
        torch.testing.assert_close(mixture.pictures, right, atol=1e-5, rtol=0)
    shares = torch.tensor([mixture.share for mixture in found])
    assert abs(float(shares.mean()) - 0.5) < 0.07  # Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1))
    assert abs(float(shares.var()) - 1 / (4 * 1.8)) < 0.03


def test_cutmix_pastes_a_rectangle_of_the_area_it_states() -> None:
    for mixture in many(MixConfig(cutmix=1.0), 100):
        own = (mixture.pictures == PICTURES).all(1)  # [8, 12, 16]
        pasted = (mixture.pictures == PICTURES.flip(0)).all(1)
        assert (own | pasted).all()
        assert abs(float(own[0].double().mean()) - mixture.share) < 1e-9
        rows, columns = pasted[0].any(1).sum(), pasted[0].any(0).sum()
        assert int(pasted[0].sum()) == int(rows * columns)


def test_the_ramp_and_the_probability_decide_how_often() -> None:
    begun = [mixture.share != 1 for mixture in many(MixConfig(mixup=1.0, p=0.8, ramp=0.5), 2000)]
    assert abs(sum(begun[:1000]) / 1000 - 0.4) < 0.06  # rising from 0 to 0.8
    assert abs(sum(begun[1000:]) / 1000 - 0.8) < 0.05


def test_both_kinds_take_turns() -> None:
    kinds = [bool((m.pictures == PICTURES).all(1).any()) for m in many(MixConfig(mixup=1.0, cutmix=1.0))]
    assert 0.35 < sum(kinds) / len(kinds) < 0.65


def test_a_step_is_mixed_alike_whenever_it_is_taken() -> None:
    config = MixConfig(mixup=0.2, cutmix=1.0)
    one, two = (mixed(PICTURES, config, seed=3, step=17, total_steps=50) for _ in range(2))
    assert one.share == two.share
    assert torch.equal(one.pictures, two.pictures)
    assert mixed(PICTURES, config, seed=4, step=17, total_steps=50).share != one.share


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_one_of_mixed_labels(smoothing: float) -> None:
    outputs, labels = torch.randn(8, 5), torch.randint(0, 5, (8,))
    mixture = mixed(PICTURES, MixConfig(mixup=1.0), seed=0, step=0, total_steps=1)
    soft = mixture.share * F.one_hot(labels, 5) + (1 - mixture.share) * F.one_hot(labels.flip(0), 5)
    right = F.cross_entropy(outputs, soft.float(), label_smoothing=smoothing)
    for share in (mixture.share, torch.tensor(mixture.share)):
        found = mixed_loss(lambda o, y: F.cross_entropy(o, y, label_smoothing=smoothing), outputs, labels, share)
        torch.testing.assert_close(found, right)

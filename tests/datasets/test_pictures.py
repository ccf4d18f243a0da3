"""Order must not matter; digests, splits and statistics against plain computations of their definitions."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.datasets import pictures as p
from featherweight.datasets.pictures import PictureSet

CLASSES = ("a", "b", "c")


def random_pictures(seed: int, count: int, copies: bool = True) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (count, 2, 3, 3), dtype=np.uint8)
    labels = random.integers(0, len(CLASSES), count)
    if copies and count > 3:  # the same content with the same and with another label
        images[1] = images[0]
        images[2] = images[0]
        labels[1] = labels[0]
        labels[2] = (labels[0] + 1) % len(CLASSES)
    return images, labels


def in_order(images: np.ndarray, labels: np.ndarray, pieces: int = 1) -> PictureSet:
    both = zip(np.array_split(images, pieces), np.array_split(labels, pieces), strict=True)
    return p.assemble([p.make_part(*part) for part in both], CLASSES)


def test_content_hash_is_blake2b_of_the_bytes_row_by_row() -> None:
    images, _ = random_pictures(1, 5)
    expected = [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
    assert [bytes(row) for row in p.content_hashes(images)] == expected
    turned = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)  # only the layout
    assert np.array_equal(p.content_hashes(turned), p.content_hashes(images))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(4, 60), pieces=st.integers(1, 4), data=st.data())
def test_storage_order_changes_nothing(seed: int, count: int, pieces: int, data: st.DataObject) -> None:
    images, labels = random_pictures(seed, count)
    shuffled = np.array(data.draw(st.permutations(range(count))))
    first, second = in_order(images, labels), in_order(images[shuffled], labels[shuffled], pieces)
    plain = PictureSet(torch.from_numpy(images[shuffled]), torch.from_numpy(labels[shuffled]), CLASSES)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert first.digest() == second.digest() == plain.digest()
    for one, *others in zip(p.split_train(first), p.split_train(second), p.split_train(plain), strict=True):
        for other in others:
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)


def test_canonical_order_is_by_hash_then_label() -> None:
    images, labels = random_pictures(3, 30)
    expected = sorted(
        (hashlib.blake2b(i.tobytes(), digest_size=16).digest(), int(k)) for i, k in zip(images, labels, strict=True)
    )
    ordered = in_order(images, labels)
    got = [
        (hashlib.blake2b(i.numpy().tobytes(), digest_size=16).digest(), int(k))
        for i, k in zip(ordered.images, ordered.labels, strict=True)
    ]
    assert got == expected
    assert p.repeated_contents(ordered) == 2


def test_digest_sees_a_pixel_a_label_and_a_repetition(digest_by_definition) -> None:
    images, labels = random_pictures(4, 12, copies=False)
    pictures = in_order(images, labels)
    digest = pictures.digest()
    assert digest == digest_by_definition(images, [int(label) for label in labels])
    other = images.copy()
    other[3, 1, 1, 1] ^= 1
    assert in_order(other, labels).digest() != digest
    relabelled = labels.copy()
    relabelled[3] = (relabelled[3] + 1) % 3
    assert in_order(images, relabelled).digest() != digest
    assert in_order(np.concatenate([images, images[:1]]), np.append(labels, labels[0])).digest() != digest
    pictures.images[0, 0, 0, 0] ^= 1  # the digest speaks of the pixels as they are now
    assert pictures.digest() != digest


def test_split_takes_the_first_tenth_of_each_class() -> None:
    images, labels = random_pictures(5, 200, copies=False)
    train, validation = p.split_train(in_order(images, labels))
    key = lambda image: hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    for label in range(3):
        own = sorted(key(image) for image, given in zip(images, labels, strict=True) if given == label)
        cut = len(own) // 10
        assert cut > 3
        assert sorted(key(i) for i in validation.images[validation.labels == label].numpy()) == own[:cut]
        assert sorted(key(i) for i in train.images[train.labels == label].numpy()) == own[cut:]
    assert p.shared_contents(train, validation) == 0


def test_copies_never_straddle_the_split() -> None:
    images, labels = random_pictures(6, 40, copies=False)
    labels[:] = 0
    ordered = in_order(images, labels).images.numpy()
    ordered[4] = ordered[3]  # the tenth ends between positions 3 and 4
    train, validation = p.split_train(in_order(ordered, labels))
    assert len(train) + len(validation) == 40
    assert p.shared_contents(train, validation) == 0
    assert len(validation) in (3, 4)


def test_statistics_are_the_pixels_own() -> None:
    images, labels = random_pictures(8, 5000)
    measured = p.measure_statistics(in_order(images, labels))
    pixels = images.reshape(-1, 3).astype(np.float64) / 255
    assert measured.mean == pytest.approx(pixels.mean(axis=0), abs=1e-12)
    assert measured.std == pytest.approx(pixels.std(axis=0), abs=1e-12)
    with pytest.raises(ValueError, match="no pictures"):
        p.measure_statistics(in_order(images[:0], labels[:0]))


def test_subset_keeps_the_order_asked_for() -> None:
    pictures = in_order(*random_pictures(9, 10))
    pictures.hashes  # noqa: B018 (known hashes must follow the pictures)
    part = pictures.subset([7, 2])
    assert len(part) == 2
    assert torch.equal(part.images, pictures.images[[7, 2]])
    assert torch.equal(part.labels, pictures.labels[[7, 2]])
    assert np.array_equal(part.hashes, p.content_hashes(part.images.numpy()))
    part.images[0] = 0
    assert not torch.equal(part.images[0], pictures.images[7])  # a copy


@pytest.mark.parametrize(
    ("images", "labels", "fault"),
    [
        (torch.zeros(2, 4, 4, 3), torch.zeros(2, dtype=torch.int64), "uint8"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "uint8"),
        (
            torch.zeros(2, 3, 4, 4, dtype=torch.uint8).permute(0, 2, 3, 1),
            torch.zeros(2, dtype=torch.int64),
            "contiguous",
        ),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "int64"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, 3]), "must lie"),
    ],
)
def test_parts_that_do_not_fit_are_refused(images: torch.Tensor, labels: torch.Tensor, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        PictureSet(images, labels, CLASSES)

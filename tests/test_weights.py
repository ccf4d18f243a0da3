"""Weights and cards: what is saved comes back bit for bit; every damaged or hostile pair gives one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import nn

from featherweight import models, utils, weights
from featherweight.utils import UserError, sha256_bytes
from featherweight.weights import Card

CLASSES = ("ant", "bee", "cat")


class Tiny(nn.Module):
    """A convolution and a norm, with whole-number state (num_batches_tracked) as real networks have."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, classes, 1)
        self.norm = nn.BatchNorm2d(classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).mean((2, 3))


@pytest.fixture(autouse=True)
def tiny_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small network stands for the registered ones; tests of the real ones undo this."""
    monkeypatch.setattr(models, "names", lambda: ["tiny"])
    monkeypatch.setattr(models, "build", lambda name, classes=10: {"tiny": Tiny}[name](classes))


def card(**changes: Any) -> Card:
    values: dict[str, Any] = {
        "name": "tiny_best",
        "model": "tiny",
        "classes": CLASSES,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.2),
        "input_size": 32,
        "dataset": "insects",
        "recipe": "tiny_best",
        "test_accuracy": 0.75,
        "train_images": 100,
    }
    return Card(**{**values, **changes})


def trained(seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    network = Tiny()
    network.train()
    network(torch.randn(8, 3, 4, 4))
    return network


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return weights.save(tmp_path, trained(), card())


def same_state(first: nn.Module, second: nn.Module) -> bool:
    left, right = first.state_dict(), second.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_saved_and_loaded_bit_for_bit(saved: Path) -> None:
    assert saved.name == "tiny_best.safetensors"
    assert sorted(os.listdir(saved.parent)) == ["tiny_best.json", "tiny_best.safetensors"]
    before = torch.random.get_rng_state()
    network, found = weights.load(saved)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not network.training
    assert same_state(network, trained())
    assert found == card(parameters=18, weights_sha256=sha256_bytes(saved.read_bytes()))
    assert found.parameters == 3 * 3 + 3 + 3 + 3  # conv weight and bias, norm weight and bias
    tensors = load_file(saved)
    assert tensors["norm.num_batches_tracked"].item() == 1
    assert tensors["conv.weight"].dtype == torch.float32


def test_a_path_and_a_run_folder(tmp_path: Path) -> None:
    path = weights.save(tmp_path / "run" / "model.safetensors", trained(), card())
    assert (tmp_path / "run" / "model.json").is_file()
    for way in (tmp_path / "run", path, str(path)):
        assert same_state(weights.load(way)[0], trained())


def test_published_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "WEIGHTS", tmp_path)
    assert weights.published() == []
    weights.save(tmp_path, trained(1), card(name="zeta"))
    weights.save(tmp_path, trained(2), card(name="alpha"))
    (tmp_path / "lone.safetensors").write_bytes(b"no card")
    assert weights.published() == ["alpha", "zeta"]
    assert same_state(weights.load("alpha")[0], trained(2))
    with pytest.raises(UserError, match=r"published name \(alpha, zeta\)"):
        weights.load("beta")


def test_the_bytes_do_not_change_from_one_save_to_the_next(tmp_path: Path) -> None:
    first = weights.save(tmp_path / "a", trained(), card())
    second = weights.save(tmp_path / "b", trained().to(memory_format=torch.channels_last), card())  # type: ignore
    assert first.read_bytes() == second.read_bytes()
    assert first.with_suffix(".json").read_bytes() == second.with_suffix(".json").read_bytes()


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module, name: str) -> None:
        super().__init__()
        self.add_module(name, inner)


def test_names_are_clean_whatever_was_wrapped_around(tmp_path: Path) -> None:
    bare = trained()
    compiled_part = Tiny()
    compiled_part.load_state_dict(bare.state_dict())
    compiled_part.conv = Wrapper(bare.conv, "_orig_mod")  # type: ignore[assignment]
    wrapped = {
        "compiled": Wrapper(bare, "_orig_mod"),
        "parallel": Wrapper(bare, "module"),
        "both": Wrapper(Wrapper(bare, "_orig_mod"), "module"),
        "both, other way round": Wrapper(Wrapper(bare, "module"), "_orig_mod"),
        "averaged": torch.optim.swa_utils.AveragedModel(bare, use_buffers=True),
        "part": compiled_part,
        "really compiled": torch.compile(bare, backend="eager"),
    }
    for name, network in wrapped.items():
        state = weights.clean_state(network)  # type: ignore[arg-type]
        assert list(state) == list(bare.state_dict()), name
        assert all(torch.equal(state[key], value) for key, value in bare.state_dict().items()), name
    path = weights.save(tmp_path, wrapped["both"], card())
    assert same_state(weights.load(path)[0], bare)


def test_saved_tensors_are_float32_contiguous_and_unshared(tmp_path: Path) -> None:
    network = trained().to(torch.bfloat16)
    network.norm.weight = network.norm.bias  # tied: safetensors alone would refuse
    state = load_file(weights.save(tmp_path, network, card(parameters=15)))
    assert {str(value.dtype) for value in state.values()} == {"torch.float32", "torch.int64"}
    assert torch.equal(state["norm.weight"], state["norm.bias"])


def test_save_refuses_what_must_not_be_published(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="states 17 parameters, the network has 18"):
        weights.save(tmp_path, trained(), card(parameters=17))
    broken = trained()
    with torch.no_grad():
        broken.conv.weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(UserError, match=r"conv\.weight holds values that are not finite"):
        weights.save(tmp_path, broken, card())
    with pytest.raises(UserError, match="cannot name a file"):
        weights.save(tmp_path, trained(), card(name="../outside"))
    assert os.listdir(tmp_path) == []


def test_a_save_that_fails_leaves_the_older_pair(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.parent.iterdir()}
    original = utils.write_atomic

    def full(path: Path, content: bytes) -> None:
        if "json" in Path(path).name:
            raise UserError(f"cannot write {path}: No space left on device; free some space")
        original(path, content)

    monkeypatch.setattr(utils, "write_atomic", full)
    with pytest.raises(UserError, match="No space left"):
        weights.save(saved, trained(5), card())
    assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == before


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        weights.save(tmp_path / "file" / "model.safetensors", trained(), card())


# ---- damaged and hostile files: each one UserError of one line, naming the file ----


def header_of(length: int, header: bytes, values: bytes = b"") -> bytes:
    return length.to_bytes(8, "little") + header + values


def with_state(change: Callable[[dict[str, torch.Tensor]], Any]) -> bytes:
    state = {name: value.clone() for name, value in trained().state_dict().items()}
    change(state)
    return save(state)


def nan_in(state: dict[str, torch.Tensor]) -> None:
    state["norm.running_var"][1] = float("nan")


ENTRY = {"dtype": "F32", "shape": [3, 3, 1, 1], "data_offsets": [0, 36]}
HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "not a safetensors file"),
    "seven bytes": (lambda data: b"\0" * 7, "not a safetensors file"),
    "huge header": (lambda data: header_of(2**63, b"{}"), "header would be 9223372036854775808 bytes"),
    "header beyond the end": (lambda data: header_of(len(data), data[8:]), "not a safetensors file"),
    "header over the limit": (lambda data: header_of(2 << 20, b" " * (2 << 20)), "not a safetensors file"),
    "header not JSON": (lambda data: header_of(5, b"hello"), "header is not JSON"),
    "header not UTF-8": (lambda data: header_of(4, b'"\xff\xfe"'), "header is not JSON"),
    "header nested without end": (lambda data: header_of(200_000, b"[" * 200_000), "header is not JSON"),
    "header a list": (lambda data: header_of(2, b"[]"), "not a JSON object"),
    "header empty": (lambda data: header_of(2, b"{}"), "lack 'conv.bias', 'conv.weight', 'norm.bias' and 4 more"),
    "a pickle": (lambda data: b"\x80\x04\x95" + b"cos\nsystem\n" * 10, "not a safetensors file"),
    "missing key": (lambda data: with_state(lambda state: state.pop("conv.bias")), "lack 'conv.bias'"),
    "extra key": (lambda data: with_state(lambda state: state.update(more=torch.zeros(1))), "hold the unknown 'more'"),
    "wrong shape": (
        lambda data: with_state(lambda state: state.update({"conv.bias": torch.zeros(4)})),
        r"conv\.bias is \['F32', \[4\]\], but the network needs \['F32', \[3\]\]",
    ),
    "wrong type": (
        lambda data: with_state(lambda state: state.update({"conv.bias": torch.zeros(3).half()})),
        r"conv\.bias is \['F16'",
    ),
    "not finite": (lambda data: with_state(nan_in), r"norm\.running_var holds values that are not finite"),
    "values cut off": (lambda data: data[:-4], "not a sound safetensors file"),
    "values too many": (lambda data: data + b"\0" * 8, "not a sound safetensors file"),
    "offsets beyond the end": (lambda data: data.replace(b'"data_offsets":[', b'"data_offsets":[9', 1), "safetensors"),
    "entry not an object": (lambda data: entries("evil"), r"is \[None, None\]"),
    "entry nested": (lambda data: entries(dict(ENTRY, shape=nested(500))), "but the network"),
}


def entries(value: Any) -> bytes:
    header = json.dumps(dict.fromkeys(Tiny().state_dict(), value)).encode()
    return header_of(len(header), header)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_weights_under_a_card_that_vouches_for_them(saved: Path, case: str) -> None:
    change, message = HOSTILE[case]
    data = change(saved.read_bytes())
    saved.write_bytes(data)
    rewrite_card(saved, weights_sha256=sha256_bytes(data))
    with pytest.raises(UserError, match=message) as caught:
        weights.load(saved)
    assert_one_line(caught.value, saved.name)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 500, -1])
def test_truncated_weights(saved: Path, size: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(UserError, match="SHA-256") as caught:
        weights.load(saved)
    assert_one_line(caught.value, saved.name)


def test_one_flipped_bit(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-3] ^= 1
    saved.write_bytes(data)
    with pytest.raises(UserError, match="SHA-256"):
        weights.load(saved)


def test_a_file_too_large_is_not_read_whole(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "MAX_WEIGHTS_BYTES", 1 << 20)
    with open(saved, "r+b") as file:
        file.truncate(50 << 30)  # sparse: takes no room on the disk, but would take it all in memory
    with pytest.raises(UserError, match="larger than 1 MiB"):
        weights.load(saved)


CARDS: dict[str, tuple[dict[str, Any] | bytes | None, str]] = {
    "missing file": (None, "No such file"),
    "not JSON": (b"weights", "not a card in JSON"),
    "not UTF-8": (b'{"name": "\xff"}', "not a card in JSON"),
    "empty file": (b"", "not a card in JSON"),
    "truncated": (b'{"name": "tiny', "not a card in JSON"),
    "a list": (b"[1, 2]", "holds list"),
    "nested without end": (b"[" * 100_000, "not a card in JSON"),
    "repeated key": (b'{"name": "a", "name": "b"}', "given twice"),
    "too large": (b" " * ((1 << 20) + 1), "larger than 1048576 bytes"),
    "fields missing": (b"{}", "is missing 'name', 'model', 'classes' and 7 more"),
    "field unknown": ({"licence\n\x1b[2J": "mine"}, r"unknown 'licence\\n\\x1b"),
    "NaN": (b'{"mean": NaN}', "NaN is no JSON"),
    "mean of two": ({"mean": [0.5, 0.5]}, "mean and std must be three numbers"),
    "deviation of zero": ({"std": [0.2, 0.0, 0.2]}, "std above 0"),
    "mean beyond floats": (json.dumps({"mean": [10**400, 0, 0]}).encode(), "card"),
    "classes a number": ({"classes": 10}, "classes must be a list"),
    "classes repeated": ({"classes": ["a", "a", "b"]}, "classes must be different"),
    "no classes": ({"classes": []}, "classes must be a list"),
    "parameters a text": ({"parameters": "18"}, "parameters must be a whole number"),
    "parameters true": ({"parameters": True}, "parameters must be a whole number"),
    "input size null": ({"input_size": None}, "input_size must be a whole number"),
    "accuracy a percentage": ({"test_accuracy": 85.3}, "test_accuracy must be a fraction"),
    "digest short": ({"weights_sha256": "abc"}, "weights_sha256 must be 64"),
    "digest absent": ({"weights_sha256": ""}, "SHA-256 is not the one"),
    "digest of another": ({"weights_sha256": "0" * 64}, "SHA-256 is not the one"),
    "model unknown": ({"model": "resnet50"}, "no network is called 'resnet50'; known are tiny"),
    "model a path": ({"model": "../../x.py:Evil"}, "no network is called"),
    "model empty": ({"model": " "}, "model must be text"),
    "other number of classes": ({"classes": ["a", "b"]}, "says 18 parameters, but tiny with 2 classes has 12"),
    "other parameters": ({"parameters": 19}, "says 19 parameters"),
}


@pytest.mark.parametrize("case", CARDS)
def test_cards_that_are_wrong(saved: Path, case: str) -> None:
    content, message = CARDS[case]
    path = saved.with_suffix(".json")
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        rewrite_card(saved, **content)
    with pytest.raises(UserError, match=message) as caught:
        weights.load(saved)
    assert_one_line(caught.value, "tiny_best")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere", "no weights at 'nowhere'"),
        ("", "no"),
        ("a\0b", "no weights at"),
        ("x" * 5000, "no weights at"),
        ("FOLDER", r"holds no model\.safetensors"),
        ("FOLDER/tiny_best.json", r"not a \.safetensors file"),
    ],
)
def test_names_that_mean_nothing(saved: Path, given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        weights.load(given.replace("FOLDER", str(saved.parent)))


def rewrite_card(saved: Path, **changes: Any) -> None:
    path = saved.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_one_line(error: UserError, name: str) -> None:
    text = str(error)
    assert name in text
    assert "\n" not in text
    assert len(text) < 600


def test_reading_a_card_needs_no_torch(saved: Path) -> None:
    code = "import sys; from featherweight.weights import read_card; print(read_card(sys.argv[1]).name, *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved.with_suffix(".json"))],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    name, *modules = done.stdout.split()
    assert name == "tiny_best"
    assert not {"torch", "numpy", "safetensors"} & set(modules)


@pytest.mark.parametrize("name", models.names())
def test_every_registered_network_comes_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real table
    torch.manual_seed(3)
    network = models.build(name, classes=3)
    path = weights.save(tmp_path, network, card(model=name))
    assert name == "teacher" or path.stat().st_size < 1 << 20
    assert same_state(weights.load(path)[0], network)


def test_what_is_published_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name in weights.published():
        network, found = weights.load(name)
        assert found.name == name
        assert sum(parameter.numel() for parameter in network.parameters()) == found.parameters
        assert weights.resolve(name).stat().st_size < 1 << 20

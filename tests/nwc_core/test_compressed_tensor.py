"""A compressed tensor does what the decoded one does, and no more."""

import copy
import pickle

import pytest
import torch
from torch import nn

from nwc_core.codec import Codec
from nwc_core.errors import FormatError, UsageError

pytest.importorskip("transformers")
from nwc_core.encoded import EncodedTensor
from nwc_core.hf.coded_weight import CodedWeight
from nwc_core.hf.compressed import CompressedTensor


@pytest.fixture(scope="module")
def codec():
    return Codec.load("default")


def coded(codec, *shape, parts=1, dtype=torch.float32):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    blocks = tuple(codec.encode(part, bits=5.0, preset="fast") for part in weight.chunk(parts))
    names = {torch.float32: "F32", torch.bfloat16: "BF16"}
    return CodedWeight("w", names[dtype], shape, blocks, codec)


@pytest.fixture(scope="module")
def matrix(codec):
    """In three blocks, the last smaller."""
    return CompressedTensor(coded(codec, 100, 48, parts=3))


OPERATIONS = {
    "linear": (lambda w: nn.functional.linear(torch.ones(2, 48), w)),
    "linear of a batch": (lambda w: nn.functional.linear(torch.ones(2, 3, 48), w, torch.ones(100))),
    "product": (lambda w: torch.ones(2, 100) @ w),
    "transposed twice": (lambda w: w.t().t() @ torch.ones(48)),
    "rows": (lambda w: nn.functional.embedding(torch.tensor([[0, 99], [34, 33]]), w)),
    "no rows": (lambda w: nn.functional.embedding(torch.tensor([], dtype=torch.int64), w)),
    "part": (lambda w: w[3:5, ::2]),
    "stacked": (lambda w: torch.stack([w, w.t().t()])),
    "sum": (lambda w: w.sum()),
    "equal": (lambda w: torch.tensor(torch.equal(w, w))),
    "rounded and back": (lambda w: w.to(torch.bfloat16).to(torch.float32) + 0),
    "rounded, rows": (lambda w: nn.functional.embedding(torch.tensor([7]), w.half())),
    "converted to itself": (lambda w: w.to(torch.float32, copy=True) + 0),
    "integers": (lambda w: w.to(torch.int32) + 0),
    "copied into": (lambda w: torch.zeros(100, 48).copy_(w)),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_operations_are_those_of_the_decoded_tensor(matrix, operation):
    found, wanted = operation(matrix), operation(matrix.decoded())
    assert type(found) is torch.Tensor
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("change", ["float", "half", "bfloat16"])
def test_modules_convert_it_and_stay_compressed(matrix, change):
    layers = nn.Sequential(nn.Embedding(100, 48), nn.Linear(48, 100, bias=False))
    plain = copy.deepcopy(layers)
    for one, other in zip(layers, plain, strict=True):
        one.weight, other.weight = matrix.detach(), nn.Parameter(matrix.decoded())
    getattr(layers, change)()
    getattr(plain, change)()
    assert all(isinstance(layer.weight, CompressedTensor) for layer in layers)
    with torch.no_grad():
        assert torch.equal(layers(torch.arange(5)), plain(torch.arange(5)))


def test_convolutions_and_their_gradients(codec):
    weight = CompressedTensor(coded(codec, 16, 8, 3, 3))
    found = []
    for kernel in (weight, weight.decoded()):
        image = torch.randn(1, 8, 9, 9, generator=torch.Generator().manual_seed(2)).requires_grad_()
        result = nn.functional.conv2d(image, kernel, stride=2)
        result.square().sum().backward()
        found.append((result.detach(), image.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_autograd_keeps_it_compressed(matrix):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        nn.functional.linear(torch.ones(2, 48, requires_grad=True), matrix)
    assert any(isinstance(tensor, CompressedTensor) for tensor in saved)
    assert all(tensor.numel() < matrix.numel() for tensor in saved if not isinstance(tensor, CompressedTensor))


def test_rows_come_from_no_more_blocks_than_hold_them(matrix, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        CodedWeight,
        "_decode",
        lambda self, block, original=CodedWeight._decode: decoded.append(block) or original(self, block),
    )
    nn.functional.embedding(torch.tensor([40, 41, 50]), matrix)
    assert decoded == [matrix.coded.blocks[1]]


def test_rows_that_are_not_there(matrix):
    for row in (-1, 100):
        with pytest.raises(IndexError, match="out of range"):
            nn.functional.embedding(torch.tensor([row]), matrix)


def test_copies_share_the_bytes(matrix):
    for other in (copy.copy(matrix), copy.deepcopy(matrix), matrix.clone(), matrix.detach(), matrix.data):
        assert isinstance(other, CompressedTensor)
        assert other.coded is matrix.coded


def test_pickles(matrix):
    weight = matrix.t().to(torch.bfloat16)
    weight.mark = "kept"
    again = pickle.loads(pickle.dumps(weight))
    assert (again.mark, again.dtype, again.shape) == ("kept", torch.bfloat16, (48, 100))
    assert torch.equal(again.decoded(), weight.decoded())
    assert len(pickle.dumps([matrix] * 20)) < 1.1 * len(pickle.dumps(matrix))


def test_modules_take_it_for_a_parameter(matrix):
    module = nn.Module()
    module.weight = matrix
    assert dict(module.named_parameters()) == {"weight": matrix}
    assert nn.Parameter(matrix, requires_grad=False).requires_grad is False
    assert repr(matrix) == f"CompressedTensor('w', [100, 48], torch.float32, {matrix.coded.nbytes} bytes)"
    assert matrix.coded.nbytes < 0.2 * matrix.nbytes


def test_it_cannot_change(matrix):
    before = matrix.decoded()
    for action in (
        lambda: matrix.add_(1),
        lambda: torch.add(matrix, 1, out=matrix),
        lambda: nn.init.zeros_(matrix),
        lambda: matrix.copy_(torch.zeros(100, 48)),
        matrix.requires_grad_,
        matrix.data_ptr,
        matrix.untyped_storage,
    ):
        with pytest.raises(UsageError, match=r"tensor 'w'.*wanted"):
            action()
    assert torch.equal(matrix.decoded(), before)


def test_damage_shows_when_it_is_used(codec):
    intact = coded(codec, 64, 64)
    raw = bytearray(intact.blocks[0].to_bytes())
    raw[-1] ^= 0xFF
    damaged = CodedWeight("w", "F32", (64, 64), (EncodedTensor.from_bytes(bytes(raw)),), codec)
    with pytest.raises(FormatError, match="tensor 'w'"):
        nn.functional.linear(torch.ones(1, 64), CompressedTensor(damaged))

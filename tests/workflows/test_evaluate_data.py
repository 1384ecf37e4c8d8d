"""Data to evaluate on: what is read, in which order, and what is refused."""

import hashlib
import io
import zipfile

import numpy as np
import pytest

from nwc_core.errors import FormatError, NotFoundError
from nwc_workflows.evaluation.data_files import data_kind
from nwc_workflows.evaluation.images import open_images
from nwc_workflows.evaluation.subset import choose
from nwc_workflows.evaluation.texts import open_texts


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_a_subset_is_the_first_or_spread_evenly():
    assert [choose("abcdefg", most, "first") for most in (None, 7, 3)] == ["abcdefg", "abcdefg", "abc"]
    assert [list(choose("abcdefg", most, "evenly")) for most in (7, 3, 1)] == [[*"abcdefg"], ["a", "c", "e"], ["a"]]


# --- texts


def test_a_text_file_is_a_stream_and_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("eins\r\n\n zwei\neins\ndrei ü".encode())
    texts = open_texts(path)
    assert texts.stream() == "eins\r\n\n zwei\neins\ndrei ü"
    assert texts.items() == ["eins", "zwei", "drei ü"]
    assert texts.sha256 == sha256(path.read_bytes())
    assert data_kind(path) == "texts"


def test_a_folder_of_texts_in_the_order_of_names(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"text": "one\\ntwo", "id": 1}\n\n{"text": "three"}\n')
    (tmp_path / "a.txt").write_text("zero")
    (tmp_path / "notes.pdf").write_bytes(b"\xff")
    texts = open_texts(tmp_path)
    assert texts.stream() == "zero\none\ntwo\nthree"
    assert texts.items() == ["zero", "one\ntwo", "three"]
    lines = [f"{sha256((tmp_path / name).read_bytes())}  {name}\n" for name in ("a.txt", "b.jsonl")]
    assert texts.sha256 == sha256("".join(lines).encode())
    assert data_kind(tmp_path) == "texts"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"ab\xff", "a byte that is not UTF-8 at 2"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}', 'line 2: found .*; wanted an object with a string "text"'),
        ("a.jsonl", b"[", "line 1: found an error"),
    ],
)
def test_damaged_texts(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FormatError, match=message):
        open_texts(tmp_path / name).stream()


def test_data_that_is_none(tmp_path):
    with pytest.raises(NotFoundError):
        data_kind(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="neither texts nor images"):
        data_kind(tmp_path)


# --- images in a file


def arrays(count=5, size=4):
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return {"images": images, "labels": np.arange(count) % 3}


def test_images_of_a_file_come_batch_by_batch(tmp_path):
    path = tmp_path / "images.npz"
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays(), classes=np.array(["a", "b"]))
        assert data_kind(path) == "images"
        images = open_images(path, None, None)
        assert images.labels.tolist() == [0, 1, 2, 0, 1]
        batches = list(images.batches(2))
        assert [len(batch) for batch in batches] == [2, 2, 1]
        assert np.array_equal(np.concatenate([np.stack(batch) for batch in batches]), arrays()["images"])
        assert images.sha256 == sha256(path.read_bytes())
        few = open_images(path, 3, None)
        assert few.labels.tolist() == [0, 1, 2]
        assert [len(batch) for batch in few.batches(2)] == [2, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "no array 'labels'"),
        ({"labels": np.arange(4)}, r"labels: found int64 \[4\]; wanted whole numbers, one for each of 5"),
        ({"labels": np.zeros(5)}, r"labels: found float64 \[5\]"),
        ({"labels": np.array([0, 1, -1, 2, 1])}, "labels: found -1"),
        ({"labels": np.array([None] * 5)}, "labels: found object"),
        ({"images": np.zeros((5, 4, 4, 1), np.uint8)}, r"images: found uint8 \[5, 4, 4, 1\]"),
        ({"images": np.zeros((5, 4, 4, 3), np.float32)}, "images: found float32"),
        ({"images": np.asfortranarray(arrays()["images"])}, "Fortran order"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8), "labels": np.arange(0)}, "one for each of 0"),
    ],
)
def test_arrays_of_another_kind(tmp_path, changes, message):
    held = {name: array for name, array in {**arrays(), **changes}.items() if array is not None}
    np.savez(tmp_path / "a.npz", **held)
    with pytest.raises(FormatError, match=message):
        open_images(tmp_path / "a.npz", None, None)


def npz(path, images_header, data):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        buffer = io.BytesIO()
        np.lib.format.write_array_header_1_0(buffer, images_header)
        archive.writestr("images.npy", buffer.getvalue() + data)
        labels = io.BytesIO()
        np.save(labels, np.zeros(2, np.int64))
        archive.writestr("labels.npy", labels.getvalue())


@pytest.mark.parametrize("count", [10**12, 3, 1])
def test_a_header_that_claims_more_or_less_than_there_is(tmp_path, count):
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, 4, 4, 3)}
    npz(tmp_path / "a.npz", header, bytes(2 * 48))
    with pytest.raises(FormatError, match="wanted an array of numbers of that size"):
        open_images(tmp_path / "a.npz", None, None)


def test_a_damaged_file(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK\x03\x04 no zip at all")
    with pytest.raises(FormatError, match="wanted an intact npz file"):
        open_images(path, None, None)
    np.savez(path, **arrays(size=32))
    data = bytearray(path.read_bytes())
    data[2000] ^= 1  # inside of the first array: the zip's own checksum tells
    path.write_bytes(data)
    images = open_images(path, None, None)
    with pytest.raises(FormatError, match="images: found damage"):
        list(images.batches(2))


# --- images in a folder


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of cats, one of a dog."""
    image = pytest.importorskip("PIL.Image")
    for i, name in enumerate(["cat/1.png", "cat/2.png", "cat/3.PNG", "dog/1.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.fromarray(np.full((4, 5, 3), 10 * i, np.uint8)).save(tmp_path / name)
    (tmp_path / "cat" / "notes.md").write_text("no picture")
    return tmp_path


def test_a_folder_gives_every_class_in_turn(pictures):
    assert data_kind(pictures) == "images"
    images = open_images(pictures, None, None)
    assert images.labels.tolist() == [0, 1, 0, 0]
    assert [int(picture[0, 0, 0]) for batch in images.batches(3) for picture in batch] == [0, 30, 10, 20]
    assert next(images.batches(1))[0].shape == (4, 5, 3)
    assert open_images(pictures, 2, {"dog": 0, "cat": 4, "owl": 1}).labels.tolist() == [4, 0]


def test_a_class_that_the_model_has_not(pictures):
    with pytest.raises(FormatError, match=r"sub-folder 'dog': .* such as 'cat'"):
        open_images(pictures, None, {"cat": 0})


def test_a_damaged_picture_is_named(pictures):
    (pictures / "cat" / "2.png").write_bytes(b"\x89PNG\r\n")
    images = open_images(pictures, None, None)
    with pytest.raises(FormatError, match=r"cat/2\.png: found a damaged image"):
        list(images.batches(10))

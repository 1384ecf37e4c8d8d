"""CATALOG.yaml: what is refused, in which words; which models it stands for, and with which options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from checkpoints import normal, save

from nwc_core.errors import UsageError
from nwc_workflows.bench.memory_store import MemoryStore
from nwc_workflows.catalog.file import read_catalog
from nwc_workflows.catalog.members import find_members, find_models
from nwc_workflows.targets import Target

GOOD = "destination: out/{name}\nmodels: [{source: a}]\n"


@pytest.fixture
def catalog(tmp_path, monkeypatch):
    """Writes a file in an empty folder, which is the current one, and reads it."""
    monkeypatch.chdir(tmp_path)

    def read(text):
        (tmp_path / "c.yaml").write_text(text)
        return read_catalog("c.yaml")

    return read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "c.yaml: found nothing; wanted keys and values"),
        ("- a\n", "c.yaml: found ['a']; wanted keys and values"),
        ("models: [", "c.yaml, line 1: "),
        ("a: !!python/object:os.system x\n", "c.yaml, line 1: could not determine a constructor"),
        (GOOD + "price: 1\nprice: 2\n", "c.yaml, line 4: found the key 'price' twice"),
        ("models: [{source: a}]\n", "c.yaml: destination: found nothing; wanted this key"),
        ("destination: out/{name}\n", "c.yaml: models: found nothing; wanted this key"),
        ("destination: out/{name}\nmodels: []\n", "c.yaml: models: found []; wanted "),
        ("destination: out/{name}\nmodels: a\n", "c.yaml: models: found 'a'; wanted a list"),
        ("destination: out\nmodels: [{source: a}]\n", "c.yaml: destination: found 'out'; wanted a location such as"),
        ("destination: s3://{name}/x\nmodels: [{source: a}]\n", "must not be in the place of the bucket"),
        ("destination: s3://b-{name}/x\nmodels: [{source: a}]\n", "must not be in the place of the bucket"),
        (GOOD + "prise: 1\n", "c.yaml: prise: found a key of this name; wanted one of destination, models, defaults,"),
        (GOOD + "price: cheap\n", "c.yaml: price: found 'cheap'; wanted a number"),
        (GOOD + "price: -1\n", "c.yaml: price: found -1; wanted greater than or equal to 0"),
        (GOOD + "price: .nan\n", "c.yaml: price: found nan; wanted a finite number"),
        (GOOD + "limits: {models: 0}\n", "c.yaml: limits.models: found 0; wanted greater than or equal to 1"),
        (
            GOOD + "limits: {gpus: 1}\n",
            "c.yaml: limits.gpus: found a key of this name; wanted one of workers, memory_gib,",
        ),
        (GOOD + "defaults: {bits: 0.1}\n", "c.yaml: defaults.bits: found 0.1; wanted greater than or equal to 0.25"),
        (GOOD + "defaults: {bits: '4'}\n", "c.yaml: defaults.bits: found '4'; wanted a number"),
        (
            GOOD + "defaults: {preset: best}\n",
            "c.yaml: defaults.preset: found 'best'; wanted 'scalar', 'fast', 'default' or",
        ),
        (GOOD + "defaults: {quality: kl}\n", "c.yaml: defaults.quality: found 'kl'; wanted METRIC=VALUE"),
        (GOOD + "defaults: {bits: 4, max_bytes: 9}\n", "c.yaml: models[0]: bits and max_bytes: found both"),
        (GOOD + "defaults: {quality: kl=0.1}\n", "c.yaml: models[0]: kl=0.1: found no --quality-data"),
        (GOOD + "defaults: {recover: 1.0}\n", "c.yaml: models[0]: --recover: found no --recover-data"),
        (GOOD + "defaults: {source: a}\n", "c.yaml: defaults.source: found a key of this name; wanted one of bits,"),
        (
            "destination: out/{name}\nmodels: [{source: a}, {bits: 4}]\n",
            "c.yaml: models[1]: found neither source nor prefix",
        ),
        (
            "destination: out/{name}\nmodels: [{source: a, prefix: b}]\n",
            "c.yaml: models[0]: found both source and prefix",
        ),
        (
            "destination: out/{name}\nmodels: [{prefix: a, name: b}]\n",
            "models[0]: found name with prefix; wanted it without",
        ),
        ("destination: out/{name}\nmodels: [{source: a, include: [b]}]\n", "models[0]: found include with source"),
        (
            "destination: out/{name}\nmodels: [{source: a, bits: x}]\n",
            "c.yaml: models[0].bits: found 'x'; wanted a number",
        ),
        (
            "destination: out/{name}\nmodels: [{source: a, bit: 4}]\n",
            "c.yaml: models[0].bit: found a key of this name;",
        ),
        (
            "destination: out/{name}\nmodels: [{source: a, name: ../b}]\n",
            "c.yaml: models[0].name: found '../b'; wanted a name",
        ),
        ("destination: out/{name}\nmodels: [{source: a, name: .b}]\n", "no part of it may start with a dot"),
        ("destination: out/{name}\nmodels: [{source: a, name: b/status.json}]\n", "no part of it may be status.json"),
        (
            "destination: out/{name}\nmodels: [{source: a, name: 7}]\n",
            "found 7; wanted text (in quotes where it looks like",
        ),
    ],
)
def test_what_is_wrong_is_named(catalog, text, message):
    with pytest.raises(UsageError) as refused:
        catalog(text)
    assert message in str(refused.value)
    assert str(refused.value).startswith("c.yaml")


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.yaml: cannot be read: No such file"):
        read_catalog(tmp_path / "nothing.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff")
    with pytest.raises(UsageError, match=r"bytes\.yaml: found bytes that are not UTF-8 at 3"):
        read_catalog(tmp_path / "bytes.yaml")


@pytest.mark.parametrize(
    ("destination", "root"),
    [
        ("s3://bucket/{name}", "s3://bucket"),
        ("s3://bucket/a/b/{name}/v1", "s3://bucket/a/b"),
        ("s3://bucket/a/pre-{name}", "s3://bucket/a"),
        ("out/{name}", "out"),
        ("{name}", "."),
        ("/{name}", "/"),
    ],
)
def test_the_root_is_what_comes_before_the_name(catalog, destination, root):
    assert catalog(f"destination: '{destination}'\nmodels: [{{source: a}}]\n").root == root


def requests(catalog, text):
    return {member.name: member.request for member in find_members(catalog(text), "c.yaml")}


def test_entries_override_defaults(catalog):
    found = requests(
        catalog,
        """
destination: out/{name}
defaults: {max_bytes: 1000, preset: fast, calibration: "cal/{name}", gate: kl=0.5, quality_data: held.txt}
models:
  - {source: a}
  - {source: b, bits: 3}
  - {source: c, calibration: null, gate: null, quality_data: null, preset: max}
  - {source: d, quality: kl=0.1, window: 99}
""",
    )
    assert found["a"].options.max_bytes == 1000
    assert (found["a"].calibration, found["a"].options.gate) == ("cal/a", Target("kl", 0.5))
    assert (found["b"].options.bits, found["b"].options.max_bytes) == (3.0, None)
    assert found["b"].options.preset == "fast"
    assert (found["c"].calibration, found["c"].options.gate, found["c"].options.preset) == (None, None, "max")
    assert (found["d"].options.quality, found["d"].options.gate) == (Target("kl", 0.1), None)
    assert (found["d"].options.max_bytes, found["d"].measuring) == (None, {"window": 99})


def listed(*keys):
    store = MemoryStore("memory://models")
    for key in keys:
        store.put(key, b"12")
    return store


def test_every_folder_with_weights_is_a_model():
    store = listed(
        "one/model.safetensors",
        "one/onnx/model.safetensors",
        "one/config.json",
        "deep/er/two/weights.safetensors",
        "sharded/model-00001-of-00002.safetensors",
        "sharded/model-00002-of-00002.safetensors",
        "sharded/model.safetensors.index.json",
        "no-index/model-00001-of-00002.safetensors",
        "no-index/model-00002-of-00002.safetensors",
        "single/a.safetensors",
        "single/b.safetensors",
        "single/below/model.safetensors",
        "stray.safetensors",
        "empty/config.json",
        ".hidden/model.safetensors",
        "one/.cache/x/model.safetensors",
        f"artifact/payload-{'0' * 32}.safetensors",
        f"artifact/codec-{'0' * 32}.safetensors",
        "artifact/manifest.json",
        f"calibration/statistics-{'0' * 32}.safetensors",
    )
    assert find_models(store) == [
        ("deep/er/two", "memory://models/deep/er/two", 2),
        ("no-index", "memory://models/no-index", 4),  # which opening it will refuse, with the reason
        ("one", "memory://models/one", 2),
        ("sharded", "memory://models/sharded", 4),
        ("single/a", "memory://models/single/a.safetensors", 2),
        ("single/b", "memory://models/single/b.safetensors", 2),
        ("single/below", "memory://models/single/below", 2),
        ("stray", "memory://models/stray.safetensors", 2),
    ]
    assert store.requests == {"PUT": len(store.objects), "LIST": 1}


def test_a_prefix_that_is_a_model_itself():
    store = listed("model.safetensors", "more/model.safetensors")
    assert find_models(store) == [("models", "memory://models", 2)]


def test_checkpoints_of_a_training_come_in_its_order():
    store = MemoryStore()
    names = ["run/step_2000", "run/step_16000", "run/step_400", "run/final", "a/7b", "a/13b"]
    for name in names:
        store.put(f"{name}/model.safetensors", b"x")
    found = [name for name, _, _ in find_models(store)]
    assert found == ["a/7b", "a/13b", "run/final", "run/step_400", "run/step_2000", "run/step_16000"]


@pytest.fixture
def models(tmp_path):
    for name in ("a", "b/old/c", "b/d", "e"):
        save(tmp_path / "models" / name / "model.safetensors", {"w": normal(4)})


def test_patterns_and_entries_of_their_own(catalog, models):
    text = """
destination: out/{name}
models:
  - {source: models/e, name: special, bits: 9}
  - {prefix: models, include: ["a", "b/*", "e"], exclude: ["*/old/*"], bits: 8}
"""
    found = requests(catalog, text)
    assert {name: request.options.bits for name, request in found.items()} == {"special": 9.0, "a": 8.0, "b/d": 8.0}
    members = find_members(catalog(text), "c.yaml")
    assert [member.nbytes > 0 for member in members] == [True] * 3
    assert [member.destination for member in members] == ["out/special", "out/a", "out/b/d"]


def test_results_below_a_prefix_are_no_models(catalog, models):
    save_to = "models/results/{name}"
    first = requests(catalog, f"destination: {save_to}\nmodels: [{{prefix: models}}]\n")
    save_path = "models/results/a/restored"
    save(f"{save_path}/model.safetensors", {"w": normal(4)})
    assert requests(catalog, f"destination: {save_to}\nmodels: [{{prefix: models}}]\n").keys() == first.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "models: [{source: models/a}, {source: x/a}]",
            "models[1]: found the name 'a' for x/a and, in models[0], for models/a",
        ),
        ("models: [{source: x, name: a}, {prefix: models}]", "models[1]: found the name 'a' for file://"),
        ("models: [{source: x, name: b}, {prefix: models}]", "inside that of 'b' (models[0]); wanted them apart"),
        ("models: [{source: /}]", "models[0].source: found '/'; wanted a name beside it"),
        ("models: [{source: out/a}]", "models[0]: found the source out/a among the results, below out"),
        ("models: [{source: ., name: all}]", "destination: found out/all inside the source . (models[0])"),
        ("models: [{prefix: out2}]", "models[0].prefix: found no folder with safetensors files below out2"),
        (
            "models: [{prefix: models, include: [z]}]",
            "models[0].prefix: found 4 models, none of them wanted below models",
        ),
    ],
)
def test_places_that_get_in_each_others_way(catalog, models, text, message):
    read = catalog(f"destination: out/{{name}}\n{text}\n")
    with pytest.raises(UsageError, match=re.escape(message)):
        find_members(read, "c.yaml")


def test_the_documentations_examples_are_some(catalog):
    page = (Path(__file__).resolve().parents[2] / "docs" / "catalogs.md").read_text()
    large, small = re.findall(r"^```yaml\n(destination: .*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert catalog(small).root == "compressed"
    read = catalog(large)
    assert (read.root, len(read.models), read.limits.models) == ("s3://archive/models", 2, 16)

"""`nwc evaluate`: models of every kind, as checkpoints and as artifacts."""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import contents
from evaluation_models import FACTORY, artifact_of, change_weights, make_bert, make_cnn, make_llama, text
from s3_server import new_bucket, raw_client, s3_server

import nwc_core
from nwc_core.store import open_store
from nwc_workflows import demo
from nwc_workflows.decompress import decompress
from nwc_workflows.evaluate import EvaluateOptions, prepare
from nwc_workflows.evaluation.stored import open_model

pytest.importorskip("transformers")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """(checkpoint, artifact) of a language model. Shared: not to be changed."""
    folder = tmp_path_factory.mktemp("llama")
    return make_llama(folder / "model"), artifact_of(folder / "model", folder / "model.nwc")


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    """(checkpoint, artifact) of a network for --factory. Shared: not to be changed."""
    folder = tmp_path_factory.mktemp("cnn")
    return make_cnn(folder / "model"), artifact_of(folder / "model", folder / "model.nwc", bits=330)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory, with a text, images and a module of factories."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_factory", raising=False)
    (tmp_path / "text.txt").write_text(text(333))
    (tmp_path / "own_factory.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "images.npz",
        images=rng.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8),
        labels=rng.integers(0, 4, 50),
    )
    return tmp_path


@pytest.fixture
def evaluate(nwc, here):
    """Runs the command, which must succeed; returns its JSON."""

    def run(*arguments):
        code, out, err = nwc("evaluate", *arguments, "--output", "json")
        assert code == 0, err
        return json.loads(out)

    return run


# --- language models


def test_a_language_model_and_its_artifact(evaluate, llama, here):
    model, artifact = llama
    restored = here / "restored"
    with nwc_core.open(artifact) as opened:
        decompress(opened, open_store(restored))
    found = evaluate(model, artifact, restored, model, "--data", "text.txt", "--window", 32, "--out", "out.json")
    assert found == json.loads((here / "out.json").read_text())
    assert found["task"] == "language"
    assert found["data"].items() >= {"windows": 11, "window": 32, "tokens": 333}.items()
    from_artifact, from_restored, itself = found["compressed"]
    for key in ("perplexity", "perplexity_change", "kl", "top1_agreement"):
        assert from_artifact[key] == from_restored[key]  # the same weights, bit for bit
    assert 0 < from_artifact["kl"]["low"] < from_artifact["kl"]["high"] < 0.1
    assert 0.8 < from_artifact["top1_agreement"]["value"] <= 1
    assert itself["kl"]["value"] == itself["perplexity_change"]["high"] == 0
    assert itself["top1_agreement"]["low"] == 1

    original = found["original"]
    assert original["perplexity"] == itself["perplexity"]
    assert original["perplexity"]["value"] == pytest.approx(perplexity(model, text(333)), rel=1e-5)
    assert original["bits_per_weight"] == pytest.approx(16, rel=0.1)
    objects = ("payload-", "index-", "codec-", "manifest.json")
    nbytes = sum(len(data) for path, data in contents(artifact).items() if path.startswith(objects))
    assert from_artifact["bytes"] == nbytes
    assert from_artifact["bits_per_weight"] == pytest.approx(8 * nbytes / original["weights"])


def perplexity(folder, words):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(folder)(words, add_special_tokens=False, return_tensors="pt").input_ids[0]
    total = count = 0
    with torch.no_grad():
        for part in ids.split(32):
            logits = model(part[None]).logits[0, :-1]
            total += float(torch.nn.functional.cross_entropy(logits, part[1:], reduction="sum"))
            count += len(part) - 1
    return math.exp(total / count)


def test_the_figures_do_not_depend_on_the_batch(evaluate, llama):
    found = [
        evaluate(*llama, "--data", "text.txt", "--window", 16, "--max-tokens", 100, "--batch", batch)
        for batch in (1, 5)
    ]
    assert found[0]["data"] == found[1]["data"]
    assert found[0]["data"]["tokens"] == 100
    a, b = (each["compressed"][0] for each in found)
    assert a["kl"]["value"] == pytest.approx(b["kl"]["value"], rel=1e-3)
    assert a["kl"]["low"] == pytest.approx(b["kl"]["low"], rel=1e-3)


def test_the_table_shows_every_model(nwc, llama, here):
    code, out, err = nwc("evaluate", *llama, "--data", "text.txt", "--window", 64)
    assert code == 0
    assert "language: 6 windows of text.txt" in err
    assert "evaluate: done, 12 windows" in err
    header, _, original, compressed, last = out.splitlines()
    assert all(title in header for title in ("bits/weight", "perplexity", "KL", "top-1 agreement"))
    assert str(llama[0]) in original
    assert str(llama[1]) in compressed
    assert "SHA-256" in last


def test_only_small_files_of_an_artifact_touch_the_disk(llama):
    stored = open_model(str(llama[1]))
    with stored.folder() as folder:
        written = {path.name for path in folder.rglob("*")}
        config = json.loads((folder / "config.json").read_text())
    assert {"config.json", "tokenizer.json"} <= written
    assert not any(name.endswith(".safetensors") for name in written)
    assert not folder.exists()
    assert "quantization_config" not in config


def test_a_single_file_takes_the_originals_config(evaluate, llama):
    found = evaluate(llama[0], llama[0] / "model.safetensors", "--data", "text.txt", "--max-tokens", 64)
    assert found["compressed"][0]["kl"]["value"] == 0
    assert found["compressed"][0]["model"].endswith("model/model.safetensors")


def test_tied_weights_are_stored_once(evaluate, here):
    model = make_llama(here / "tied", tied=True)
    assert "lm_head.weight" not in open_model(str(model)).state()
    found = evaluate(model, artifact_of(model, here / "tied.nwc"), "--data", "text.txt")
    assert 0 < found["compressed"][0]["kl"]["value"] < 0.1


def test_weights_that_do_not_fit_are_named(failing, llama, here):
    broken = shutil.copytree(llama[0], here / "broken")

    def change(tensors):
        tensors["model.extra"] = tensors.pop("model.layers.1.mlp.up_proj.weight")
        tensors["model.norm.weight"] = tensors["model.norm.weight"][:3].clone()

    change_weights(broken, change)
    line = failing("evaluate", llama[0], broken, "--data", "text.txt")
    assert "broken" in line
    assert "no tensor 'model.layers.1.mlp.up_proj.weight'" in line
    assert "the model has not: 'model.extra'" in line
    assert "model.norm.weight [3] for [64]" in line


def test_a_config_of_a_much_larger_model_is_not_believed(failing, llama, here):
    huge = shutil.copytree(llama[0], here / "huge")
    config = json.loads((huge / "config.json").read_text())
    (huge / "config.json").write_text(json.dumps({**config, "vocab_size": 10**10}))
    assert "config.json: found a model of 12800" in failing("evaluate", llama[0], huge, "--data", "text.txt")


def test_models_that_cannot_be_evaluated(failing, nwc, llama, here):
    folder = shutil.copytree(llama[0], here / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no such"}))
    assert "what transformers cannot open" in failing("evaluate", folder, folder, "--data", "text.txt")
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["T5ForConditionalGeneration"]}))
    code, _, err = nwc("evaluate", folder, folder, "--data", "text.txt")
    assert code == 2
    assert "found T5ForConditionalGeneration; wanted a decoder-only" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-items", 3], "--max-items says nothing about a model of the kind 'language'; wanted --max-tokens"),
        (["--window", 512], "--window: found 512; wanted at most 256"),
        (["--kind", "classifier"], "holds texts"),
        (["--factory", "own_factory"], "wanted module:function"),
        (["--factory", "no_such:make"], "cannot import 'no_such'"),
        (["--factory", "own_factory:made"], "has no function 'made'"),
        (["--out", "no/such/file.json"], "no such folder"),
    ],
)
def test_wrong_usage(nwc, llama, here, arguments, message):
    code, out, err = nwc("evaluate", *llama, "--data", "text.txt", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_an_artifact_on_s3(evaluate, llama, monkeypatch):
    with s3_server() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        bucket = new_bucket(url)
        for key, data in contents(llama[1]).items():
            raw_client(url).put_object(Bucket=bucket, Key=f"llama.nwc/{key}", Body=data)
        found = evaluate(llama[1], f"s3://{bucket}/llama.nwc", "--data", "text.txt", "--max-tokens", 64)
    assert found["compressed"][0]["kl"]["value"] == 0
    assert found["compressed"][0]["fingerprint"] == found["original"]["fingerprint"]


# --- encoders


@pytest.mark.parametrize("head", [False, True])
def test_an_encoder_with_and_without_its_head(evaluate, here, head):
    model = make_bert(here / "bert", head)
    artifact = artifact_of(model, here / "bert.nwc")
    found = evaluate(model, artifact, model, "--data", "text.txt", "--kind", "encoder", "--max-items", 40)
    assert found["data"].items() >= {"texts": 40, "window": 128}.items()
    compressed, itself = found["compressed"]
    assert compressed["error_db"]["low"] < compressed["error_db"]["value"] < -10
    assert 0.9 < compressed["least_cosine"] < compressed["cosine"]["value"] < 1
    assert 0.5 < compressed["retrieval_agreement"]["value"] <= 1
    assert itself["error_db"]["value"] is None  # no error at all: minus infinity, which JSON has not
    assert itself["retrieval_agreement"]["low"] == 1


# --- classifiers


def test_a_network_of_a_factory(evaluate, cnn):
    found = evaluate(*cnn, cnn[0], "--data", "images.npz", "--factory", "own_factory:make", "--max-items", 40)
    assert (found["task"], found["data"]["images"]) == ("classifier", 40)
    compressed, itself = found["compressed"]
    assert itself["agreement"]["low"] == 1
    assert found["original"]["accuracy"] == itself["accuracy"]
    assert found["original"]["accuracy"]["value"] == pytest.approx(accuracy(cnn[0]))
    assert 0.7 < compressed["agreement"]["value"] <= 1
    change = compressed["accuracy"]["value"] - itself["accuracy"]["value"]
    assert compressed["accuracy_change"]["value"] == pytest.approx(change)


def accuracy(folder):
    """Of the network on the first 40 images, by its definition."""
    held = np.load("images.npz")
    t = open_model(str(folder)).state()
    x = (held["images"][:40] / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
    x = torch.nn.functional.conv2d(torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32), t["conv.weight"])
    scores = (x / (1 + 1e-5) ** 0.5).relu().mean((2, 3)) @ t["linear.weight"].T
    return float((scores.argmax(1).numpy() == held["labels"][:40]).mean())


def test_weights_that_do_not_fit_a_factorys_network(failing, cnn, here):
    broken = shutil.copytree(cnn[0], here / "broken")

    def change(tensors):
        tensors["extra"] = tensors.pop("norm.running_var")
        tensors["conv.weight"] = tensors["conv.weight"][:, :2].clone()

    change_weights(broken, change)
    arguments = ("--data", "images.npz", "--factory", "own_factory:make")
    line = failing("evaluate", cnn[0], broken, *arguments)
    assert "no tensor 'norm.running_var'; tensors that the model has not: 'extra'" in line
    assert "conv.weight [32, 2, 3, 3] for [32, 3, 3, 3]" in line
    wrong = failing("evaluate", *cnn, "--data", "images.npz", "--factory", "own_factory:nothing")
    assert "found int; wanted a torch.nn.Module" in wrong


def test_an_image_classifier_of_transformers(evaluate, here):
    image = pytest.importorskip("PIL.Image")
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(4)
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label={0: "cat", 1: "dog"},
        label2id={"cat": 0, "dog": 1},
    )
    ResNetForImageClassification(config).save_pretrained(here / "resnet")
    processor = {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}}
    (here / "resnet" / "preprocessor_config.json").write_text(json.dumps(processor))
    rng = np.random.default_rng(1)
    for name in ("dog", "cat"):
        (here / "pictures" / name).mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)
            image.fromarray(pixels).save(here / "pictures" / name / f"{i}.png")
    found = evaluate("resnet", "resnet", "--data", "pictures")
    assert found["data"]["images"] == 6
    assert found["compressed"][0]["agreement"]["value"] == 1
    assert found["original"]["accuracy"]["value"] in [i / 6 for i in range(7)]


# --- models whose figures are known


@pytest.mark.slow
def test_a_trained_language_model(kit):
    model = str(kit / "models" / "lit-llama-6m")
    ready = prepare(model, [model], EvaluateOptions(kit / "text" / "heldout.txt", max_tokens=24_576))
    found = ready.run()
    assert found.original.figures["perplexity"].value == pytest.approx(58.86, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "accuracy"), [("resnet20-cifar10", 0.8135), ("resnet32-cifar10", 0.8380)])
def test_a_trained_classifier(kit, evaluate, name, accuracy):
    model = kit / "models" / name
    images = kit / "images" / "cifar10_test_2000.npz"
    found = evaluate(model, model, "--data", images, "--factory", "cifar_resnet:make")
    assert found["original"]["accuracy"]["value"] == accuracy
    assert found["original"]["accuracy"]["low"] < accuracy < found["original"]["accuracy"]["high"]


@pytest.mark.slow
def test_a_trained_encoder(minilm, evaluate, here):
    """The figures of the demo, which opens the decompressed checkpoint with transformers alone."""
    artifact = artifact_of(minilm, here / "minilm.nwc", bits=4.5)
    sentences = Path(demo.__file__).with_name("demo_sentences.txt")
    (found,) = evaluate(minilm, artifact, "--data", sentences)["compressed"]
    with nwc_core.open(artifact) as opened:
        decompress(opened, open_store(here / "restored"))
    before, after = (demo.embed(folder, sentences.read_text().splitlines()) for folder in (minilm, here / "restored"))
    error = (before - after).square().sum() / before.square().sum()
    assert found["error_db"]["value"] == pytest.approx(10 * math.log10(error), abs=0.01)
    assert found["least_cosine"] == pytest.approx(float((before * after).sum(1).min()), abs=1e-5)

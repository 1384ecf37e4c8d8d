"""Artifacts in transformers: the same model as from the decompressed checkpoint, decoded or compressed in memory."""

import copy
import json
import pickle
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors
import torch
import transformers
from calibration_models import FAMILIES, make
from evaluation_models import VOCABULARY, artifact_of, make_llama
from s3_server import Proxy, new_bucket, raw_client, s3_server
from safetensors.torch import save_file
from transformers.quantizers import auto

import nwc_core
from nwc_core import hf
from nwc_core.errors import FormatError, IntegrityError, NotFoundError, UsageError
from nwc_core.hf import weights
from nwc_core.store import open_store
from nwc_workflows import blocks
from nwc_workflows.carried import FOR_TRANSFORMERS
from nwc_workflows.decompress import decompress

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", name="places")
def places_by_family(tmp_path_factory):
    """(artifact, decompressed checkpoint) by family, each made once. Shared: not to be changed."""
    made = {}

    def get(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family] = restored(artifact_of(make(folder / "model", family), folder / "model.nwc"))
        return made[family]

    return get


def restored(artifact):
    plain = artifact.parent / f"{artifact.stem}-plain"
    decompress(nwc_core.open(artifact), open_store(plain))
    return artifact, plain


def class_of(family):
    name, kind, _ = FAMILIES[family]
    return getattr(transformers, f"{name}{kind}")


def output(model):
    """All that the model puts out, of an input that suits it."""
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        inputs = {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator).to(model.dtype)}
    else:
        inputs = {"input_ids": torch.randint(VOCABULARY, (2, 9), generator=generator)}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"][:, :4]
    with torch.no_grad():
        return model(**inputs)[0]


def kept(model):
    return {name for name, weight in model.named_parameters() if isinstance(weight, hf.CompressedTensor)}


def same(model, other):
    return torch.equal(output(model), output(other))


# T5 ties three, mixtral's experts are merged while they are loaded, gpt2 has its weights the other way round.
@pytest.mark.parametrize("family", ["llama", "tied-llama", "bert", "t5", "vit", "mobilenet", "mixtral", "gpt2"])
def test_the_model_is_the_decompressed_one(places, family):
    artifact, plain = places(family)
    reference = class_of(family).from_pretrained(plain)
    decoded = class_of(family).from_pretrained(artifact)
    compressed = hf.from_pretrained(artifact, class_of(family), compressed=True)
    assert same(decoded, reference)
    assert same(compressed, reference)
    wanted, found = reference.state_dict(), decoded.state_dict()
    assert wanted.keys() == found.keys() == compressed.state_dict().keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not kept(decoded)
    assert kept(compressed)
    assert not any(weight.requires_grad for name, weight in compressed.named_parameters() if name in kept(compressed))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, "auto"])
def test_types_are_transformers_own(places, dtype):
    artifact, plain = places("llama")
    reference = transformers.AutoModelForCausalLM.from_pretrained(plain, dtype=dtype)
    decoded = transformers.AutoModelForCausalLM.from_pretrained(artifact, dtype=dtype)
    compressed = hf.from_pretrained(artifact, transformers.AutoModelForCausalLM, compressed=True, dtype=dtype)
    assert decoded.dtype == compressed.dtype == reference.dtype
    assert same(decoded, reference)
    assert same(compressed, reference)


def test_the_type_is_found_where_config_json_does_not_tell(places, tmp_path):
    folder = shutil.copytree(places("llama")[1], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in nwc_core.load(places("llama")[0]).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    artifact, plain = restored(artifact_of(folder, tmp_path / "model.nwc"))
    reference = transformers.AutoModelForCausalLM.from_pretrained(plain)
    assert reference.dtype == torch.bfloat16
    read = transformers.AutoConfig.from_pretrained(plain)
    for model in (
        transformers.AutoModelForCausalLM.from_pretrained(artifact),
        hf.from_pretrained(artifact, transformers.AutoModelForCausalLM, compressed=True),
        hf.from_pretrained(artifact, transformers.AutoModelForCausalLM, compressed=True, config=read),
    ):
        assert model.dtype == torch.bfloat16
        assert same(model, reference)


@pytest.mark.parametrize("options", [{"device_map": "cpu"}, {"low_cpu_mem_usage": True}, {"use_safetensors": True}])
def test_options_of_loading(places, options):
    pytest.importorskip("accelerate") if "device_map" in options else None
    artifact, plain = places("llama")
    reference = transformers.AutoModelForCausalLM.from_pretrained(plain)
    assert same(transformers.AutoModelForCausalLM.from_pretrained(artifact, **options), reference)
    assert same(hf.from_pretrained(artifact, transformers.AutoModelForCausalLM, compressed=True, **options), reference)


def test_what_belongs_into_the_config_gets_there(places):
    artifact, plain = places("bert")
    config = transformers.AutoConfig.from_pretrained(plain, num_labels=3)
    for options in ({"num_labels": 3}, {"config": config}):
        model = hf.from_pretrained(
            artifact, transformers.AutoModelForSequenceClassification, compressed=True, **options
        )
        assert model.classifier.out_features == 3
        assert "bert.embeddings.word_embeddings.weight" in kept(model)
    assert getattr(config, "quantization_config", None) is None


def test_a_head_is_left_out_and_reported(places):
    artifact, plain = places("llama")
    reference = transformers.AutoModel.from_pretrained(plain)
    for compressed in (False, True):
        model, report = hf.from_pretrained(
            artifact, transformers.AutoModel, compressed=compressed, output_loading_info=True
        )
        assert report["unexpected_keys"] == {"lm_head.weight"}
        assert not report["missing_keys"]
        assert same(model, reference)


def test_tied_weights_are_one(places):
    model = hf.from_pretrained(places("tied-llama")[0], transformers.AutoModelForCausalLM, compressed=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "model.embed_tokens.weight" in kept(model)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.lm_head.weight is copied.model.embed_tokens.weight
        assert same(copied, model)


def test_shards_and_tensors_of_several_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks.cut_tensor, "__defaults__", (2048,))
    monkeypatch.setattr(blocks, "MIN_TASK_WEIGHTS", 1 << 15)
    model = transformers.AutoModelForCausalLM.from_pretrained(make_llama(tmp_path / "whole"))
    model.save_pretrained(tmp_path / "model", max_shard_size="50kB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    artifact, plain = restored(artifact_of(tmp_path / "model", tmp_path / "model.nwc"))
    assert len(nwc_core.open(artifact).index.blocks("model.embed_tokens.weight")) > 1
    reference = transformers.AutoModelForCausalLM.from_pretrained(plain)
    assert same(transformers.AutoModelForCausalLM.from_pretrained(artifact), reference)
    compressed = hf.from_pretrained(artifact, transformers.AutoModelForCausalLM, compressed=True)
    assert "model.embed_tokens.weight" in kept(compressed)
    assert same(compressed, reference)
    with pytest.raises(IndexError, match="out of range"):
        compressed(torch.tensor([[VOCABULARY]]))


def test_transformers_own_argument_asks_for_compression(places):
    artifact, plain = places("bert")
    settings = hf.NwcConfig(compressed=True)
    with pytest.warns(UserWarning, match="loading attributes"):
        model = transformers.AutoModel.from_pretrained(artifact, quantization_config=settings)
    assert kept(model)
    assert same(model, transformers.AutoModel.from_pretrained(plain))


def test_many_threads_at_once(places):
    artifact, plain = places("bert")
    model = hf.from_pretrained(artifact, transformers.AutoModel, compressed=True)
    wanted = output(transformers.AutoModel.from_pretrained(plain))
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(found, wanted) for found in pool.map(output, [model] * 8))


@pytest.mark.parametrize("family", ["llama", "mobilenet"])
def test_gradients_reach_the_inputs(places, family):
    artifact, plain = places(family)
    models = class_of(family).from_pretrained(plain), hf.from_pretrained(artifact, class_of(family), compressed=True)
    found = []
    for model in models:
        name, shape = ("pixel_values", (1, 3, 16, 16)) if family == "mobilenet" else ("inputs_embeds", (1, 5, 32))
        inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        model(**{name: inputs})[0].square().sum().backward()
        found.append(inputs.grad)
    assert torch.equal(*found)
    assert found[0].any()


def test_a_compressed_model_is_not_saved_but_can_be_decoded(places, tmp_path, caplog):
    artifact, plain = places("tied-llama")
    model = hf.from_pretrained(artifact, transformers.AutoModelForCausalLM, compressed=True)
    with pytest.raises(ValueError, match="not serializable"):
        model.save_pretrained(tmp_path / "saved")
    model.dequantize()
    assert not kept(model)
    model.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert same(again, transformers.AutoModelForCausalLM.from_pretrained(plain))
    assert all(weight.requires_grad for weight in model.parameters())


def test_a_decoded_model_is_a_plain_one(places, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(places("llama")[0])
    assert all(weight.requires_grad for weight in model.parameters())
    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert not FOR_TRANSFORMERS.keys() & config.keys()
    assert same(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), model)
    model.half()  # which transformers refuses to quantized ones


@pytest.mark.parametrize("compressed", [False, True])
def test_what_cannot_be_trained_or_written_says_so(places, tmp_path, compressed):
    model = hf.from_pretrained(places("bert")[0], transformers.AutoModel, compressed=compressed)
    weight = model.embeddings.word_embeddings.weight
    actions = (
        lambda: weight.requires_grad_(True),
        lambda: setattr(weight, "requires_grad", True),
        weight.data.zero_,
        lambda: weight.detach().add_(1),
        lambda: save_file({"weight": weight.detach()}, tmp_path / "weight.safetensors"),
    )
    for action in actions:
        if compressed:
            with pytest.raises(UsageError, match=r"tensor 'embeddings.word_embeddings.weight'.* wanted"):
                action()
        else:
            action()


def test_conversions_and_moves_of_a_compressed_model(places):
    artifact, plain = places("llama")
    model = hf.from_pretrained(artifact, transformers.AutoModelForCausalLM, compressed=True)
    reference = transformers.AutoModelForCausalLM.from_pretrained(plain)
    for dtype in (torch.bfloat16, torch.float32):  # what bfloat16 rounded away does not come back
        model.to(dtype)
        reference.to(dtype)
        assert kept(model)
        assert same(model, reference)


def test_damage_is_named(places, tmp_path):
    artifact = shutil.copytree(places("llama")[0], tmp_path / "model.nwc")
    payload = next(artifact.glob("payload-*"))
    row = next(iter(nwc_core.open(artifact).index))
    data = bytearray(payload.read_bytes())
    data[row.offset + row.length // 2] ^= 1
    payload.write_bytes(data)
    for compressed in (False, True):
        with pytest.raises(IntegrityError, match=row.tensor.replace(".", r"\.")):
            hf.from_pretrained(artifact, transformers.AutoModelForCausalLM, compressed=compressed)
    payload.write_bytes(data[: row.offset + 1])
    with pytest.raises(IntegrityError, match=f"an object of {row.offset + 1} bytes"):
        transformers.AutoModelForCausalLM.from_pretrained(artifact)
    payload.unlink()
    with pytest.raises(NotFoundError, match="payload"):
        transformers.AutoModelForCausalLM.from_pretrained(artifact)


def test_without_the_import_transformers_says_what_to_do(places, monkeypatch):
    assert FOR_TRANSFORMERS["transformers_weights"] == weights.WEIGHTS_NAME
    monkeypatch.delitem(auto.AUTO_QUANTIZER_MAPPING, "nwc")
    monkeypatch.delitem(auto.AUTO_QUANTIZATION_CONFIG_MAPPING, "nwc")
    monkeypatch.setattr(transformers.modeling_utils, "safe_open", safetensors.safe_open)
    with pytest.raises(FileNotFoundError, match=re.escape(weights.WEIGHTS_NAME)):
        transformers.AutoModelForCausalLM.from_pretrained(places("llama")[0])


def test_without_transformers_the_import_says_what_to_do(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("nwc_core.hf")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'nwc\[transformers\]'"):
        import nwc_core.hf  # noqa: F401


def test_wrong_uses_are_refused(places, tmp_path):
    artifact, plain = places("llama")
    with pytest.raises(UsageError, match="no artifact; run `nwc compress`"):
        transformers.AutoModelForCausalLM.from_pretrained(plain, quantization_config=hf.NwcConfig())
    with pytest.raises(UsageError, match="AutoTokenizer, which has no weights"):
        hf.from_pretrained(artifact, transformers.AutoTokenizer, compressed=True)
    with pytest.raises(NotFoundError, match="no artifact is there"):
        hf.from_pretrained(tmp_path, transformers.AutoModelForCausalLM)
    with pytest.raises(UsageError, match=r"no config\.json"):
        save_file({"x": torch.randn(256, 256)}, tmp_path / "x.safetensors")
        hf.from_pretrained(artifact_of(tmp_path / "x.safetensors", tmp_path / "x.nwc"), transformers.AutoModel)
    with pytest.raises(FormatError, match="version 2"):
        hf.NwcConfig(version=2)


def test_a_model_cannot_stay_on_disk(places):
    pytest.importorskip("accelerate")  # transformers asks for it where it is given places
    with pytest.raises(UsageError, match="'disk'"):
        transformers.AutoModelForCausalLM.from_pretrained(places("llama")[0], device_map={"": "disk"})


def test_a_checkpoint_of_another_quantizer_is_refused(places, tmp_path):
    folder = shutil.copytree(places("bert")[1], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    artifact = artifact_of(folder, tmp_path / "model.nwc")
    for load in (
        transformers.AutoModel.from_pretrained,
        lambda place: hf.from_pretrained(place, transformers.AutoModel),
    ):
        with pytest.raises(UsageError, match=r"quantized by 'gptq'.*nwc decompress"):
            load(artifact)


def test_artifacts_made_before_this_open_too(places, tmp_path):
    """Their config.json gives no name for the weights."""
    artifact, plain = places("bert")
    old = shutil.copytree(artifact, tmp_path / "old.nwc")
    config = json.loads((old / "config.json").read_text())
    del config["transformers_weights"]
    (old / "config.json").write_text(json.dumps(config))
    assert same(transformers.AutoModel.from_pretrained(old), transformers.AutoModel.from_pretrained(plain))


@pytest.mark.parametrize("compressed", [False, True])
def test_straight_from_s3(places, monkeypatch, compressed):
    artifact, plain = places("llama")
    with s3_server() as server:
        bucket, proxy = new_bucket(server), Proxy(server)
        for path in artifact.rglob("*"):
            if path.is_file():
                key = f"a/{path.relative_to(artifact).as_posix()}"
                raw_client(server).put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        uri = f"s3://{bucket}/a"
        before = set(Path.cwd().iterdir())
        model = hf.from_pretrained(uri, transformers.AutoModelForCausalLM, compressed=compressed)
        requests = [request for request in proxy.log if "payload" in request.path]
        tokenizer = hf.from_pretrained(uri, transformers.AutoTokenizer)
        proxy.close()
    assert set(Path.cwd().iterdir()) == before
    assert len(requests) == len(list(artifact.glob("payload-*")))
    assert model.config.name_or_path == uri
    assert tokenizer("w1 w2")["input_ids"] == transformers.AutoTokenizer.from_pretrained(plain)("w1 w2")["input_ids"]
    assert same(model, transformers.AutoModelForCausalLM.from_pretrained(plain))
    assert bool(kept(model)) == compressed

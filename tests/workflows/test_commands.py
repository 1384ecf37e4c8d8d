"""The commands: exit codes, one JSON object on stdout, and the figures that people look for."""

import json
import re

import pytest
from checkpoints import BITS, SHARDS, all_tensors, contents, lossy_tensors, make_model, save, snapshot

NAMES = list(all_tensors())
WEIGHTS = sum(tensor.numel() for tensor in all_tensors().values())


@pytest.fixture
def as_json(nwc):
    """Runs a command with --output json: (exit code, the one JSON value, stderr)."""

    def run(*arguments):
        code, out, err = nwc(*arguments, "--output", "json")
        return code, json.loads(out), err  # anything beside the one value is an error

    return run


# --- JSON


def test_plan_as_json(as_json, model):
    code, data, err = as_json("plan", model, "--bits", BITS)
    assert code == 0
    assert set(data) == {
        *("weights", "tensors", "tasks", "source_bytes", "predicted_bytes", "predicted_bits", "carried_bytes"),
        *("bits", "bits_of_lossy_tensors", "worker_memory_bytes", "skipped", "lossless", "lossless_measured"),
    }
    assert data["weights"] == WEIGHTS
    assert [tensor["name"] for tensor in data["tensors"]] == NAMES
    assert set(data["tensors"][0]) == {"name", "dtype", "shape", "coder", "blocks"}
    assert set(data["tasks"][0]) == {"name", "bytes", "memory_bytes"}
    assert data["source_bytes"] == sum((model / name).stat().st_size for name in SHARDS)
    assert data["predicted_bits"] == pytest.approx(8 * data["predicted_bytes"] / WEIGHTS)
    assert data["predicted_bits"] == pytest.approx(BITS, abs=0.01)
    assert data["skipped"] == [
        {
            "path": "pytorch_model.bin",
            "size": 4,
            "reason": "pickle: never loaded, since loading runs code that the file carries",
        }
    ]
    assert "left out: pytorch_model.bin (4 B): pickle" in err


def test_compress_as_json(as_json, model, artifact, tmp_path, ray_cluster, small_tasks):
    code, data, err = as_json("compress", model, tmp_path / "out", "--bits", BITS)
    assert code == 0
    assert set(data) == {
        *("destination", "created", "tensors", "weights", "source_bytes", "weight_bytes", "carried_bytes"),
        *("bits_per_weight", "bits_of_lossy_tensors", "seconds", "fingerprint", "skipped"),
    }
    assert data["destination"] == f"file://{tmp_path}/out"
    assert data["created"] is True
    assert (data["tensors"], data["weights"]) == (len(NAMES), WEIGHTS)
    assert data["weight_bytes"] + data["carried_bytes"] == sum(map(len, contents(tmp_path / "out").values()))
    assert data["bits_per_weight"] == pytest.approx(8 * data["weight_bytes"] / WEIGHTS)
    assert re.search(r"compress: done, \S+ kB in", err)
    assert contents(tmp_path / "out") == contents(artifact)
    code, again, _ = as_json("compress", model, tmp_path / "out", "--bits", BITS)
    assert code == 0
    assert again == {**data, "created": False, "seconds": again["seconds"]}


def test_verify_as_json(as_json, own_artifact, model):
    code, data, _ = as_json("verify", own_artifact, "--source", model)
    assert code == 0
    assert data == {
        "artifact": f"file://{own_artifact}",
        "ok": True,
        "tensors": len(NAMES),
        "blocks": len(NAMES),
        "compared_with_source": True,
        "tuned": [],
        "exact": len(NAMES) - len(lossy_tensors()),
        "problems": [],
    }
    (own_artifact / "tokenizer.json").unlink()
    code, data, _ = as_json("verify", own_artifact)
    assert code == 1
    assert (data["ok"], data["compared_with_source"]) == (False, False)
    (problem,) = data["problems"]
    assert problem["where"] == "tokenizer.json"
    assert problem["message"] == f"file://{own_artifact}/tokenizer.json: no such object"


def test_inspect_as_json(as_json, artifact, model):
    code, data, _ = as_json("inspect", artifact)
    assert code == 0
    assert set(data) == {
        *("artifact", "tensors", "bytes", "source_bytes", "weights", "bits_per_weight", "job", "fingerprint"),
        *("files", "skipped"),
    }
    by_name = {tensor.pop("name"): tensor for tensor in data["tensors"]}
    assert list(by_name) == NAMES
    assert set(by_name["conv"]) == {
        *("dtype", "shape", "coders", "blocks", "bytes", "side_bytes", "bits_per_weight", "mse"),
    }
    assert {name for name, tensor in by_name.items() if tensor["coders"] == ["nwc"]} == set(lossy_tensors())
    assert all((tensor["mse"] > 0) == (tensor["coders"] == ["nwc"]) for tensor in by_name.values())
    assert by_name["empty"]["bits_per_weight"] is None  # JSON knows no infinity
    files = contents(artifact)
    assert sum(data["bytes"].values()) == sum(map(len, files.values()))
    assert data["bytes"]["payloads"] == sum(len(data) for name, data in files.items() if name.startswith("payload-"))
    assert data["bytes"]["manifest"] == len(files["manifest.json"])
    assert data["job"]["bits"] == BITS
    assert sorted(data["files"]) == sorted(set(contents(model)) - {*SHARDS, "pytorch_model.bin"})


def test_decompress_as_json(as_json, artifact, tmp_path):
    code, data, err = as_json("decompress", artifact, tmp_path / "back")
    assert code == 0
    assert set(data) == {"destination", "bytes", "files", "skipped"}
    assert {file["path"]: file["size"] for file in data["files"]} == {
        name: len(content) for name, content in contents(tmp_path / "back").items()
    }
    assert data["bytes"] == sum(file["size"] for file in data["files"])
    assert [skipped["path"] for skipped in data["skipped"]] == ["pytorch_model.bin"]
    assert "not in the artifact: pytorch_model.bin: pickle" in err


# --- text


def test_plan_in_words(nwc, model):
    code, out, _ = nwc("plan", model, "--bits", BITS)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["tensor", "dtype", "shape", "coder", "blocks"]
    assert any(re.fullmatch(r"conv\s+F32\s+24x16x3x3\s+nwc\s+1", line) for line in lines)
    assert any(re.fullmatch(r"scalar\s+F32\s+scalar\s+lossless\s+1", line) for line in lines)
    assert re.search(rf"{len(NAMES)} tensors, {WEIGHTS:,} weights: \d+ coded by nwc at \d\.\d+ bits per weight", out)
    assert re.search(r"\d+ kB of weights become about \d+ kB \(\d+\.\d{3} bits per weight, \d\.\d times smaller\)", out)
    assert re.search(r"1 task, each worker holds at most \d+ MB", out)


def test_compress_in_words(nwc, model, tmp_path, ray_cluster):
    code, out, _ = nwc("compress", model, tmp_path / "out", "--bits", BITS)
    assert code == 0
    assert re.fullmatch(
        rf"{tmp_path}/out: {len(NAMES)} tensors, \d+ kB -> \d+ kB, \d\.\d\d times smaller, \d+\.\d{{3}} bits per "
        r"weight, \S+ s; and \S+ kB of other files\n",
        out,
    )
    code, out, _ = nwc("compress", model, tmp_path / "out", "--bits", BITS)
    assert (code, out) == (0, f"{tmp_path}/out holds this very artifact already; nothing to do\n")


def test_verify_in_words(nwc, own_artifact, model):
    intact = f"{own_artifact}: all {len(NAMES)} tensors ({len(NAMES)} blocks) are intact"
    exact = len(NAMES) - len(lossy_tensors())
    assert nwc("verify", own_artifact)[:2] == (0, f"{intact}; {exact} are stored bit for bit\n")
    agree = f"{intact} and agree with the source; {exact} equal it bit for bit\n"
    assert nwc("verify", own_artifact, "--source", model)[:2] == (0, agree)
    for name in ("tokenizer.json", "vocab.txt"):
        (own_artifact / name).write_text("damaged")
    code, out, err = nwc("verify", own_artifact)
    assert (code, out) == (1, f"{own_artifact}: 2 problems\n")
    assert f"tokenizer.json: {own_artifact}/tokenizer.json: found 7 bytes; wanted 18 bytes" in err
    assert "vocab.txt: " in err


def test_inspect_in_words(nwc, artifact):
    code, out, _ = nwc("inspect", artifact, "--flat")
    assert code == 0
    assert re.search(r"^conv\s+F32\s+24x16x3x3\s+nwc\s+1\s+\d\.\d{3}\s+0\.0\d+\s+\d+\s+\d+\.\d %$", out, re.MULTILINE)
    assert re.search(r"^empty\s+F32\s+0\s+raw\s+1\s+0\s+0\s+\d+\s+0\.\d %$", out, re.MULTILINE)
    assert re.search(rf"^{WEIGHTS:,} weights, \d+ kB -> \d+ kB, \d+\.\d+ bits per weight, index and codec", out, re.M)
    shares = [float(share) for share in re.findall(r"(\d+\.\d) %$", out, re.MULTILINE)]
    assert len(shares) == len(NAMES)
    assert 90 < sum(shares) <= 100.5  # the rest is the headers of the payloads


def test_decompress_in_words(nwc, artifact, tmp_path):
    code, out, _ = nwc("decompress", artifact, tmp_path / "back")
    assert code == 0
    assert re.fullmatch(rf"{tmp_path}/back: 8 files, \d+ kB\n", out)


# --- exit codes


def one_line(err):
    """The error, which is one line, after any lines of progress and notes."""
    (line,) = [line for line in err.splitlines() if line.startswith("nwc: error: ")]
    assert "Traceback" not in err
    return line.removeprefix("nwc: error: ")


@pytest.mark.parametrize("command", ["plan", "compress", "verify", "inspect", "decompress", "export"])
def test_a_missing_input_fails_in_one_line(nwc, tmp_path, command):
    arguments = [tmp_path / "nowhere", *([tmp_path / "out"] if command in ("compress", "decompress", "export") else [])]
    code, out, err = nwc(command, *arguments)
    assert (code, out) == (1, "")
    assert str(tmp_path / "nowhere") in one_line(err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "0.1"], "bits: found 0.1; wanted at least 0.25 bits per weight"),
        (["--bits", "nan"], "bits: found nan; wanted at least 0.25 bits per weight"),
        (["--bits", "1"], "bits: found 1.0; wanted at least"),
        (["--bits", "many"], "Invalid value for '--bits'"),
        (["--preset", "best"], "Invalid value for '--preset'"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "compress"])
def test_wrong_options_are_wrong_usage(nwc, model, tmp_path, command, arguments, message):
    code, out, err = nwc(command, model, *([tmp_path / "out"] if command == "compress" else []), *arguments)
    assert (code, out) == (2, "")
    assert message in one_line(err)
    assert not (tmp_path / "out").exists()


def test_no_workers_are_wrong_usage(nwc, model, tmp_path):
    code, _, err = nwc("compress", model, tmp_path / "out", "--bits", BITS, "--workers", "0")
    assert code == 2
    assert one_line(err) == "workers: found 0; wanted at least 1"
    assert not (tmp_path / "out").exists()


def test_a_destination_that_is_taken_fails(nwc, as_json, model, own_artifact):
    before = snapshot(own_artifact)
    code, out, err = nwc("compress", model, own_artifact, "--bits", "14")
    assert (code, out) == (1, "")
    assert f"different artifact (bits: there {BITS}, here 14.0); nothing was changed" in one_line(err)
    code, data, _ = as_json("compress", model, own_artifact, "--bits", "14")
    assert code == 1
    assert data["error"]["type"] == "AlreadyExistsError"
    assert data["error"]["key"] == f"file://{own_artifact}/manifest.json"
    assert snapshot(own_artifact) == before


def test_a_destination_inside_the_source_is_wrong_usage(nwc, tmp_path):
    source = make_model(tmp_path / "model")
    code, _, err = nwc("compress", source, source / "out", "--bits", BITS)
    assert code == 2
    assert "inside the source" in one_line(err)


def test_a_damaged_manifest_fails(nwc, own_artifact, tmp_path):
    path = own_artifact / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"tensors": ', b'"tensors":  '))
    for command in (["verify"], ["inspect"], ["decompress", tmp_path / "back"]):
        code, _, err = nwc(command[0], own_artifact, *command[1:])
        assert code == 1
        assert "manifest.json: key checksum: found " in one_line(err)
    assert not (tmp_path / "back").exists()


def test_a_name_may_not_forge_a_row_of_the_table(nwc, tmp_path, ray_cluster):
    """Names come from strangers: a line break or an escape sequence in one must not reach the terminal."""
    path = save(tmp_path / "m.safetensors", {"a\nb\x1b[2Jc": lossy_tensors()["conv"]})
    for command in (["plan", path], ["compress", path, tmp_path / "out"], ["inspect", tmp_path / "out"]):
        options = [] if command[0] == "inspect" else ["--bits", "200"]
        code, out, err = nwc(*command, *options)
        assert code == 0
        assert "\x1b" not in out + err
        assert not any(line.startswith("b") for line in (out + err).splitlines())

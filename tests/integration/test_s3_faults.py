"""A compression from S3 to S3 and a full read while the network and the server misbehave: the very same artifact, or
one clear line and nothing that looks finished."""

from collections import Counter
from dataclasses import replace

import pytest
from faults_proxy import Fault
from synthetic import small_model

import nwc_core as nwc_package
from nwc_core.artifact import codec_cache
from nwc_core.errors import IntegrityError, NwcError, StoreError
from nwc_core.store import open_store
from nwc_infra.stores.s3 import S3Store
from nwc_workflows.compress import compress
from nwc_workflows.plan import CompressOptions, make_plan

OPTIONS = CompressOptions(bits=6.0, preset="fast")
ARGUMENTS = ("--bits", OPTIONS.bits, "--preset", OPTIONS.preset)
TABLE = ("faults", ("fault", "chance", "requests", "harmed", "compress", "read", "objects lost or wrong"))
REPLACED = ("objects replaced", ("what", "outcome"))
FAULTS = [
    Fault("500 InternalError", 0.15),
    Fault("503 SlowDown", 0.15),
    Fault("delay", 0.3, seconds=0.3),
    Fault("reset before the request", 0.15),
    Fault("reset after the request", 0.15),
    Fault("reset within the body", 0.3),
    Fault("truncated body", 0.3),
    Fault("slow", 0.5, rate=1e6),
]

pytestmark = pytest.mark.usefixtures("ray_cluster", "small_tasks", "proxy")


@pytest.fixture(scope="module")
def local_run(ray_cluster, codec, tmp_path_factory):
    """The artifact of the small model, made and kept on the local disk: file name to bytes."""
    from nwc_workflows import blocks

    folder = tmp_path_factory.mktemp("local")
    for name, data in small_model().items():
        (folder / "source").mkdir(exist_ok=True)
        (folder / "source" / name).write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "MIN_TASK_WEIGHTS", 1 << 17)
        compress(make_plan(folder / "source", codec, OPTIONS), open_store(folder / "artifact"))
    artifact = folder / "artifact"
    return {str(path.relative_to(artifact)): path.read_bytes() for path in artifact.rglob("*") if path.is_file()}


@pytest.fixture
def source(upload):
    return upload("source", small_model())


def wrong(found, wanted):
    """How many objects are missing, too many, or not what they must be."""
    return sum(found.get(key) != wanted.get(key) for key in {*found, *wanted})


def read_all(uri):
    codec_cache._codecs.clear()  # as a process that never saw the codec
    return nwc_package.load(uri)


def test_without_faults_the_artifact_is_that_of_a_local_run(source, nwc, contents, local_run):
    code, _, err = nwc("compress", source, f"{source}.nwc", *ARGUMENTS)
    assert code == 0, err
    assert contents("source.nwc") == local_run
    assert nwc("verify", f"{source}.nwc", "--source", source)[0] == 0


@pytest.mark.parametrize(
    "faults", [*([fault] for fault in FAULTS), FAULTS], ids=[*(fault.kind for fault in FAULTS), "all of them"]
)
def test_a_run_and_a_read_through_faults(faults, source, nwc, proxy, contents, local_run, report):
    if len(faults) > 1:
        faults = [replace(fault, probability=0.15, times=3) for fault in faults]  # at first half of what is asked for
    with proxy.inject(*faults, seed=1):
        code, out, err = nwc("compress", source, f"{source}.nwc", *ARGUMENTS)
    outcome = "completed"
    if code:
        assert (code, out, "Traceback" in err) == (1, "", False)
        assert len([line for line in err.splitlines() if line.startswith("nwc: error: ")]) == 1
        assert "manifest.json" not in contents("source.nwc")
        outcome = "failed, rerun completed"
        assert nwc("compress", source, f"{source}.nwc", *ARGUMENTS)[0] == 0
    found = contents("source.nwc")
    with proxy.inject(*faults, seed=2):
        try:
            tensors, read_outcome = read_all(f"{source}.nwc"), "completed"
        except NwcError as error:
            assert "\n" not in str(error)
            tensors, read_outcome = read_all(f"{source}.nwc"), "failed, again completed"
    harmed = Counter(request.fault for request in proxy.harmed())
    chance = "/".join(sorted({str(fault.probability) for fault in faults}))
    name = faults[0].kind if len(faults) == 1 else "all of them"
    counted = (name, chance, len(proxy.requests), sum(harmed.values()))
    report(*TABLE, (*counted, outcome, read_outcome, wrong(found, local_run)))
    assert set(harmed) >= {fault.kind for fault in faults} if len(faults) == 1 else len(harmed) >= 4
    assert wrong(found, local_run) == 0
    assert len(tensors) == 9


@pytest.mark.parametrize("fault", [FAULTS[0], FAULTS[3], FAULTS[6]], ids=lambda fault: fault.kind)
def test_a_fault_that_does_not_pass(fault, source, refusal, nwc, proxy, contents, monkeypatch, local_run, report):
    """Always, on payloads or on the source's weights: the run gives up, and says on which object."""
    monkeypatch.setenv("NWC_S3_MAX_ATTEMPTS", "2")
    if fault.kind == "truncated body":
        always = Fault(fault.kind, path="source/model.safetensors")
    else:
        always = Fault(fault.kind, methods=("PUT",), path="/payload-")
    with proxy.inject(always):
        line = refusal("compress", source, f"{source}.nwc", *ARGUMENTS)
    assert (f"{source}/model.safetensors: " if fault.kind == "truncated body" else f"{source}.nwc/payload-") in line
    assert "manifest.json" not in contents("source.nwc")
    counted = (f"{fault.kind}, for ever", 1.0, len(proxy.requests), len(proxy.harmed()))
    assert nwc("compress", source, f"{source}.nwc", *ARGUMENTS)[0] == 0
    lost = wrong(contents("source.nwc"), local_run)
    report(*TABLE, (*counted, "failed, rerun completed", "-", lost))
    assert lost == 0


@pytest.mark.parametrize(
    ("method", "what"),
    [("GET", "source/model.safetensors"), ("PUT", "/payload-"), ("PUT", "/index-"), ("PUT", "/manifest.json")],
)
def test_the_gateway_is_killed_and_comes_back(method, what, source, nwc, outage, contents, local_run, report):
    killing = outage(method, what)
    code, _, err = nwc("compress", source, f"{source}.nwc", *ARGUMENTS)
    assert killing.killed_in
    killing.wait()
    if code:
        assert "Traceback" not in err
        assert len([line for line in err.splitlines() if line.startswith("nwc: error: ")]) == 1
        assert what == "/manifest.json" or "manifest.json" not in contents("source.nwc")
        code_again, _, err = nwc("compress", source, f"{source}.nwc", *ARGUMENTS)
        assert code_again == 0, err
    lost = wrong(contents("source.nwc"), local_run)
    outcome = "failed, rerun completed" if code else "completed"
    report(*killing.TABLE, (f"{method} {what}", len(killing.killed_in), outcome, lost))
    assert lost == 0


# --- objects that are replaced


def replace_when(proxy, part, method, action):
    """Do something once, when the first such request is under way."""
    done = []

    def hook(request):
        if request.method == method and part in request.path and not done:
            done.append(request)
            action()

    proxy.on_request = hook


def test_a_source_replaced_by_another_size_during_the_run(source, refusal, proxy, upload, contents, report):
    other = small_model(seed=1000)
    other["model.safetensors"] += bytes(100)
    replace_when(proxy, "/payload-", "PUT", lambda: upload("source", other))
    line = refusal("compress", source, f"{source}.nwc", *ARGUMENTS)
    assert f"{source}/model.safetensors" in line
    assert "manifest.json" not in contents("source.nwc")
    report(*REPLACED, ("source, by one of another size, during the run", line.removeprefix("nwc: error: ")))


def test_a_source_replaced_by_the_same_size_during_the_run(source, refusal, proxy, upload, contents, report):
    other = small_model(seed=1000)
    assert len(other["model.safetensors"]) == len(small_model()["model.safetensors"])
    replace_when(proxy, "/payload-", "PUT", lambda: upload("source", other))
    line = refusal("compress", source, f"{source}.nwc", *ARGUMENTS)
    assert f"{source}/model.safetensors" in line
    assert "replaced while it was being read" in line
    assert "manifest.json" not in contents("source.nwc")
    report(*REPLACED, ("source, by one of the same size, during the run", line.removeprefix("nwc: error: ")))


def test_an_object_replaced_during_one_read_is_noticed(proxy, bucket, direct, report):
    old, new = bytes(20 << 20), b"\1" * (20 << 20)
    store = S3Store(f"s3://{bucket}/x")
    direct.put_object(Bucket=bucket, Key="x/a", Body=old)
    reads = []

    def hook(request):
        reads.append(request)
        if len(reads) == 2:
            direct.put_object(Bucket=bucket, Key="x/a", Body=new)

    proxy.on_request = hook
    with proxy.inject(Fault("truncated body", times=1)), pytest.raises(StoreError, match="replaced") as caught:
        store.get("a")
    report(*REPLACED, ("object, between two parts of one read", caught.value))


@pytest.mark.parametrize("kind", ["payload", "index", "codec"])
def test_an_artifacts_object_is_replaced(kind, upload, proxy, bucket, direct, local_run, report):
    uri = upload("model.nwc", local_run)
    key = next(key for key in local_run if key.startswith(f"{kind}-"))
    damaged = bytearray(local_run[key])
    damaged[-20] ^= 1
    direct.put_object(Bucket=bucket, Key=f"model.nwc/{key}", Body=bytes(damaged))
    with pytest.raises(IntegrityError, match=f"{uri}/{key}") as caught:
        read_all(uri)
    report(*REPLACED, (f"{kind} of an artifact", caught.value))

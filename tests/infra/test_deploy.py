"""The deployment files, as far as a machine without docker, AWS and Kubernetes can tell."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import click
import jsonschema
import pytest
import ray
import yaml

from nwc_infra.autoscaler import main as autoscaler
from nwc_workflows import cli
from nwc_workflows.submit import ENTRYPOINT, entrypoint

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "infra/deploy"
SUBMITTING = (ROOT / "docs" / "ray.md").read_text()
PAGE = (DEPLOY / "README.md").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")

# Fields of ray.io/v1 that these files use, by KubeRay's custom resource definitions; [] is a list's element. Those of pods
# are Kubernetes' own.
RAYJOB = {
    *("entrypoint", "submissionMode", "submitterPodTemplate", "backoffLimit"),
    *("shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"),
    *("rayClusterSpec.rayVersion", "rayClusterSpec.enableInTreeAutoscaling", "rayClusterSpec.autoscalerOptions"),
    *("rayClusterSpec.autoscalerOptions.idleTimeoutSeconds", "rayClusterSpec.autoscalerOptions.upscalingMode"),
    *("rayClusterSpec.headGroupSpec", "rayClusterSpec.headGroupSpec.rayStartParams"),
    *("rayClusterSpec.headGroupSpec.template", "rayClusterSpec.workerGroupSpecs"),
    *("rayClusterSpec.workerGroupSpecs[].groupName", "rayClusterSpec.workerGroupSpecs[].replicas"),
    *("rayClusterSpec.workerGroupSpecs[].minReplicas", "rayClusterSpec.workerGroupSpecs[].maxReplicas"),
    *("rayClusterSpec.workerGroupSpecs[].rayStartParams", "rayClusterSpec.workerGroupSpecs[].template"),
}
OPAQUE = ("submitterPodTemplate", "template", "rayStartParams")  # pods, and options of `ray start`


def parse_nwc(words):
    """Every word of `nwc ...` is a command, an argument or an option that there is. Runs nothing."""
    context = click.Context(cli.nwc)
    command, rest = cli.nwc, list(words)
    while isinstance(command, click.Group):
        _, command, rest = command.resolve_command(context, rest)
        context = click.Context(command, parent=context)
    return command.make_parser(context).parse_args(rest)[0]


def parse_module(command):
    """`python -m MODULE ...`, for the two modules that run jobs."""
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"]
    if words[2] == "nwc_infra.autoscaler":
        assert int(words[3]) > 0
        return parse_module(shlex.join(words[4:]))
    assert words[2] == "nwc_workflows.cli"
    return parse_nwc(words[3:])


def ray_start_options():
    from ray.scripts.scripts import start

    return {option for parameter in start.params for option in parameter.opts}


# ---- image ---------------------------------------------------------------------------------------------------------


def test_the_image_copies_what_there_is_and_what_an_installation_needs():
    copied = [path for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE) for path in line.split()[:-1]]
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignore
    assert {path for path in ignore if path.startswith("!")} == {f"!{path}" for path in copied}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [project["project"]["readme"], *project["project"]["license-files"]]
    needed += project["tool"]["setuptools"]["package-dir"].values()
    assert set(needed) <= set(copied)


def test_the_image_installs_as_the_documentation_says():
    (line,) = re.findall(r"^RUN pip (install .*)$", DOCKERFILE, re.MULTILINE)
    assert f"pip {line}" in SUBMITTING
    assert "constraints.txt" in line
    (extras,) = re.findall(r"'\.\[(.*)\]'", line)
    assert set(extras.split(",")) <= set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    )


# ---- cluster launcher ----------------------------------------------------------------------------------------------


@pytest.fixture
def launcher():
    return yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())


def test_the_launchers_file_is_what_ray_wants(launcher):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(launcher)
    validate_config(prepared)
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(launcher, schema)
    launcher["idle_minutes"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_minutes"):
        jsonschema.validate(launcher, schema)


def test_the_launcher_scales_down_and_starts_ray_with_options_that_it_has(launcher):
    types = launcher["available_node_types"]
    assert launcher["idle_timeout_minutes"] > 0
    assert types[launcher["head_node_type"]]["resources"] == {"CPU": 0}
    assert 0 < types["worker"]["min_workers"] < types["worker"]["max_workers"] <= launcher["max_workers"]
    assert all("IamInstanceProfile" in each["node_config"] for each in types.values())
    for command in launcher["head_start_ray_commands"] + launcher["worker_start_ray_commands"]:
        used = {word.split("=")[0] for word in shlex.split(command) if word.startswith("--")}
        assert used <= ray_start_options(), command
    variables = dict(re.findall(r"--env (\w+)=(\S+)", " ".join(launcher["docker"]["run_options"])))
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["RAY_AUTH_TOKEN_PATH"] in launcher["file_mounts"]


# ---- KubeRay -------------------------------------------------------------------------------------------------------


@pytest.fixture
def kubernetes():
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "rayjob.yaml").read_text())}


def fields(value, path=""):
    """Dotted paths of all fields that KubeRay defines."""
    for key, inner in value.items():
        name = f"{path}.{key}" if path else key
        yield name
        if isinstance(inner, dict) and key not in OPAQUE:
            yield from fields(inner, name)
        elif isinstance(inner, list):
            for each in inner:
                yield from fields(each, f"{name}[]")


def test_the_rayjob_has_fields_that_kuberay_has(kubernetes):
    job = kubernetes["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    assert set(fields(job["spec"])) == RAYJOB
    spec = job["spec"]["rayClusterSpec"]
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["upscalingMode"] in ("Default", "Aggressive", "Conservative")
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        parameters = group["rayStartParams"]
        assert all(isinstance(value, str) for value in parameters.values())  # KubeRay refuses numbers
        assert {f"--{name}" for name in parameters} <= ray_start_options()
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    for group in spec["workerGroupSpecs"]:
        assert 0 < group["minReplicas"] <= group["replicas"] < group["maxReplicas"]


def test_the_rayjob_runs_a_catalog_that_is_there(kubernetes, tmp_path):
    from nwc_workflows.job_file import check_job_file

    job, config = kubernetes["RayJob"]["spec"], kubernetes["ConfigMap"]
    assert parse_module(job["entrypoint"]) == {"catalog": "/etc/nwc/catalog.yaml", "address": "auto"}
    pod = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume["configMap"]["name"] for volume in pod["volumes"]}
    assert volumes[mounts["/etc/nwc"]] == config["metadata"]["name"]
    (tmp_path / "catalog.yaml").write_text(config["data"]["catalog.yaml"])
    check_job_file(tmp_path / "catalog.yaml")


def test_one_image_everywhere_with_the_ray_that_is_pinned(kubernetes):
    images = set(re.findall(r"image: (\S+)", (DEPLOY / "rayjob.yaml").read_text()))
    assert len(images) == 1
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert kubernetes["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == pinned


# ---- commands ------------------------------------------------------------------------------------------------------


def test_what_is_submitted_is_a_command_that_there_is():
    assert parse_module(ENTRYPOINT) == {"catalog": "job.yaml", "address": "auto"}
    assert parse_module(entrypoint(64)) == parse_module(ENTRYPOINT)


def test_the_pages_commands_are_commands_that_there_are():
    from ray.scripts.scripts import cli as ray_cli

    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    commands = [part.split("#")[0].strip() for line in lines for part in line.split("&&")]
    for command in commands:
        words = shlex.split(command)
        if words[0] == "nwc":
            parse_nwc(words[1:])
        elif words[0] == "ray":
            assert words[1] in ray_cli.commands, command
        for word in words:
            if word.startswith("infra/"):
                assert (ROOT / word).exists(), word
    assert any(command.startswith("nwc submit") for command in commands)


def test_the_wait_for_nodes_refuses_what_it_does_not_understand(capsys):
    for wrong in ([], ["8"], ["many", "true"], ["0", "true"]):
        assert autoscaler(wrong) == 2
    assert "usage: python -m nwc_infra.autoscaler CPUS COMMAND" in capsys.readouterr().err

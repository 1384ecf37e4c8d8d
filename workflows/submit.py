"""`nwc submit`: a catalog runs on a cluster, with the nwc that was tried here.

Promises: what travels is the job file, nwc itself without its dependencies, and the variables that are named; nothing
else of this machine, and no secret. What is the same as last time is not sent again.

nwc travels as the unpacked folders of a wheel (`py_modules`): Ray would install a wheel as it is with all it depends on,
2 GB on every node, from the network, and would take two wheels of one version for the same.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nwc_core.errors import UsageError
from nwc_infra.jobs import JobServer
from nwc_infra.wheel import unpack_wheel, write_wheel

JOB_FILE = "job.yaml"
# By the module: a console script would have to be installed on the cluster. Ray's RAY_ADDRESS says where "auto" is.
ENTRYPOINT = f"python -m nwc_workflows.cli catalog run {JOB_FILE} --address auto"
NO_WHEEL = "none"
# The dashboard shows a job's environment to everybody who gets at it.
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|PRIVATE_KEY")


def submit(
    server: JobServer,
    job_file: Path,
    *,
    wheel: str | None = None,
    variables: Mapping[str, str] | None = None,
    cpus: int | None = None,
) -> str:
    """Starts a catalog on a cluster.

    Args:
        server: of the cluster.
        job_file: checked already, see `nwc_workflows.job_file`.
        wheel: of nwc; None for one of the nwc that runs here, "none" where the cluster's own is to run.
        variables: of the environment, for the job and its workers.
        cpus: that the cluster's autoscaler is to bring first; None to take what is there.

    Returns:
        The job's id.

    Raises:
        UsageError: the wheel is not one of nwc.
        NwcError: as JobServer.submit.
    """
    text = job_file.read_bytes()
    with packed(text, wheel) as runtime_env:
        return server.submit(
            entrypoint(cpus),
            runtime_env={**runtime_env, "env_vars": dict(variables or {})},
            metadata={"catalog": job_file.name, "catalog_sha256": hashlib.sha256(text).hexdigest()},
        )


def entrypoint(cpus: int | None = None) -> str:
    """The command on the head, see `submit`."""
    return ENTRYPOINT if cpus is None else f"python -m nwc_infra.autoscaler {cpus} {ENTRYPOINT}"


@contextmanager
def packed(job: bytes, wheel: str | None) -> Iterator[dict[str, Any]]:
    """What travels, as a runtime environment of local folders that last as long as the block."""
    with tempfile.TemporaryDirectory(prefix="nwc-submit-") as name:
        folder = Path(name)
        working_dir = folder / "job"
        working_dir.mkdir()
        (working_dir / JOB_FILE).write_bytes(job)
        runtime_env: dict[str, Any] = {"working_dir": str(working_dir)}
        if wheel != NO_WHEEL:
            path = write_wheel(folder) if wheel is None else Path(wheel)
            unpacked = folder / "nwc"
            unpacked.mkdir()
            runtime_env["py_modules"] = [str(each) for each in unpack_wheel(path, unpacked)]
        yield runtime_env


def chosen_variables(names: Sequence[str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """NAME or NAME=VALUE, as of --env.

    Raises:
        UsageError: a variable that is not set, a name that cannot be one, or that of a secret.
    """
    chosen: dict[str, str] = {}
    for given in names:
        name, equals, value = given.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UsageError(f"--env: found {given!r}; wanted NAME or NAME=VALUE")
        if _SECRET.search(name.upper()):
            raise UsageError(
                f"--env {name}: found what looks like a secret, which the cluster's dashboard would show; wanted a role of the "
                "machines, or the variable set where Ray starts"
            )
        if not equals and name not in environment:
            raise UsageError(
                f"--env {name}: found no variable of that name here; wanted one that is set, or {name}=VALUE"
            )
        chosen[name] = value if equals else environment[name]
    return chosen

"""Jobs on a Ray cluster, through its Job Submission API: submit, follow, look up, stop.

Promises: whatever is wrong with the way to the cluster (nobody there, another server, a certificate, a token) is one
line that says so, within half a minute; an explicit address is never replaced by one from the environment; a log that
is followed is said once, whole and in order, also over a lost connection.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nwc_core.errors import NwcError, UsageError
from nwc_infra.job_token import Token

# Seconds to connect, and of silence in an answer. Ray's own client waits for ever.
TIMEOUT = (5.0, 20.0)
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
# An address in these would win over the one that the user gave.
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


class UnreachableError(NwcError, ConnectionError):
    """The cluster does not answer; it may do so again."""


@dataclass(frozen=True)
class JobInfo:
    """What the cluster knows about a job.

    Attributes:
        id: the submission's.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        exit_code: of its command, once that has ended by itself.
        message: Ray's words on the status.
        entrypoint: its command.
        metadata: as given at the submission.
        started, ended: of the submission; None as long as they are not known.
    """

    id: str
    status: str
    exit_code: int | None
    message: str
    entrypoint: str
    metadata: dict[str, str]
    started: datetime | None
    ended: datetime | None

    @property
    def has_ended(self) -> bool:
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class JobServer:
    """The head of a running cluster.

    Args:
        address: http://HOST:PORT or https://HOST:PORT of its dashboard, 8265 by default.
        token: for a cluster with RAY_AUTH_MODE=token.

    Attributes:
        address: without a slash at the end.
        ray_version: of the cluster.

    Raises:
        UsageError: an address of the wrong form, or this Ray is installed without its job client.
        UnreachableError: nobody answers there.
        NwcError: it is not a Ray dashboard, its certificate is not trusted, it wants a token or refuses this one.
    """

    def __init__(self, address: str, token: Token | None = None) -> None:
        self.address = _checked(address)
        self._token = token
        self.ray_version = self._say_hello()
        client = _client_class()
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._errors(), _without(*_OVERRIDES):
            self._client = client(self.address, headers=self._headers(), verify=_certificates())
        self._client._do_request = functools.partial(self._client._do_request, timeout=TIMEOUT)

    def submit(self, entrypoint: str, *, runtime_env: dict[str, Any], metadata: dict[str, str]) -> str:
        """Starts a command on the head; gives the job's id. Local folders of the runtime environment are uploaded."""
        with self._errors():
            job: str = self._client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env, metadata=metadata)
        return job

    def info(self, job: str) -> JobInfo:
        """Raises NwcError if the cluster knows no job of that id."""
        with self._errors(job):
            return _info(self._client.get_job_info(job))

    def list(self) -> list[JobInfo]:
        """Jobs that were submitted, oldest first; drivers that connected by themselves are left out."""
        with self._errors():
            found = [_info(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda info: (info.started is None, info.started, info.id))

    def logs(self, job: str) -> str:
        """All that a job has said so far. Raises NwcError if the cluster knows no job of that id."""
        with self._errors(job):
            logs: str = self._client.get_job_logs(job)
        return logs

    def follow(self, job: str, say: Callable[[str], None]) -> JobInfo:
        """Says a job's log as it comes, until the job ends. Raises KeyboardInterrupt at once on Ctrl-C; the job goes on."""
        from nwc_infra.job_log import follow

        return follow(lambda: self._client.tail_job_logs(job), lambda: self.info(job), say)

    def stop(self, job: str) -> bool:
        """Asks a job to end; whether it was still running. Raises NwcError if the cluster knows no job of that id."""
        with self._errors(job):
            running: bool = self._client.stop_job(job)
        return running

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token.value}"} if self._token else {}

    def _say_hello(self) -> str:
        """The version of the Ray that answers. Prevents Ray's client from talking to, and waiting for, anything else."""
        import requests

        with self._errors():
            answer = requests.get(
                f"{self.address}/api/version", headers=self._headers(), verify=_certificates(), timeout=TIMEOUT
            )
        self._check_token(answer.status_code)
        try:
            return str(answer.json()["ray_version"])
        except (ValueError, KeyError, TypeError):
            raise NwcError(
                f"{self.address}: something answers there (HTTP {answer.status_code}), but it is no Ray dashboard; wanted "
                "the head's http://HOST:8265"
            ) from None

    def _check_token(self, status: int) -> None:
        if status == 401:
            raise NwcError(
                f"{self.address}: asks for a token; wanted --token-file, RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
            )
        if status == 403:
            where = f" (from {self._token.origin})" if self._token else ""
            raise NwcError(f"{self.address}: refuses the token{where}; wanted the one that its nodes were started with")

    @contextmanager
    def _errors(self, job: str | None = None) -> Iterator[None]:
        """What requests and Ray raise, in our words."""
        import requests

        try:
            yield
        except requests.exceptions.SSLError as error:
            hint = "SSL_CERT_FILE names certificates to trust" if "CERTIFICATE" in str(error) else "is it http?"
            raise NwcError(f"{self.address}: TLS fails: {_reason(error)}; {hint}") from error
        except requests.exceptions.Timeout as error:
            raise UnreachableError(f"{self.address}: no answer within {sum(TIMEOUT):.0f} s") from error
        except (requests.exceptions.RequestException, ConnectionError) as error:
            if "BadStatusLine" in str(error):
                raise NwcError(
                    f"{self.address}: something answers there, but does not speak HTTP; wanted the head's http://HOST:8265"
                ) from error
            raise UnreachableError(f"{self.address}: no Ray dashboard answers there: {_reason(error)}") from error
        except RuntimeError as error:  # all that Ray's client raises about an answer
            text = " ".join(str(error).split())
            for status in (401, 403):
                if f"status code {status}" in text:
                    self._check_token(status)
            if job is not None and "status code 404" in text:
                raise NwcError(f"{self.address}: knows no job {job!r}; `nwc jobs list` says which there are") from error
            raise NwcError(f"{self.address}: {text[:500]}") from error
        except Exception as error:
            if type(error).__name__ != "AuthenticationError":  # of Ray 2.52 and later
                raise
            self._check_token(403 if self._token else 401)
            raise


def _client_class() -> Any:
    if find_spec("aiohttp") is None:  # what Ray's client misses first
        raise UsageError("jobs on a cluster: found no aiohttp; wanted Ray's job client: pip install 'nwc[submit]'")
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient


def _checked(address: str) -> str:
    wanted = "wanted http://HOST:PORT of the head's dashboard (port 8265 by default)"
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise UsageError(f"address: found {address!r}; {wanted}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or (port is None and "://" not in address):
        raise UsageError(f"address: found {address!r}; {wanted}")
    return text.rstrip("/")


def _certificates() -> str | bool:
    """What to trust, for both of the libraries that Ray's client uses: they look at different variables."""
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        path = os.environ.get(variable)
        if path and Path(path).exists():
            return path
    return True


@contextmanager
def _without(*variables: str) -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in variables if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _info(details: Any) -> JobInfo:
    return JobInfo(
        id=details.submission_id,
        status=str(getattr(details.status, "value", details.status)),
        exit_code=details.driver_exit_code,
        message=details.message or "",
        entrypoint=details.entrypoint,
        metadata=dict(details.metadata or {}),
        started=_time(details.start_time),
        ended=_time(details.end_time),
    )


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def _reason(error: BaseException) -> str:
    """The innermost cause: urllib3 wraps "connection refused" into three layers of itself."""
    seen: Sequence[BaseException] = [error]
    while (inner := seen[-1].__cause__ or seen[-1].__context__) is not None and inner not in seen:
        seen = [*seen, inner]
    causes = [each for each in seen if isinstance(each, OSError) and not type(each).__module__.startswith("requests")]
    innermost = causes[-1] if causes else error
    return " ".join(str(innermost).split()) or type(error).__name__

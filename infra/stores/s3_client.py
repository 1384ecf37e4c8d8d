"""Connections to S3: one boto3 client per process and options, built when first needed, never pickled."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Any

from nwc_core.errors import PermissionDeniedError
from nwc_infra.stores.s3_errors import plain_words
from nwc_infra.stores.s3_options import SECRETS, S3Options, is_aws
from nwc_infra.stores.s3_pacing import keep_pace

# Eight readers, or two uploads of four parts, for a source and a destination that may share a client, and then some;
# beyond it connections would be opened and thrown away.
_POOL_SIZE = 32
_AWS = "Amazon S3"
_clients: dict[tuple[object, ...], Any] = {}  # building one costs 0.1 s and its connections cost handshakes
_lock = threading.Lock()


@dataclass(frozen=True)
class Bucket:
    """A bucket and how to reach it. Picklable; thread-safe."""

    name: str
    options: S3Options

    @property
    def endpoint(self) -> str:
        """The server, for messages."""
        return self.options.endpoint_url or _AWS

    def call(self, operation: str, key: str | None = None, **arguments: Any) -> dict[str, Any]:
        """One request, with boto3's retries.

        Args:
            operation: method of boto3's S3 client, such as "put_object".
            key: full key in the bucket.

        Raises:
            StoreError, NotFoundError, PermissionDeniedError: never anything of botocore.
        """
        if key is not None:
            arguments["Key"] = key
        with plain_words(self.where(key or arguments.get("Prefix", "")), self.endpoint):
            result: dict[str, Any] = getattr(self.client(), operation)(Bucket=self.name, **arguments)
            return result

    @property
    def is_aws(self) -> bool:
        """Whether this is S3 itself; a profile may name another server, so the client is asked."""
        with plain_words(self.where(""), self.endpoint):
            return is_aws(self.client().meta.endpoint_url)

    def where(self, key: str) -> str:
        """A key in full, for messages."""
        return f"s3://{self.name}/{key}" if key else f"s3://{self.name}"

    def client(self) -> Any:
        """This process's client. Keys, profile or role that the environment asks for are looked up when it is built."""
        # In the cache's key: a changed environment (a notebook whose user just logged in) gives another client, and so
        # does a forked process, which must not share the sockets of its parent.
        named = {k: v for k, v in os.environ.items() if k.startswith(("AWS_", "NWC_")) or k.lower().endswith("_proxy")}
        surroundings = tuple(sorted(named.items()))
        key = (os.getpid(), self.options, surroundings)
        with _lock:
            if key not in _clients:
                _clients[key] = _build(self.options, self.where(""))
            return _clients[key]


def _build(options: S3Options, where: str) -> Any:
    import boto3
    from botocore.config import Config

    style = options.addressing_style or (None if is_aws(options.endpoint_url) else "path")
    config = Config(
        retries={"mode": "adaptive", "total_max_attempts": options.max_attempts},
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        max_pool_connections=_POOL_SIZE,
        tcp_keepalive=True,
        request_checksum_calculation=options.checksum,
        response_checksum_validation=options.checksum,
        **({"s3": {"addressing_style": style}} if style else {}),
    )
    session = boto3.Session(profile_name=options.profile, region_name=options.region, **_keys(options, where))
    if options.role_arn:
        session = _assume_role(session, options)
    client = session.client("s3", endpoint_url=options.endpoint_url, config=config)
    if options.requests_per_second is not None:
        keep_pace(client, options.requests_per_second)
    return client


def _keys(options: S3Options, where: str) -> dict[str, str]:
    """The access key in this process's own environment, if the options say that it is there.

    Raises:
        PermissionDeniedError: it is not: the driver had it, this worker has not.
    """
    prefix = options.key_variables
    if prefix is None:
        return {}
    found = {name.lower(): value for name in SECRETS if (value := os.environ.get(prefix + name))}
    for name in SECRETS[:2]:
        if name.lower() not in found:
            raise PermissionDeniedError(
                where,
                f"{prefix}{name} is not set in this process; set it on every machine that works on the job, when Ray "
                "starts there, or name a profile or a role instead",
            )
    return {f"aws_{name}": value for name, value in found.items()}


def _assume_role(source: Any, options: S3Options) -> Any:
    """A session under another role, whose credentials renew themselves."""
    import boto3
    from botocore.credentials import (
        AssumeRoleCredentialFetcher,
        CredentialProvider,
        CredentialResolver,
        DeferredRefreshableCredentials,
    )
    from botocore.exceptions import NoCredentialsError
    from botocore.session import Session

    region = source.region_name or ("us-east-1" if not is_aws(options.endpoint_url) else None)
    # Other servers have their STS at the same address; AWS has not, and an address set on purpose counts most.
    own_sts = None if is_aws(options.endpoint_url) or os.environ.get("AWS_ENDPOINT_URL_STS") else options.endpoint_url

    def sts(service: str, **arguments: Any) -> Any:
        keys = {name: arguments.get(name) for name in ("aws_access_key_id", "aws_secret_access_key")}
        return source.client(
            service,
            endpoint_url=own_sts,
            region_name=region,
            config=arguments.get("config"),
            aws_session_token=arguments.get("aws_session_token"),
            **keys,
        )

    extra = {"RoleSessionName": "nwc"}
    credentials = source.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    fetcher = AssumeRoleCredentialFetcher(sts, credentials, options.role_arn, extra_args=extra)

    class Provider(CredentialProvider):  # type: ignore[misc]
        METHOD = CANONICAL_NAME = "nwc-assume-role"

        def load(self) -> Any:
            return DeferredRefreshableCredentials(fetcher.fetch_credentials, self.METHOD)

    session = Session()
    session.register_component("credential_provider", CredentialResolver([Provider()]))
    return boto3.Session(botocore_session=session, region_name=region)

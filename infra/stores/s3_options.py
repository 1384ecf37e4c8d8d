"""How to reach S3: settings that are not secret, and where they come from.

Promises: what the driver was told reaches every worker, since a store carries its options when it is pickled; secrets
never do. A setting that cannot be right is refused before a byte moves.

A setting FIELD is read from NWC_SOURCE_FIELD or NWC_DESTINATION_FIELD, by the role that a URI plays in a command, else
from NWC_S3_FIELD, else it is left to boto3 (AWS_* variables, ~/.aws/config, instance roles).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nwc_core.errors import UsageError
from nwc_core.store import Role

PREFIXES: dict[Role | None, tuple[str, ...]] = {
    None: ("NWC_S3_",),
    "source": ("NWC_SOURCE_", "NWC_S3_"),
    "destination": ("NWC_DESTINATION_", "NWC_S3_"),
}
SECRETS = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")
_AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


class S3Options(BaseModel):
    """Settings of one S3 store; None leaves a setting to boto3 or to the server.

    Attributes:
        endpoint_url: of a server other than AWS.
        profile: of ~/.aws/config; every machine that works on the job needs it.
        role_arn: a role to assume through STS, with credentials renewed before they expire.
        region: of the bucket.
        sse: how the server encrypts what is written.
        sse_kms_key_id: its key; implies sse "aws:kms".
        storage_class: of what is written, such as "STANDARD_IA".
        addressing_style: where the bucket's name goes; "path" by default at servers other than AWS.
        checksum: when boto3 adds and checks its own checksums. Many other servers fail on "when_supported", and nwc
            checks digests of its own.
        max_attempts: tries of one request, the first included.
        connect_timeout: seconds.
        read_timeout: seconds of silence in an answer.
        requests_per_second: most requests of each process to the server, retries included.
        allow_unconditional: write at a server that ignores conditions: then of racing writers the last one wins.
        key_variables: prefix of the environment variables with the access key, None for boto3's own search. Each
            process reads them for itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    endpoint_url: str | None = Field(None, pattern=r"^https?://[^\s@?#]+$")
    profile: str | None = None
    role_arn: str | None = Field(None, pattern=r"^arn:[^\s]+$")
    region: str | None = None
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    sse_kms_key_id: str | None = None
    storage_class: str | None = None
    addressing_style: Literal["auto", "path", "virtual"] | None = None
    checksum: Literal["when_required", "when_supported"] = "when_required"
    max_attempts: int = Field(10, ge=1, le=100)
    connect_timeout: float = Field(10.0, gt=0, le=3600)
    read_timeout: float = Field(60.0, gt=0, le=3600)
    requests_per_second: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False)
    allow_unconditional: bool = False
    key_variables: Literal["NWC_SOURCE_", "NWC_DESTINATION_", "NWC_S3_"] | None = None

    @model_validator(mode="after")
    def _check_together(self) -> S3Options:
        if self.sse_kms_key_id and self.sse == "AES256":
            raise ValueError("sse_kms_key_id: found a key together with sse AES256; wanted sse aws:kms, or no key")
        if self.profile and self.key_variables:
            raise ValueError(f"profile: found one, and {self.key_variables}ACCESS_KEY_ID too; wanted one of the two")
        return self

    def write_arguments(self) -> dict[str, str]:
        """Arguments that go with everything that is written."""
        sse = self.sse or ("aws:kms" if self.sse_kms_key_id else None)
        found = {"ServerSideEncryption": sse, "SSEKMSKeyId": self.sse_kms_key_id, "StorageClass": self.storage_class}
        return {name: value for name, value in found.items() if value}


def is_aws(endpoint_url: str | None) -> bool:
    """Whether S3 itself is behind an address, no other server; None is boto3's default."""
    return endpoint_url is None or f".{urlsplit(endpoint_url).hostname}".endswith(_AWS_DOMAINS)


def options_from_environment(role: Role | None = None, environment: Mapping[str, str] = os.environ) -> S3Options:
    """The options that this process's environment asks for.

    Raises:
        UsageError: a variable with one of our prefixes has an unknown name or a wrong value; it is named.
    """
    found: dict[str, str] = {}
    origin: dict[str, str] = {}
    for prefix in reversed(PREFIXES[role]):
        for variable, value in environment.items():
            if not variable.startswith(prefix) or not value:
                continue
            name = variable.removeprefix(prefix)
            if name == SECRETS[0]:
                found["key_variables"] = prefix
            elif name not in SECRETS:
                found[name.lower()] = value
                origin[name.lower()] = variable
    _add_aws_settings(found, origin, environment)
    _drop_general_credentials(found, origin)
    try:
        return S3Options(**found)  # type: ignore[arg-type]  # pydantic parses the strings
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        raise UsageError(f"{origin.get(field, 'S3 options')}: {first['msg']}{_known(field)}") from None


def _add_aws_settings(found: dict[str, str], origin: dict[str, str], environment: Mapping[str, str]) -> None:
    """Endpoint and region as in boto3's own variables: a worker without them would ask AWS, or another region."""
    ignored = environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
    endpoints = () if ignored else ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    for field, variables in (("endpoint_url", endpoints), ("region", ("AWS_REGION", "AWS_DEFAULT_REGION"))):
        # A profile of the user's own choice brings its endpoint and region along.
        named = [] if "profile" in found else [v for v in variables if environment.get(v)]
        if field not in found and named:
            found[field], origin[field] = environment[named[0]], named[0]


def _drop_general_credentials(found: dict[str, str], origin: dict[str, str]) -> None:
    """A profile for one role beats keys for both roles, and the other way round."""
    if "profile" in found and "key_variables" in found:
        general = "NWC_S3_"
        if found["key_variables"] == general and not origin["profile"].startswith(general):
            del found["key_variables"]
        elif found["key_variables"] != general and origin["profile"].startswith(general):
            del found["profile"]


def _known(field: str) -> str:
    if not field or field in S3Options.model_fields:
        return ""
    names = [name.upper() for name in S3Options.model_fields if name != "key_variables"]
    return f"; known: {', '.join([*names, *SECRETS])}"

"""What S3 and boto3 report, as nwc's errors: the object, what happened in plain words, what to do.

Promises: no exception of botocore or urllib3 passes `plain_words`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nwc_core.errors import NotFoundError, NwcError, PermissionDeniedError, StoreError
from nwc_core.strict_json import shown

_NO_KEY = "no such object"
_CLOCK = "the clocks of this machine and of the server differ by too much; set this machine's clock (NTP)"
_EXPIRED = "the credentials have expired; renew them (aws sso login, or a new session token) and start again"
_REGION = "the bucket is in another region; set AWS_REGION or NWC_S3_REGION to it"
_BUSY = "the server is overloaded or out of order"
_KMS = "the encryption key cannot be used; check the key, its policy and NWC_DESTINATION_SSE_KMS_KEY_ID"
_CODES: dict[str, tuple[type[StoreError], str]] = {
    "NoSuchKey": (NotFoundError, _NO_KEY),
    "NotFound": (NotFoundError, _NO_KEY),
    "404": (NotFoundError, _NO_KEY),
    # Not a NotFoundError: to a reader that would mean that the object is absent, and a writer would start its work.
    "NoSuchBucket": (StoreError, "no such bucket; check its name, and that the endpoint is the right one"),
    "AccessDenied": (PermissionDeniedError, "access denied; these credentials lack a permission"),
    "AllAccessDisabled": (PermissionDeniedError, "all access to the bucket is disabled"),
    "AccountProblem": (PermissionDeniedError, "there is a problem with the account; ask its provider"),
    "Forbidden": (PermissionDeniedError, "access denied; the credentials are wrong or lack a permission"),
    "403": (PermissionDeniedError, "access denied; the credentials are wrong or lack a permission"),
    "InvalidAccessKeyId": (PermissionDeniedError, "the server does not know the access key"),
    "SignatureDoesNotMatch": (PermissionDeniedError, "the secret access key is wrong (signatures differ)"),
    "InvalidClientTokenId": (PermissionDeniedError, "the credentials are not valid"),
    "InvalidToken": (PermissionDeniedError, "the session token is not valid"),
    "ExpiredToken": (PermissionDeniedError, _EXPIRED),
    "ExpiredTokenException": (PermissionDeniedError, _EXPIRED),
    "TokenRefreshRequired": (PermissionDeniedError, _EXPIRED),
    "RequestExpired": (PermissionDeniedError, _CLOCK),
    "RequestTimeTooSkewed": (PermissionDeniedError, _CLOCK),
    "InvalidObjectState": (PermissionDeniedError, "the object is archived; restore it first"),
    "PermanentRedirect": (StoreError, _REGION),
    "TemporaryRedirect": (StoreError, _REGION),
    "AuthorizationHeaderMalformed": (StoreError, _REGION),
    "301": (StoreError, _REGION),
    "InvalidRange": (StoreError, "the object has no such bytes"),
    "InvalidBucketName": (StoreError, "not a valid bucket name"),
    "KeyTooLongError": (StoreError, "the key is longer than the 1,024 bytes that S3 allows"),
    "EntityTooLarge": (StoreError, "larger than the server allows"),
    "QuotaExceeded": (StoreError, "the quota of the bucket or of the user is used up"),
    "XMinioStorageFull": (StoreError, "the server's disks are full"),
    "InvalidStorageClass": (StoreError, "the server has no such storage class; check NWC_DESTINATION_STORAGE_CLASS"),
    "NotImplemented": (StoreError, "the server does not implement what was asked"),
    "PreconditionFailed": (StoreError, "a condition on the object does not hold"),
    "ConditionalRequestConflict": (StoreError, "another writer is at work on the same key; try again"),
    "SlowDown": (StoreError, _BUSY),
    "ServiceUnavailable": (StoreError, _BUSY),
    "InternalError": (StoreError, _BUSY),
    "RequestTimeout": (StoreError, _BUSY),
    "500": (StoreError, _BUSY),
    "502": (StoreError, _BUSY),
    "503": (StoreError, _BUSY),
    "504": (StoreError, _BUSY),
}
# Without the right action's name, a policy is a guessing game. Operations of boto3 to actions of IAM.
_ACTIONS = {
    "HeadObject": "s3:GetObject (and s3:ListBucket, to tell a missing object)",
    "GetObject": "s3:GetObject (and s3:ListBucket, to tell a missing object)",
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "DeleteObject": "s3:DeleteObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "AssumeRole": "sts:AssumeRole",
}


@contextmanager
def plain_words(where: str, endpoint: str) -> Iterator[None]:
    """Turn what boto3 raises into a StoreError.

    Args:
        where: the object in full, s3://bucket/key.
        endpoint: URL of the server that was asked.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except NwcError:
        raise
    except ClientError as error:
        raise _from_answer(error, where, endpoint) from error
    except ResponseParserError as error:
        raise StoreError(where, f"{endpoint} answered, but not as S3 does; check the endpoint") from error
    except (BotoCoreError, HTTPError, OSError, ValueError) as error:  # ValueError: a malformed endpoint
        raise _from_client(error, where, endpoint) from error


def error_code(error: BaseException | None) -> str:
    """The server's code behind a StoreError, such as "PreconditionFailed" or "412"; empty if it sent none."""
    response = getattr(getattr(error, "__cause__", None), "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _from_answer(error: Any, where: str, endpoint: str) -> StoreError:
    """From an error that the server sent. Its message is a stranger's text: shortened, made printable."""
    answer = error.response.get("Error", {})
    metadata = error.response.get("ResponseMetadata", {})
    code, message = str(answer.get("Code", "")), str(answer.get("Message") or "")
    kind, reason = _CODES.get(code, (StoreError, ""))
    status = str(metadata.get("HTTPStatusCode", ""))
    if not reason and code.startswith("KMS."):
        reason = _KMS
    if not reason and status in ("401", "403"):
        kind, reason = _CODES["403"]
    if not reason and status[:1] == "5":
        reason = _BUSY
    if kind is NotFoundError:
        return kind(where, reason)
    if reason.startswith("access denied"):
        reason += f"; {error.operation_name} needs {_ACTIONS.get(error.operation_name, 's3:PutObject')}"
    reason = reason or "the server refused"
    if reason == _BUSY and metadata.get("RetryAttempts"):
        reason += f", still after {metadata['RetryAttempts'] + 1} attempts"
    said = f"{code}: {message}" if message and message != code else code or status
    return kind(where, f"{reason} ({endpoint} said {shown(said)})")


def _from_client(error: Exception, where: str, endpoint: str) -> StoreError:
    """From an error on this side of the wire."""
    name = type(error).__name__
    if name in ("NoCredentialsError", "PartialCredentialsError"):
        return PermissionDeniedError(
            where,
            "no credentials found in this process; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or "
            "NWC_S3_PROFILE, or run under an instance role. Ray workers look for their own: on a cluster, give its "
            "machines a role, or these variables when Ray starts",
        )
    if name == "ProfileNotFound":
        return PermissionDeniedError(where, f"{error}; every machine that works on the job needs the profile")
    if name in ("CredentialRetrievalError", "TokenRetrievalError", "MetadataRetrievalError") or (
        name.startswith(("SSO", "UnauthorizedSSO", "Login"))
    ):
        return PermissionDeniedError(where, f"the credentials could not be had: {shown(str(error))}")
    if name == "EndpointConnectionError":
        return StoreError(where, f"nobody answers at {endpoint}; check the endpoint and the network")
    if name in ("ConnectTimeoutError", "ReadTimeoutError"):
        return StoreError(where, f"{endpoint} did not answer in time; check the network, or raise NWC_S3_READ_TIMEOUT")
    if name == "SSLError":
        return StoreError(where, f"no secure connection to {endpoint}: {shown(str(error))}; see AWS_CA_BUNDLE")
    if name in ("ConnectionClosedError", "ResponseStreamingError", "IncompleteReadError", "ProtocolError"):
        return StoreError(where, f"{endpoint} broke the connection off")
    return StoreError(where, f"{endpoint}: {name}: {shown(str(error))}")

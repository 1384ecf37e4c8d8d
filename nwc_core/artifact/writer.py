"""Writing an artifact: objects first, in any order and by anyone; the manifest last, once.

Objects carry their digest in their name, so writers that race or start again write the same bytes or none. The
manifest is created only if absent: of many racing writers one wins, and no artifact is ever changed.
"""

from __future__ import annotations

from nwc_core.artifact.manifest import MANIFEST_KEY, Manifest
from nwc_core.artifact.objects import ObjectKind, ObjectRef, reference
from nwc_core.errors import AlreadyExistsError, FormatError, NotFoundError
from nwc_core.store import Store


def put_object(store: Store, kind: ObjectKind, data: bytes) -> ObjectRef:
    """Store an object under its content's name, unless it is there with that size already.

    Raises:
        StoreError: the store refused.
    """
    ref = reference(kind, data)
    try:
        # A conditional write, as the commit will be: a store that cannot do it says so now, not after hours of coding.
        store.create(ref.object, data)
    except AlreadyExistsError:
        if reference(kind, store.get(ref.object)) != ref:  # torn, or damaged since
            store.put(ref.object, data)
    return ref


def commit(store: Store, manifest: Manifest) -> bool:
    """Make the artifact exist. Everything that the manifest names must be stored already.

    Returns:
        True if this call created the artifact, False if the very same one was there.

    Raises:
        AlreadyExistsError: the destination holds a different artifact; it was not touched.
        FormatError: the manifest contradicts itself.
    """
    data = manifest.to_bytes()
    try:
        store.create(MANIFEST_KEY, data)
    except AlreadyExistsError as error:
        found = store.get(MANIFEST_KEY)
        if found == data:
            return False
        try:
            fingerprint = Manifest.from_bytes(found).fingerprint
        except FormatError:
            fingerprint = "unreadable"
        raise AlreadyExistsError(
            error.key,
            f"the destination holds a different artifact (fingerprint {fingerprint}; this one has "
            f"{manifest.fingerprint}); nothing was changed; choose another destination",
        ) from None
    return True


def existing_manifest(store: Store) -> Manifest | None:
    """The manifest of the artifact that is there, or None.

    Raises:
        FormatError: something else, or something damaged, has that name.
    """
    try:
        data = store.get(MANIFEST_KEY)
    except NotFoundError:
        return None
    return Manifest.from_bytes(data, f"{store.uri}/{MANIFEST_KEY}")

"""A store with a place that kills whoever reads it, as a bug in native code would."""

import os
import signal

from nwc_infra.stores.local import LocalStore


class PoisonedStore(LocalStore):
    """A folder in which reading byte `place` of any object ends the process, except in the process that made it."""

    def __init__(self, root, place):
        super().__init__(str(root))
        self.place, self.maker = place, os.getpid()

    def __reduce__(self):
        return _remade, (self.uri, self.place, self.maker)

    def get_range(self, key, start, stop):
        if start <= self.place < stop and os.getpid() != self.maker:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().get_range(key, start, stop)


def _remade(uri, place, maker):
    store = PoisonedStore(uri, place)
    store.maker = maker
    return store

"""Every error this server raises on purpose, as one tree.

    EcServerError
    ├── ConfigurationError          the operator must change a setting; exit code 2
    ├── StorageError
    │   ├── RetryableStorageError   the same call may succeed later: locked, disk full, node away
    │   ├── PermanentStorageError   it will not: table of another shape, refused login
    │   │   └── DamagedFileError    a database file cannot be read; its content is lost
    │   └── BlockError              a packed block that cannot be decoded: damaged, or a format from later on
    └── ProtocolError               synchronization only
        ├── LocalProtocolError      this program asked for a step that the state does not allow
        └── RemoteProtocolError     the peer sent what does not parse or is not allowed now

Each message says what failed, where, and what to do. Driver errors are translated in the one
module that imports the driver, chained with ``from``.
"""

from __future__ import annotations


class EcServerError(Exception):
    """Root of the tree: what the entry files catch and print without a traceback."""


class ConfigurationError(EcServerError):
    """A setting is missing, malformed or contradicts another; the start ends with exit code 2."""


class StorageError(EcServerError):
    """The engine did not do what was asked; nothing of the failed call is in the database."""


class RetryableStorageError(StorageError):
    """The same call may succeed later; the caller keeps what it wanted to write and tries again."""


class PermanentStorageError(StorageError):
    """The same call will never succeed; the caller reports degraded health and says why."""


class DamagedFileError(PermanentStorageError):
    """A database file is damaged; it has to be set aside, and what it held is fetched from the devices."""


class BlockError(StorageError):
    """A packed block cannot be decoded: it is damaged, or of a format that this version does not know."""


class ProtocolError(EcServerError):
    """A rule of the synchronization protocol was broken; the connection ends, nothing else does.

    ``code`` is the machine-readable reason of the ``error`` frame (docs/protocol.md, Errors).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LocalProtocolError(ProtocolError):
    """This side tried a step its state does not allow; the state is unchanged."""


class RemoteProtocolError(ProtocolError):
    """The peer's bytes broke a rule; the state is unchanged, the connection must be closed."""

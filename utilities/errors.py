"""The exceptions that this server raises, as one hierarchy.

    EcServerError
    ├── ConfigurationError          the operator must change a setting; exit code 2
    ├── OutputError                 a command cannot write its result; exit code 2
    ├── StorageError
    │   ├── RetryableStorageError   the same call may succeed later: locked, disk full, node down
    │   ├── PermanentStorageError   it will not: table of another shape, login refused
    │   │   └── DamagedFileError    a database file cannot be read; its content is lost
    │   └── BlockError              a packed block cannot be decoded: damaged, or of a later format
    └── ProtocolError               synchronization only
        ├── LocalProtocolError      this program tried a step that the state does not allow
        └── RemoteProtocolError     the peer sent something malformed, or not allowed in this state

Each message says what failed, where, and what to do. Driver errors are translated where the driver is used,
and chained with ``from``.
"""

from __future__ import annotations


class EcServerError(Exception):
    """The root: the programs catch it and print its message without a traceback."""


class ConfigurationError(EcServerError):
    """A setting is missing, malformed or contradicts another; the program ends with exit code 2."""


class OutputError(EcServerError):
    """The standard output does not take a command's result: a full disk, for example."""


class StorageError(EcServerError):
    """The storage engine failed; nothing of the failed call is in the database."""


class RetryableStorageError(StorageError):
    """The same call may succeed later; the caller keeps its data and tries again."""


class PermanentStorageError(StorageError):
    """The same call will never succeed; the caller reports degraded health and says why."""


class DamagedFileError(PermanentStorageError):
    """A database file is damaged; it is set aside, and its data is fetched from the devices again."""


class BlockError(StorageError):
    """A packed block cannot be decoded: it is damaged, or has a format that this version does not know."""


class ProtocolError(EcServerError):
    """A violation of the synchronization protocol; it ends the connection and nothing else.

    ``code`` is the machine-readable reason of the ``error`` frame (docs/protocol.md, Errors).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class LocalProtocolError(ProtocolError):
    """This side tried a step that its state does not allow; the state is unchanged."""


class RemoteProtocolError(ProtocolError):
    """The peer's bytes violate the protocol; the state is unchanged, the connection must be closed."""

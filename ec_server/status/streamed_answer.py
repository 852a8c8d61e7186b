"""Answers that are produced from the database piece by piece, in threads, while the client receives them.

Rules:

1. The next piece is produced only after the client has received the previous one: memory holds one piece.
2. At most ``most`` answers are produced at the same time; another is refused with 503.
3. If the client disconnects, the answer ends after the current piece.
4. An error before the first piece becomes a status with a JSON error. After it, the connection is aborted,
   so that an incomplete answer cannot be mistaken for a complete one.
"""

from __future__ import annotations

import asyncio
import logging
import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ec_server.storage.contract import Store
from utilities.errors import EcServerError

_log = logging.getLogger(__name__)

Pieces = Callable[[Store], Iterator[bytes]]
"""Produces the pieces from a read-only store, in a thread; NoSuchDeviceError for an unknown device."""


class NoSuchDeviceError(Exception):
    """The requested device is unknown."""


class StoredData:
    """Read-only stores for answers, opened when needed and reused; for one event loop."""

    def __init__(self, open_store: Callable[[], Store], most: int = 4) -> None:
        self._open_store = open_store
        self._free: queue.SimpleQueue[Store] = queue.SimpleQueue()
        self._left = most

    async def answer(self, pieces: Pieces, media_type: str, headers: Mapping[str, str]) -> Response:
        """The answer whose body is ``pieces``, or the error that occurred before the first one."""
        if not self._left:
            error = {"error": "too many answers are being made from the database: ask again in a moment"}
            return JSONResponse(error, 503, headers={"retry-after": "2"})
        self._left -= 1
        making = _Making(self, pieces)
        try:
            first = await asyncio.to_thread(making.next_piece)
        except BaseException as error:
            await self._ended(making)
            if isinstance(error, NoSuchDeviceError):
                return JSONResponse({"error": str(error)}, 404)
            if isinstance(error, EcServerError):
                return JSONResponse({"error": str(error)}, 503)
            raise
        return _Streamed(making, first, self._ended, media_type, headers)

    async def _ended(self, making: _Making) -> None:
        self._left += 1
        await asyncio.to_thread(making.close)

    @contextmanager
    def lent(self) -> Iterator[Store]:
        """A store for one short query in the calling thread."""
        store = self.take()
        try:
            yield store
        except BaseException:
            with suppress(EcServerError):
                store.close()
            raise
        self.give_back(store)

    def take(self) -> Store:
        """A store for this thread; ``give_back`` it, or close it after an error."""
        with suppress(queue.Empty):
            return self._free.get_nowait()
        return self._open_store()

    def give_back(self, store: Store) -> None:
        """Let the next answer use it."""
        self._free.put(store)

    def close(self) -> None:
        """Close the stores that no answer uses."""
        while not self._free.empty():
            self._free.get_nowait().close()


class _Making:
    """One answer in progress; called by different threads, one at a time."""

    def __init__(self, data: StoredData, pieces: Pieces) -> None:
        self._data, self._pieces = data, pieces
        self._store: Store | None = None
        self._iterator: Iterator[bytes] | None = None
        self._failed = False

    def next_piece(self) -> bytes | None:
        """The next piece; None at the end."""
        try:
            if self._iterator is None:
                self._store = self._data.take()
                self._iterator = self._pieces(self._store)
            return next(self._iterator, None)
        except NoSuchDeviceError:
            raise
        except BaseException:
            self._failed = True
            raise

    def close(self) -> None:
        if self._iterator is not None:
            self._iterator.close()  # type: ignore[attr-defined] # generators have it
        if self._store is None:
            return
        if self._failed:
            with suppress(EcServerError):
                self._store.close()
        else:
            self._data.give_back(self._store)
        self._store = None


class _Streamed(Response):
    def __init__(
        self,
        making: _Making,
        first: bytes | None,
        ended: Callable[[_Making], object],
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(b"", media_type=media_type, headers=headers)
        del self.headers["content-length"]
        self._making, self._first, self._ended = making, first, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_disconnected(receive))
        try:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            piece = self._first if scope["method"] != "HEAD" else None
            while piece is not None and not gone.done():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                piece = await asyncio.to_thread(self._making.next_piece)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except EcServerError as error:
            _log.warning("an answer was cut off: %s", error)
            raise
        finally:
            gone.cancel()
            await self._ended(self._making)  # type: ignore[misc]


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

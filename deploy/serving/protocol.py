"""HTTP/1.1 on one connection: uvicorn's, with limits of time and number, and errors as JSON."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from deploy.serving.limits import Limits
from deploy.serving.refusal import RefusalError, busy

_MOST_REFUSED = 60  # connections that wait for their refusal to be read, within the limit of open files; more are reset


def protocol(limits: Limits, count: Callable[[int], None]) -> type[H11Protocol]:
    """Return the protocol class of a server. `count`: called with the status of each answer that it gives itself."""

    class LimitedProtocol(H11Protocol):
        """Ends a connection whose headers or answer take longer than `limits.seconds`.

        Uvicorn limits only the time between two requests of a connection.
        """

        _deadline: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None
        _has_begun = False  # whether anything arrived
        _is_refused = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections + _MOST_REFUSED:
                self._is_refused = True
                self.transport.abort()
            elif len(self.connections) > limits.connections:
                self._refuse(busy(f"found {len(self.connections)} connections, expected at most {limits.connections}"))
            else:
                self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._unwatch()
            self.resume_writing()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self.transport.is_closing() and not self._is_refused:
                self._has_begun = True
                super().data_received(data)
                self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.transport.is_closing():  # once the client has taken the answer
                self.loop.call_later(limits.seconds, self.transport.abort)

        def timeout_keep_alive_handler(self) -> None:
            if self.transport.get_write_buffer_size():  # a client that does not take its answer
                self.transport.abort()
            else:
                super().timeout_keep_alive_handler()

        def pause_writing(self) -> None:
            """Start the clock of a client that does not take its answer: more than 64 KiB of it wait here."""
            super().pause_writing()
            self._unread = self._unread or self.loop.call_later(limits.seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

        def send_400_response(self, msg: str) -> None:
            self._refuse(RefusalError(400, f"request: found invalid HTTP, expected HTTP/1.1 ({msg})"))

        def _watch(self) -> None:
            """Start or stop the clock: it runs while the headers of a request are incomplete."""
            if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
                self._unwatch()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(limits.seconds, self._late)

        def _unwatch(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _late(self) -> None:
            if self._has_begun:
                wanted = f"request: found no complete headers after {limits.seconds:g} s, expected them (--timeout)"
                self._refuse(RefusalError(408, wanted))
            else:  # a connection kept ready for a request: its next answer must not be this one
                self.transport.close()

        def _refuse(self, refusal: RefusalError) -> None:
            """Answer without the application and end the connection; only end it if another answer has begun.

            What the client is still sending is dropped for a while: a connection that is closed with unread data is
            reset, and the client might miss the answer.
            """
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True  # its answer goes nowhere
                self.cycle.message_event.set()
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                headers = [("content-type", "application/json"), ("content-length", str(len(refusal.body)))]
                headers += [("connection", "close"), *refusal.headers.items()]
                events = (
                    h11.Response(
                        status_code=refusal.status, headers=headers, reason=HTTPStatus(refusal.status).phrase.encode()
                    ),
                    h11.Data(data=refusal.body),
                    h11.EndOfMessage(),
                )
                for event in events:
                    self.transport.write(self.conn.send(event) or b"")
                count(refusal.status)
                self._is_refused = True
                with suppress(OSError):  # the client has gone
                    self.transport.write_eof()
            else:
                self.transport.close()
            self.loop.call_later(limits.seconds, self.transport.abort)

    return LimitedProtocol

"""A server on this machine that is not a registry: it sends the bytes it is given, whatever the request."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def odd_server(answer: bytes, each_byte_seconds: float = 0.0) -> Iterator[str]:
    """Yield the URL of a server that answers every request with `answer`, then hangs up.

    `each_byte_seconds`: pause after each byte.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=speak, args=(connection,), daemon=True).start()

    def speak(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if each_byte_seconds:
                for byte in answer:
                    connection.sendall(bytes([byte]))
                    time.sleep(each_byte_seconds)
            else:
                connection.recv(65536)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()

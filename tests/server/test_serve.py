"""The listening socket."""

import socket

from guardhouse.server.serve import address_of, listen


def test_accepted_connections_send_small_packets_at_once() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert address_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"

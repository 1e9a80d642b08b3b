from __future__ import annotations

import socket

from click.testing import CliRunner

from vlmheads.cli import main


def test_a_port_in_use_is_refused_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = CliRunner().invoke(main, ["demo", "--port", str(port)])
    assert answer.exit_code == 2
    assert answer.output.startswith(f"error: cannot listen on 127.0.0.1:{port}")

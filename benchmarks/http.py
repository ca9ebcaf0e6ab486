"""What HTTP adds to a verdict, and how a server answers under a load that does not wait for it.

    python -m benchmarks.http [--model embedded] [--rates 10 20 40] [--seconds 5] [--rounds 5]

overhead   the same messages through `Guard.check` in a process of its own and through POST …/ai/run/…, one at a time, in
           turns: processor time per verdict of the whole process, and what the server's has more.
open loop  requests leave at a fixed rate, whether or not answers have come, as independent users' do: p50, p99, errors.

Only 127.0.0.1 is ever asked. Prints tables and, as the last line, the same as JSON.
"""

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.machine import describe_machine
from guardhouse.guard.guard import Guard

SENTENCE = "please tell me how the old baker of our town makes such good bread every single morning and why it smells"
PATH = "/client/v4/accounts/local/ai/run/@hf/thebloke/llamaguard-7b-awq"
CPU_TIME_OF_PROCESS = 2  # of another process: clock_getcpuclockid(3), which Python lacks, computes ids like this


@dataclass(frozen=True)
class Overhead:
    """Medians over the rounds, milliseconds of processor time per verdict."""

    in_process_ms: float
    server_ms: float
    added_ms: float  # median of the rounds' differences
    ratio: float


@dataclass(frozen=True)
class OpenLoop:
    """One rate."""

    requests_per_s: float
    num_requests: int
    num_errors: int
    p50_ms: float
    p99_ms: float
    cpu_ms_per_request: float


def message(number: int) -> str:
    """No two alike, all of one length."""
    return f"{number} " + " ".join(np.random.default_rng(number).permutation(SENTENCE.split()))


@dataclass(frozen=True)
class Server:
    """A `guardhouse serve` of its own process."""

    port: int
    pid: int

    def cpu_s(self) -> float:
        """User and system time so far, of all its threads, to the nanosecond: Linux has a clock for every process."""
        return time.clock_gettime((~self.pid << 3) | CPU_TIME_OF_PROCESS)


@contextmanager
def running_server(model: str) -> Iterator[Server]:
    command = [
        sys.executable,
        "-m",
        "guardhouse.cli",
        "serve",
        "--port",
        "0",
        "--log-level",
        "warning",
        "--model",
        model,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        port = next(
            int(found[1]) for line in process.stderr if (found := re.search(r"address +http://.*:(\d+) ", line))
        )
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait(30)


class Connection:
    """HTTP/1.1 by hand, kept alive: a client library's own time would be larger than the server's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, text: str) -> int:
        """The answer's status; its body is read."""
        body = json.dumps({"prompt": text}).encode()
        head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
        assert length is not None
        await self._reader.readexactly(int(length[1]))
        return int(answer.split(b" ", 2)[1])

    def close(self) -> None:
        self._writer.close()


async def measure_overhead(server: Server, guard: Guard, rounds: int, per_round: int) -> Overhead:
    connection = await Connection.open(server.port)
    inside, outside = [], []
    for number in range(rounds + 1):  # the first warms both up
        texts = [message(number * per_round + index) for index in range(per_round)]
        began = time.process_time()
        for text in texts:
            guard.check(text, all_categories=True)  # as the route does
        inside.append((time.process_time() - began) / per_round * 1e3)
        cpu_s = server.cpu_s()
        for text in texts:
            assert await connection.ask(text) == 200
        outside.append((server.cpu_s() - cpu_s) / per_round * 1e3)
    connection.close()
    inside, outside = inside[1:], outside[1:]
    added = statistics.median(there - here for here, there in zip(inside, outside, strict=True))
    here, there = statistics.median(inside), statistics.median(outside)
    return Overhead(*(round(number, 3) for number in (here, there, added, there / here)))


async def measure_open_loop(server: Server, rate: float, seconds: float) -> OpenLoop:
    count = max(1, int(rate * seconds))
    cpu_s = server.cpu_s()
    loop = asyncio.get_running_loop()
    idle: list[Connection] = []
    began = loop.time()

    async def one(number: int) -> tuple[float, int]:
        due = began + number / rate
        await asyncio.sleep(due - loop.time())
        connection = idle.pop() if idle else await Connection.open(server.port)
        status = await connection.ask(message(10**6 + number))
        idle.append(connection)
        return loop.time() - due, status  # from when it was due: a late client must not flatter the server

    found = await asyncio.gather(*(one(number) for number in range(count)))
    for connection in idle:
        connection.close()
    p50, p99 = np.percentile([latency for latency, _ in found], [50, 99]) * 1e3
    num_errors = sum(status != 200 for _, status in found)
    cpu_ms = (server.cpu_s() - cpu_s) / count * 1e3
    return OpenLoop(rate, count, num_errors, round(float(p50), 2), round(float(p99), 2), round(cpu_ms, 2))


async def measure(arguments: argparse.Namespace) -> dict[str, object]:
    results: dict[str, object] = {}
    with running_server(arguments.model) as server:
        with Guard.load(arguments.model) as guard:
            overhead = await measure_overhead(server, guard, arguments.rounds, arguments.per_round)
        print("processor ms per verdict:", *(f"{name} {value}" for name, value in asdict(overhead).items()), sep="  ")
        results["overhead"] = asdict(overhead)
        print(f"\n{'requests/s':>10} {'requests':>9} {'errors':>7} {'p50 ms':>9} {'p99 ms':>9} {'cpu ms':>8}")
        rows = []
        for rate in arguments.rates:
            row = await measure_open_loop(server, rate, arguments.seconds)
            rows.append(asdict(row))
            print(
                f"{row.requests_per_s:10} {row.num_requests:9} {row.num_errors:7} {row.p50_ms:9} {row.p99_ms:9}"
                f" {row.cpu_ms_per_request:8}"
            )
        results["open_loop"] = rows
    return results


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rates", type=float, nargs="+", default=[10, 20, 40], help="requests per second")
    parser.add_argument("--seconds", type=float, default=5, help="per rate")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--per-round", type=int, default=100, help="verdicts")
    arguments = parser.parse_args()
    machine = describe_machine()
    print(*machine.values(), sep="\n")
    results = asyncio.run(measure(arguments))
    print(json.dumps({"machine": machine, "model": arguments.model, **results}))


if __name__ == "__main__":
    main()

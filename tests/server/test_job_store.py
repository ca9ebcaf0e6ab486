"""The job store's promises: durable, recorded once, by turns, one runner, nothing kept that need not be."""

import os
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from guardhouse.errors import ConfigError, QueueFull
from guardhouse.server.jobs.job import Item, NewItem, Outcome
from guardhouse.server.jobs.store import JobStore
from guardhouse.server.jobs.tables import MAX_ATTEMPTS, SUSPECT_ATTEMPTS

DAY_S = 86400.0
SECRET = b"what somebody wrote and nobody else may read"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "jobs.sqlite3"


def runner(path: Path, clock: Clock | None = None) -> JobStore:
    store = JobStore(path, DAY_S, clock=clock or Clock())
    assert store.become_runner()
    return store


def requests(count: int, prefix: str = "") -> list[NewItem]:
    return [NewItem(f"{prefix}{number}".encode(), reference=f"r{number}") for number in range(count)]


def answer(items: list[Item], is_success: bool = True) -> list[Outcome]:
    return [Outcome(item, is_success, b"answer to " + item.request) for item in items]


def test_a_job_goes_from_queued_to_completed_with_all_its_results(path: Path, clock: Clock) -> None:
    store = runner(path, clock)
    job = store.submit("echo", requests(3), b"notes")
    assert (job.state, job.num_items, job.num_done, job.details, job.expires_at) == ("queued", 3, 0, b"notes", None)
    clock.now += 1
    first = store.claim(1)
    assert store.find(job.id).state == "running"
    store.record(answer(first))
    assert [result.position for result in store.results(job.id)] == [0]
    store.record(answer(store.claim(5), is_success=False))
    done = store.find(job.id)
    assert (done.state, done.num_done, done.num_failed) == ("completed", 3, 2)
    assert (done.started_at, done.finished_at, done.expires_at) == (clock.now, clock.now, clock.now + DAY_S)
    found = [(result.position, result.reference, result.is_success, result.result) for result in store.results(job.id)]
    assert found == [
        (0, "r0", True, b"answer to 0"),
        (1, "r1", False, b"answer to 1"),
        (2, "r2", False, b"answer to 2"),
    ]
    assert store.results(job.id, first=1, limit=1)[0].position == 1
    assert store.claim(5) == []


def test_jobs_are_served_by_turns(path: Path) -> None:
    store = runner(path)
    store.submit("long", requests(100))
    store.submit("short", requests(2))
    assert [item.kind for item in (store.claim(1) + store.claim(1) + store.claim(3))] == [
        "long",
        "short",
        "long",
        "short",
        "long",
    ]


def test_only_one_store_runs_items_until_it_closes(path: Path) -> None:
    first, second = runner(path), JobStore(path, DAY_S)
    second.submit("echo", requests(1))
    assert not second.become_runner()
    (item,) = first.claim(1)
    first.close()  # without having recorded anything
    assert second.become_runner()
    assert [again.request for again in second.claim(1)] == [item.request]


def test_a_result_is_recorded_once_and_no_query_can_change_it(path: Path) -> None:
    store = runner(path)
    job = store.submit("echo", requests(1))
    (item,) = store.claim(1)
    store.record([Outcome(item, True, b"first")])
    store.record([Outcome(item, True, b"second")])
    assert [result.result for result in store.results(job.id)] == [b"first"]
    with sqlite3.connect(path) as db, pytest.raises(sqlite3.IntegrityError, match="recorded once"):
        db.execute("UPDATE items SET result = 'third'")


def test_cancelling_keeps_what_is_answered_and_drops_the_rest(path: Path) -> None:
    store = runner(path)
    job = store.submit("echo", requests(3))
    store.record(answer(store.claim(1)))
    late = store.claim(1)
    cancelled = store.cancel(job.id)
    assert (cancelled.state, cancelled.num_done) == ("cancelled", 1)
    store.record(answer(late))
    assert [result.position for result in store.results(job.id)] == [0]
    assert store.claim(5) == []
    assert store.cancel(job.id) == cancelled
    assert store.cancel("no such job") is None


def test_what_is_past_its_deadline_is_given_up(path: Path, clock: Clock) -> None:
    store = runner(path, clock)
    job = store.submit("echo", requests(2), deadline_s=60)
    store.record(answer(store.claim(1)))
    clock.now += 61
    store.tidy()
    assert store.find(job.id).state == "expired"
    assert store.claim(5) == []


def test_results_are_gone_after_the_retention_even_before_tidying(path: Path, clock: Clock) -> None:
    store = runner(path, clock)
    job = store.submit("echo", requests(1))
    store.record(answer(store.claim(1)))
    clock.now += DAY_S - 1
    store.tidy()
    assert store.find(job.id) is not None
    clock.now += 1
    assert store.find(job.id) is None
    assert store.newest("echo", 10) == []
    store.tidy()
    assert store.results(job.id) == []


def test_an_unfinished_job_never_expires_by_itself(path: Path, clock: Clock) -> None:
    store = runner(path, clock)
    job = store.submit("echo", requests(1))
    clock.now += 1000 * DAY_S
    store.tidy()
    assert store.find(job.id).state == "queued"


def test_requests_are_wiped_from_every_file_when_their_results_are_recorded(path: Path, clock: Clock) -> None:
    store = runner(path, clock)
    items = [NewItem(SECRET + bytes(str(number), "ascii") * 3000) for number in range(4)]  # larger than a page
    store.submit("echo", items)
    assert any(SECRET in file.read_bytes() for file in path.parent.iterdir())
    store.record([Outcome(item, True, b"fine") for item in store.claim(4)])
    assert [file.name for file in path.parent.iterdir() if SECRET in file.read_bytes()] == []


def test_only_the_owner_can_read_the_files(path: Path) -> None:
    mask = os.umask(0)
    try:
        store = runner(path)
        store.submit("echo", requests(1))
    finally:
        os.umask(mask)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert len(modes) == 4  # database, log, its index, lock
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_full_store_refuses_until_jobs_end(path: Path) -> None:
    store = JobStore(path, DAY_S, max_pending_bytes=10)
    assert store.become_runner()
    store.submit("echo", [NewItem(b"12345678")])
    with pytest.raises(QueueFull):
        store.submit("echo", [NewItem(b"123")])
    store.record(answer(store.claim(1)))
    store.submit("echo", [NewItem(b"123")])


def test_an_item_that_processes_die_with_runs_alone_and_is_given_up_in_the_end(path: Path) -> None:
    JobStore(path, DAY_S).submit("echo", [NewItem(b"poison"), NewItem(b"harmless")])
    for attempt in range(SUSPECT_ATTEMPTS):
        store = runner(path)
        assert len(store.claim(5)) == 2, attempt
        store.close()  # as a kill would
    alone = 0
    while not (store := runner(path)).hopeless():
        (item,) = store.claim(5)
        assert store.claim(5) == [], "a suspect must run alone"
        if item.request == b"harmless":
            store.record(answer([item]))
        else:
            alone += 1
        store.close()
    assert alone == MAX_ATTEMPTS - SUSPECT_ATTEMPTS
    assert store.claim(5) == []
    store.record([Outcome(item, False, b"given up") for item in store.hopeless()])
    assert store.newest("echo", 1)[0].state == "completed"


def test_released_items_count_as_never_tried(path: Path) -> None:
    store = runner(path)
    store.submit("echo", requests(1))
    for _ in range(MAX_ATTEMPTS + 1):
        items = store.claim(1)
        assert len(items) == 1
        store.release(items)


def test_jobs_are_listed_newest_first_page_by_page(path: Path) -> None:
    store = runner(path)
    ids = [store.submit("echo", requests(1)).id for _ in range(5)]
    store.submit("other", requests(1))
    first = store.newest("echo", 2)
    assert [job.id for job in first] == [ids[4], ids[3]]
    assert [job.id for job in store.newest("echo", 10, after=first[-1].id)] == [ids[2], ids[1], ids[0]]


@pytest.mark.parametrize("content", [b"no database at all, but long enough to have a header" * 20, b""])
def test_a_file_that_is_no_store_is_refused_by_name(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    if not content:  # an empty file is an empty database
        JobStore(path, DAY_S).close()
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version=99")
    with pytest.raises(ConfigError, match=r"jobs\.sqlite3"):
        JobStore(path, DAY_S)


def test_claiming_looks_items_up_instead_of_reading_all_of_them(path: Path) -> None:
    store = runner(path)
    store.submit("echo", requests(1))
    from guardhouse.server.jobs import tables as job_tables  # noqa: PLC0415

    with sqlite3.connect(path) as db:
        for query, parameters in (
            (job_tables.NEXT_BY_TURNS, (0, 0)),
            (job_tables.SUSPECT, ()),
            (job_tables.HOPELESS, ()),
        ):
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", parameters)]
            assert not [step for step in plan if step.startswith("SCAN items") and "INDEX" not in step], plan
            assert not [step for step in plan if "TEMP B-TREE" in step], plan


class StoreUnderFire(RuleBasedStateMachine):
    """Any order of submissions, claims, results, cancellations and deaths; a model in memory says what must be there."""

    @initialize()
    def create(self) -> None:
        import tempfile  # noqa: PLC0415

        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "jobs.sqlite3"
        self.store = runner(self.path)
        self.expected: dict[str, dict[int, bytes]] = {}  # job -> position -> result
        self.sizes: dict[str, int] = {}
        self.cancelled: set[str] = set()
        self.claimed: list[Item] = []
        self.counter = 0

    @rule(size=st.integers(1, 4))
    def submit(self, size: int) -> None:
        job = self.store.submit("echo", [NewItem(b"") for _ in range(size)])
        self.expected[job.id], self.sizes[job.id] = {}, size

    @rule(limit=st.integers(1, 5))
    def claim(self, limit: int) -> None:
        new = self.store.claim(limit)
        assert not {item.number for item in new} & {item.number for item in self.claimed}, "claimed twice"
        self.claimed += new

    @rule(index=st.integers(0, 20), twice=st.booleans())
    def record(self, index: int, twice: bool) -> None:
        if not self.claimed:
            return
        item = self.claimed.pop(index % len(self.claimed))
        self.counter += 1
        outcome = Outcome(item, True, f"{item.number}:{self.counter}".encode())
        self.store.record([outcome, outcome] if twice else [outcome])
        for job_id in self.expected:
            for result in self.store.results(job_id):
                self.expected[job_id].setdefault(result.position, result.result)

    @rule(index=st.integers(0, 20))
    def cancel(self, index: int) -> None:
        if self.expected:
            job_id = list(self.expected)[index % len(self.expected)]
            if len(self.expected[job_id]) < self.sizes[job_id]:
                self.cancelled.add(job_id)
            self.store.cancel(job_id)

    @rule()
    def die(self) -> None:
        self.store.close()
        self.store = runner(self.path)
        self.claimed = []

    @invariant()
    def nothing_is_lost_or_changed(self) -> None:
        for job_id, results in getattr(self, "expected", {}).items():
            job = self.store.find(job_id)
            assert job is not None
            assert {result.position: result.result for result in self.store.results(job_id)} == results
            assert job.num_done == len(results)
            is_complete = len(results) == self.sizes[job_id]
            assert (job.state == "completed") == is_complete
            assert (job.state == "cancelled") == (job_id in self.cancelled)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


TestStoreUnderFire = StoreUnderFire.TestCase
TestStoreUnderFire.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)  # real disk writes


def test_reading_waits_for_no_other_process(path: Path) -> None:
    store = runner(path)
    job = store.submit("echo", requests(1))
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        assert store.find(job.id) == job
        assert store.results(job.id) == []
        other.execute("ROLLBACK")

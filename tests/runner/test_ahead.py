"""Reading ahead: who reads the source, how far, and what becomes of it when a stream is left."""

from __future__ import annotations

import contextvars
import gc
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from task_models import some_texts, write_model

import offramp
from offramp.errors import DataError
from offramp.models import bert
from offramp.runner.ahead import FEW, ahead
from offramp.runner.classifier import Classifier
from offramp.runner.rows import BLOCK
from offramp.runner.text_model import CHUNK

SIZE = 10


def in_tens(rows: Iterable[int]) -> Iterator[list[int]]:
    rows = iter(rows)
    while ten := list(itertools.islice(rows, SIZE)):
        yield ten


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread for thread in threading.enumerate() if thread.name == "ahead"] == []


class Source:
    """Numbers, and who asked for them when: a generator with a memory."""

    def __init__(self, n_rows: int | None = None, error: Exception | None = None) -> None:
        self.read = 0
        self.readers: set[int] = set()
        self.closed_by: int | None = None
        self.n_rows, self.error = n_rows, error

    def rows(self) -> Iterator[int]:
        try:
            for number in itertools.count() if self.n_rows is None else range(self.n_rows):
                self.readers.add(threading.get_ident())
                self.read += 1
                yield number
            if self.error is not None:
                raise self.error
        finally:
            self.closed_by = threading.get_ident()


def test_order_is_kept_and_one_thread_reads() -> None:
    source = Source(1003)
    with ahead(source.rows(), in_tens) as windows:
        found = [number for window in windows for number in window]
    assert found == list(range(1003))
    assert len(source.readers) == 1
    assert source.closed_by in source.readers
    assert threading.get_ident() not in source.readers


def test_it_reads_one_window_ahead_and_no_further() -> None:
    source = Source()
    with ahead(source.rows(), in_tens) as windows:
        for taken in range(1, 20):
            next(windows)
            time.sleep(0.01)  # longer than the thread needs to read all that it may
            assert source.read <= (taken + 1) * SIZE
    assert source.read <= 20 * SIZE


def test_the_next_window_is_made_while_this_one_is_used() -> None:
    made = threading.Event()

    def windows_of(rows: Iterator[int]) -> Iterator[int]:
        for row in rows:
            if row == 1:
                made.set()
            yield row

    with ahead(Source(5).rows(), windows_of) as windows:
        assert next(windows) == 0
        assert made.wait(10)  # without the second being asked for


def test_an_error_of_the_source_is_raised_in_its_place() -> None:
    error = OSError("the line is down")
    source = Source(25, error)
    found: list[int] = []
    with (
        pytest.raises(OSError, match="the line is down") as caught,
        ahead(source.rows(), in_tens) as windows,
    ):
        found.extend(number for window in windows for number in window)
    assert caught.value is error
    assert found == list(range(25))  # all that was read before it


@pytest.mark.parametrize("few", [True, False])
def test_an_error_of_the_windows_maker(few: bool) -> None:
    def fails(rows: Iterator[int]) -> Iterator[int]:
        yield next(rows)
        raise DataError("a row that is none")

    source = Source()
    rows: Iterable[int] = [1, 2] if few else source.rows()
    with ahead(rows, fails) as windows:
        next(windows)
        with pytest.raises(DataError, match="a row that is none"):
            next(windows)
    assert few or source.closed_by is not None


def test_a_stream_that_is_left_ends_the_thread_and_closes_the_source() -> None:
    source = Source()
    with ahead(source.rows(), in_tens) as windows:
        next(windows)
    assert source.closed_by is not None  # by now, not some time later
    assert source.closed_by in source.readers
    stopped = source.read
    time.sleep(0.01)
    assert source.read == stopped


def test_an_error_of_the_one_who_uses_them_ends_the_thread() -> None:
    for error in (ZeroDivisionError, KeyboardInterrupt):
        source = Source()
        with pytest.raises(error), ahead(source.rows(), in_tens) as windows:
            next(windows)
            raise error
        assert source.closed_by is not None


def test_a_source_that_does_not_answer_is_not_waited_for_long() -> None:
    may_go = threading.Event()
    closed = threading.Event()

    def waits() -> Iterator[int]:
        try:
            yield from range(2 * SIZE)
            may_go.wait(60)
            yield 0
        finally:
            closed.set()

    began = time.monotonic()
    with ahead(waits(), in_tens) as windows:
        next(windows)
        next(windows)
    assert time.monotonic() - began < 10
    may_go.set()
    assert closed.wait(10)
    for thread in threading.enumerate():
        if thread.name == "ahead":
            thread.join(10)


def test_a_short_list_is_read_by_the_caller() -> None:
    with ahead(range(FEW), in_tens) as windows:
        next(windows)
        assert all(thread.name != "ahead" for thread in threading.enumerate())
        assert len(list(windows)) == FEW // SIZE
    with ahead(range(FEW + 1), in_tens) as windows:
        next(windows)
        assert any(thread.name == "ahead" for thread in threading.enumerate())


def test_a_source_sees_the_caller_s_context() -> None:
    name = contextvars.ContextVar("name", default="none")
    name.set("the caller's")
    with ahead((name.get() for _ in range(1)), lambda rows: rows) as windows:
        assert list(windows) == ["the caller's"]


# ------------------------------------------------------------------ in a stream of answers


class Texts:
    """Rows again and again, counted as they are read."""

    def __init__(self, texts: list[Any]) -> None:
        self.texts, self.read, self.closed = texts, 0, False

    def __call__(self) -> Iterator[Any]:
        try:
            for text in itertools.cycle(self.texts):
                self.read += 1
                yield text
        finally:
            self.closed = True


def leave_by_close(stream: Iterator[object]) -> None:
    stream.close()  # type: ignore[attr-defined]


def leave_by_forgetting(stream: Iterator[object]) -> None:
    del stream


def test_a_stream_reads_within_a_bound_of_what_it_gave(classifier: Classifier) -> None:
    texts = some_texts(50)
    expected = classifier.predict(texts)
    source = Texts(texts)
    stream = classifier.stream(source())
    assert source.read == 0
    for done, answer in zip(range(1, 3 * BLOCK), stream, strict=False):
        # The window that this row is of, the next one, and the rest of a chunk.
        assert source.read <= -(-done // BLOCK) * BLOCK + BLOCK + CHUNK
        wanted = expected[(done - 1) % 50]
        assert (answer.label, answer.exit_layer) == (wanted.label, wanted.exit_layer)
    leave_by_close(stream)
    assert source.closed


@pytest.mark.parametrize("way", ["close", "forget", "break", "fail"])
def test_a_stream_is_left(way: str, classifier: Classifier) -> None:
    source = Texts(some_texts(50))
    stream = classifier.stream(source())
    if way == "break":
        for _ in stream:
            break
        stream = iter(())
    else:
        next(stream)
        if way == "close":
            leave_by_close(stream)
        elif way == "forget":
            stream = iter(())
        else:
            with pytest.raises(RuntimeError):
                stream.throw(RuntimeError("stop"))  # type: ignore[attr-defined]
    gc.collect()
    assert source.closed


def test_rows_before_a_bad_one_are_answered_first(classifier: Classifier) -> None:
    texts = some_texts(CHUNK + 10)

    def breaks() -> Iterator[str]:
        yield from texts
        raise DataError("rows.tsv, line 523: 3 fields")

    found = []
    with pytest.raises(DataError, match="line 523"):
        for answer in classifier.stream(breaks()):
            found.append(answer)
    expected = classifier.predict(texts)
    assert [a.exit_layer for a in found] == [a.exit_layer for a in expected]


def test_a_stream_that_begins_at_a_block_ends_in_the_same_digits(classifier: Classifier) -> None:
    # That is what makes a run that goes on equal to one that was never stopped.
    texts = some_texts(2 * BLOCK + 100, seed=5)
    whole = list(classifier.stream(texts))
    assert list(classifier.stream(texts[BLOCK:])) == whole[BLOCK:]
    assert list(classifier.stream(texts[2 * BLOCK :])) == whole[2 * BLOCK :]


TASKS: dict[str, tuple[type[Any], Any]] = {
    "embed": (bert.BertModel, "anna"),
    "rerank": (bert.BertForSequenceClassification, ("anna", "in oslo")),
    "tag": (bert.BertForTokenClassification, "anna walks"),
    "answer": (bert.BertForQuestionAnswering, ("who?", "anna")),
    "choose": (bert.BertForMultipleChoice, ("who", ["anna", "bob"])),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_reads_ahead(task: str, tmp_path: Path) -> None:
    cls, row = TASKS[task]
    model: Any = offramp.load(write_model(tmp_path / "model", cls), task=task)  # type: ignore[call-overload]
    source = Texts([row])
    answers = model.n_best(source(), 1) if task == "answer" else model.stream(source())
    next(answers)
    assert 0 < source.read <= 2 * BLOCK + 1024
    answers.close()
    gc.collect()
    assert source.closed


def test_ctrl_c_ends_a_process_that_streams(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "model")
    program = """
import itertools, signal, sys, offramp
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
classifier = offramp.load(sys.argv[1])
def texts():
    try:
        yield from itertools.repeat("good film")
    finally:
        print("closed", flush=True)
def run():  # between two rows it is this function that is interrupted, and lets the stream go
    stream = classifier.stream(texts())
    next(stream)
    print("began", flush=True)
    for _ in stream: pass
run()
"""
    command = [sys.executable, "-c", program, str(tmp_path / "model")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"began\n"
        process.send_signal(2)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert out == b"closed\n"
    assert err.decode().rstrip().endswith("KeyboardInterrupt")

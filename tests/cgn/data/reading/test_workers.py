"""What a hostile film can do to the process that decodes it, and what happens to the other films."""

import dataclasses
import os
import subprocess
import sys
import time
from contextlib import closing
from functools import partial

import psutil
import pytest

from cgn.data.breast import Preprocessing
from cgn.data.datasets import phantom
from cgn.data.preparation import PreparedPair, prepare_pair, prepare_pairs
from cgn.data.reading import workers
from cgn.data.reading.workers import Pool
from cgn.data.records import Rejection
from cgn.errors import Reason, TimeLimitError

SMALL = Preprocessing(32)


@pytest.fixture(scope="module")
def records():
    return phantom.scan(phantom.Options(pairs=6), SMALL.size).records


def with_load(records, number, load):
    record = dataclasses.replace(records[number], load=load, films=("film-a", "film-b"))
    return (*records[:number], record, *records[number + 1 :])


def prepare(records):
    return dict(prepare_pairs(records, SMALL, sandboxed=True))


def processes():
    children = psutil.Process().children()
    return {child.pid for child in children if workers.__name__ in " ".join(child.cmdline())}


@pytest.mark.parametrize("number", [0, 3, 5])
def test_a_crashed_decoder_costs_one_pair(records, number):
    outcomes = prepare(with_load(records, number, os.abort))
    rejection = outcomes.pop(number)
    assert rejection.reason == Reason.DECODER_CRASHED
    assert rejection.pair_id == records[number].pair_id
    assert len(outcomes) == 5
    assert all(isinstance(outcome, PreparedPair) for outcome in outcomes.values())


def test_a_run_ends_even_if_every_decoder_crashes(records):
    for number in range(6):
        records = with_load(records, number, os.abort)
    assert {outcome.reason for outcome in prepare(records).values()} == {Reason.DECODER_CRASHED}


def test_a_film_that_needs_too_much_memory_costs_one_pair(records):
    outcomes = prepare(with_load(records, 2, partial(bytes, 2**40)))
    assert outcomes[2].reason == Reason.TOO_LARGE
    assert sum(isinstance(outcome, Rejection) for outcome in outcomes.values()) == 1


def test_a_decoder_that_hangs_costs_one_pair(records, monkeypatch):
    monkeypatch.setattr(workers, "TIME_LIMIT", 3.0)
    outcomes = prepare(with_load(records, 1, partial(time.sleep, 1000)))
    assert outcomes[1].reason == Reason.DECODER_TIMEOUT
    assert "took more than 3 s" in outcomes[1].message
    assert sum(isinstance(outcome, Rejection) for outcome in outcomes.values()) == 1


def test_a_run_that_passes_its_deadline_frees_its_processes(records):
    """Without it, a request that its server has given up would still occupy every decoder."""
    stuck = with_load(records, 1, partial(time.sleep, 1000))
    with closing(Pool(partial(prepare_pair, preprocessing=SMALL), processes=2)) as pool:
        with pytest.raises(TimeLimitError, match=r"only \d of 6 pairs of films were opened in time"):
            list(pool.run(stuck, time.monotonic() + 5))
        assert len(dict(pool.run(records, time.monotonic() + 100))) == 6
        with pytest.raises(TimeLimitError, match="only 0 of 6"):
            list(pool.run(records, time.monotonic() - 1))
    assert not processes()


def test_an_error_of_the_job_is_raised_with_its_traceback(records):
    with pytest.raises(ValueError, match="invalid literal") as caught:
        prepare(with_load(records, 4, partial(int, "x")))
    assert "prepare_pair" in "".join(caught.value.__notes__)


def test_no_process_is_left_behind(records):
    outcomes = prepare_pairs(records, SMALL, sandboxed=True)
    next(outcomes)
    outcomes.close()
    prepare(records)
    assert not processes()


def test_processes_serve_several_runs_and_dead_ones_are_replaced(records):
    with closing(Pool(partial(prepare_pair, preprocessing=SMALL), processes=1)) as pool:
        assert len(list(pool.run(records[:2]))) == 2
        (first,) = processes()
        assert len(list(pool.run(records[2:4]))) == 2
        assert processes() == {first}
        child = psutil.Process(first)
        child.kill()
        psutil.wait_procs([child], timeout=30)
        outcomes = dict(pool.run(records[4:]))
        assert all(isinstance(outcome, PreparedPair) for outcome in outcomes.values())
        assert first not in processes()
    assert not processes()


def test_a_process_that_does_not_start_is_an_error(records, monkeypatch):
    monkeypatch.setattr(workers.sys, "executable", "/bin/false")
    with (
        closing(Pool(prepare_pair, processes=1)) as pool,
        pytest.raises(RuntimeError, match="does not start"),
    ):
        list(pool.run(records[:1]))


def test_a_script_without_a_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from cgn.data.breast import Preprocessing\n"
        "from cgn.data.datasets import phantom\n"
        "from cgn.data.preparation import prepare_pairs\n"
        "print('begun')\n"
        "records = phantom.scan(phantom.Options(pairs=2), 32).records\n"
        "print(len(list(prepare_pairs(records, Preprocessing(32), sandboxed=True))))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["begun", "2"]

"""What a hostile film can do to the process that decodes it, and what becomes of the others."""

import os
import subprocess
import sys
import time
from functools import partial

import numpy as np
import psutil
import pytest

from cgn.data import workers
from cgn.data.datasets import phantom
from cgn.data.workers import PreparedPair, Rejection, prepare_pair, prepare_pairs
from cgn.errors import Reason

SIZE = 32


@pytest.fixture(scope="module")
def records():
    return phantom.scan(phantom.Options(pairs=6), SIZE).records


def spoilt(records, number, load):
    record = type(records[number])(**{**vars(records[number]), "load": load, "films": ("film-a", "film-b")})
    return (*records[:number], record, *records[number + 1 :])


def run(records, contained=True):
    return dict(prepare_pairs(records, SIZE, "keep", contained=contained))


def test_processes_threads_and_plain_calls_give_the_same(records):
    plain = [prepare_pair(record, SIZE, "keep") for record in records]
    for way in (run(records), run(records, contained=False)):
        assert sorted(way) == list(range(6))
        for number, pair in way.items():
            for one, other in zip(pair, plain[number], strict=True):
                assert one.crop == other.crop
                np.testing.assert_array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("number", [0, 3, 5])
def test_a_crashed_decoder_costs_one_pair(records, number):
    done = run(spoilt(records, number, os.abort))
    rejection = done.pop(number)
    assert rejection.reason == Reason.DECODER_CRASHED
    assert rejection.pair_id == records[number].pair_id
    assert len(done) == 5
    assert all(isinstance(outcome, PreparedPair) for outcome in done.values())


def test_when_every_decoder_crashes_it_still_ends(records):
    for number in range(6):
        records = spoilt(records, number, os.abort)
    assert {outcome.reason for outcome in run(records).values()} == {Reason.DECODER_CRASHED}


def test_a_film_that_asks_for_all_memory_costs_one_pair(records):
    done = run(spoilt(records, 2, partial(bytes, 2**40)))
    assert done[2].reason == Reason.TOO_LARGE
    assert sum(isinstance(outcome, Rejection) for outcome in done.values()) == 1


def test_a_decoder_that_hangs_costs_one_pair(records, monkeypatch):
    monkeypatch.setattr(workers, "SECONDS", 3.0)
    done = run(spoilt(records, 1, partial(time.sleep, 1000)))
    assert done[1].reason == Reason.DECODER_TIMEOUT
    assert "took more than 3 s" in done[1].message
    assert sum(isinstance(outcome, Rejection) for outcome in done.values()) == 1


def test_an_error_of_ours_is_not_hidden_and_tells_where_it_arose(records):
    with pytest.raises(ValueError, match="invalid literal") as caught:
        run(spoilt(records, 4, partial(int, "x")))
    assert "prepare_pair" in "".join(caught.value.__notes__)


def test_no_process_is_left_behind(records):
    begun = prepare_pairs(records, SIZE, "keep", contained=True)
    next(begun)
    begun.close()
    run(records)
    assert not [child for child in psutil.Process().children() if "_serve" in " ".join(child.cmdline())]


def test_a_script_without_a_guard_runs_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from cgn.data import workers\n"
        "from cgn.data.datasets import phantom\n"
        "print('begun')\n"
        "records = phantom.scan(phantom.Options(pairs=2), 32).records\n"
        "print(len(list(workers.prepare_pairs(records, 32, 'keep', contained=True))))\n"
    )
    told = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert told.stdout.split() == ["begun", "2"]

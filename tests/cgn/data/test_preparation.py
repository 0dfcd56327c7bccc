"""Pairs are prepared the same in threads, in processes with limits, and one by one."""

from dataclasses import replace
from functools import partial

import numpy as np

from cgn.data.breast import Preprocessing
from cgn.data.datasets import phantom
from cgn.data.preparation import PreparedPair, prepare_pair, prepare_pairs
from cgn.data.records import Rejection, load_pair
from cgn.errors import Reason

SMALL = Preprocessing(32)


def test_processes_threads_and_plain_calls_give_the_same():
    records = phantom.scan(phantom.Options(pairs=6), SMALL.size).records
    plain = [prepare_pair(record, SMALL) for record in records]
    for sandboxed in (True, False):
        outcomes = dict(prepare_pairs(records, SMALL, sandboxed=sandboxed))
        assert sorted(outcomes) == list(range(6))
        for number, pair in outcomes.items():
            for image, expected in zip(pair, plain[number], strict=True):
                assert (image.crop, image.boxes) == (expected.crop, expected.boxes)
                np.testing.assert_array_equal(image.pixels, expected.pixels)


def test_the_mask_removes_faint_pixels():
    (record, *_) = phantom.scan(phantom.Options(pairs=1), 32).records
    kept, masked = (prepare_pair(record, Preprocessing(32, background)) for background in ("keep", "mask"))
    assert np.count_nonzero(masked.target.pixels) < np.count_nonzero(kept.target.pixels)


def test_whatever_a_reader_raises_costs_one_pair():
    good = phantom.scan(phantom.Options(pairs=2), 64).records
    for error, reason in ((ValueError("4300 digits"), Reason.UNDECODABLE), (MemoryError(), Reason.TOO_LARGE)):

        def broken(error=error):
            raise error

        bad = replace(good[0], load=partial(load_pair, lambda: good[0].load().target, broken))
        outcomes = dict(prepare_pairs([bad, good[1]], Preprocessing(64), sandboxed=False))
        assert isinstance(outcomes[0], Rejection)
        assert (outcomes[0].reason, outcomes[0].role) == (reason.value, "reference")
        assert isinstance(outcomes[1], PreparedPair)

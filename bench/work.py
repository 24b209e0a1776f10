"""Kinds of work, and how a turn at one is timed."""

import statistics
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Encode:
    """Sequences of these many tokens, all at once."""

    lengths: tuple


@dataclass(frozen=True)
class Prefill:
    """A prompt of so many tokens."""

    tokens: int


@dataclass(frozen=True)
class Decode:
    """A step of one token for each of `streams` sequences of `context` tokens."""

    context: int
    streams: int = 1


# Steps that a decoder makes before they are forgotten again.
WINDOW = 16


def tokens(count, vocabulary):
    """The ids that `satura bench` takes, which spread over the vocabulary."""
    return [(i * 7919 + 997) % vocabulary for i in range(count)]


def median(sample, seconds, least=5):
    """The median of what `sample` gives, called for `seconds` after once that does not count."""
    sample()
    times, start = [], time.perf_counter()
    while len(times) < least or time.perf_counter() - start < seconds:
        times.append(sample())
    return statistics.median(times)


def timed(runs):
    def sample():
        start = time.perf_counter()
        for run in runs:
            run()
        return time.perf_counter() - start

    return sample

"""A short, seeded run of each target of fuzzing: its whole corpus, and mutations of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fuzz.mutation import mutated
from fuzz.targets import NOW_S, TARGETS

from ec_server.ingest.message_body import Limits, parse
from utilities.model import Batch

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
MUTATIONS = {"body": 600, "frames": 250, "head": 3_000}


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


@pytest.mark.thorough
@pytest.mark.parametrize("name", TARGETS)
def test_nothing_in_the_corpus_and_no_mutation_of_it_breaks_a_target(name: str) -> None:
    chance, seeds = random.Random(f"{name} 1"), corpus(name)
    for number in range(-len(seeds), MUTATIONS[name]):
        data = seeds[number] if number < 0 else mutated(chance, chance.choice(seeds))
        try:
            TARGETS[name](data)
        except BaseException as error:
            pytest.fail(f"{name} breaks on {data!r}: {error!r}")


def test_the_corpus_is_small_and_has_messages_that_are_good_and_bad() -> None:
    assert set(TARGETS) == {folder.name for folder in CORPUS.iterdir()}
    assert all(len(data) <= 4_000 for name in TARGETS for data in corpus(name))
    assert sum(len(corpus(name)) for name in TARGETS) < 100
    found = {type(parse(data, Limits(), NOW_S)) for data in corpus("body")}
    assert len(found) == 2
    assert Batch in found

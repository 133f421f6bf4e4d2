"""Which shards go where, and what becomes of those that kill workers: without any cluster."""

from dataclasses import dataclass, replace

import pytest

from twostage.errors import ExecutorError
from twostage.executors.backlog import IN_HAND, Backlog


@dataclass(frozen=True)
class Letters:
    """A shard whose images are letters; upper case is condemned."""

    images: str


def split(shard):
    half = len(shard.images) // 2
    return Letters(shard.images[:half]), Letters(shard.images[half:])


def condemn(shard, n_before):
    return replace(shard, images=shard.images.upper() if n_before == 0 else "*")


def backlog(*shards):
    return Backlog(map(Letters, shards), split, condemn)


def run_alone(work, kills, most=200):
    """Work off a backlog by workers that die of some letters; return what was done, in order."""
    done, n_deaths = "", 0
    for worker in range(most):
        while given := work.take(worker):
            for shard in given:
                if kills & set(shard.images):
                    break
                done += shard.images
                work.finish(worker)
            if not work.is_idle(worker):
                work.give_back(worker)
                n_deaths += 1
                break
        if not work.n_jobs:
            return done, n_deaths
    raise AssertionError("it does not end")


def test_shards_are_given_in_order_and_never_more_than_fit_in_a_hand():
    work = backlog("ab", "cd", "ef", "g")
    assert [shard.images for shard in work.take("x")] == ["ab", "cd"]
    assert len(work.take("x")) == 0
    assert IN_HAND == 2
    assert work.finish("x") == 2
    assert [shard.images for shard in work.take("x")] == ["ef"]
    assert (work.n_jobs, work.n_free, work.n_done, work.n_images) == (3, 1, 2, 7)


def test_a_shard_is_left_for_each_worker_that_is_about_to_come():
    work = backlog("a", "b", "c")
    assert [shard.images for shard in work.take("x", n_coming=2)] == ["a"]
    assert [shard.images for shard in work.take("y", n_coming=1)] == ["b"]
    assert [shard.images for shard in work.take("z")] == ["c"]
    assert work.is_idle("nobody")


def test_what_a_dead_worker_had_is_worked_on_again_alone():
    work = backlog("a", "b", "c", "d")
    work.take("x")
    work.give_back("x")
    assert work.n_free == 4
    assert [shard.images for shard in work.take("y")] == ["a"]  # and nothing beside it
    work.finish("y")
    assert [shard.images for shard in work.take("y")] == ["b"]
    work.finish("y")
    assert [shard.images for shard in work.take("y")] == ["c", "d"]


@pytest.mark.parametrize("deadly", "abcdefgh")
def test_an_image_that_kills_workers_is_found_and_condemned(deadly):
    work = backlog("abcde", "fgh", "ij")
    done, n_deaths = run_alone(work, {deadly})
    assert sorted(done.lower()) == list("abcdefghij")
    assert [letter for letter in done if letter.isupper()] == [deadly.upper()]
    assert work.condemned == [deadly]
    assert work.n_done == 10
    assert n_deaths <= 7


def test_pieces_of_a_shard_are_done_in_the_order_of_its_images():
    done, _ = run_alone(backlog("abcdefgh"), {"a", "d", "h"})
    assert done == "AbcDefgH"


def test_an_image_that_kills_even_as_it_is_read_is_not_read():
    done, _ = run_alone(backlog("abc"), {"b", "B"})
    assert done == "a*c"


def test_the_loss_of_a_healthy_worker_condemns_nothing():
    work = backlog("a", "b")
    for worker in range(2):  # one in company, one alone
        work.take(worker)
        work.give_back(worker)
    done, _ = run_alone(work, set())
    assert sorted(done) == ["a", "b"]
    assert work.condemned == []


def test_workers_that_die_of_anything_end_the_run():
    work = backlog("abcdefghijklmnopqrstuvwxyz")
    with pytest.raises(ExecutorError, match="die whatever they are given"):
        run_alone(work, set("abcdefghijklmnopqrstuvwxyz"))

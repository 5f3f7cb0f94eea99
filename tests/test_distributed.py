"""A life of a job: what processes agree on in a store that torchrun keeps over its restarts."""

import threading
from datetime import timedelta

import pytest
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from transmix.distributed import _store_of_this_life

WAIT = timedelta(seconds=300)


@pytest.fixture
def connect():
    """Give a function that makes a new client of one server, as each process has its own."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    return lambda: dist.TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False)


def live(connect, address, join=_store_of_this_life, size=3):
    """Let `size` processes join, write where they are, and read where the first two find each other."""
    found, stores, lives = {}, {}, {}
    ready = threading.Barrier(size)

    def process(rank):
        stores[rank], lives[rank] = join(connect(), rank, size, WAIT)
        ready.wait(300)
        if rank == 0:  # reads before the other has written, as on a busy machine
            found[0] = stores[0].check(["address/1"])
            stores[0].set(f"read/{address}", "")
        else:
            stores[rank].wait([f"read/{address}"], WAIT)
            stores[rank].set(f"address/{rank}", f"{address}")
            found[rank] = stores[rank].get(f"address/{rank}").decode()

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(set(lives.values())) == 1
    return lives[0], found


def test_each_life_starts_with_nothing_of_the_one_before(connect):
    for number, life in enumerate(("first", "second", "third"), start=1):
        assert live(connect, life) == (number, {0: False, 1: life, 2: life})


def test_without_it_the_address_of_a_process_that_died_would_be_read(connect):
    def as_it_comes(store, rank, size, wait):
        return store, 1

    assert live(connect, "first", as_it_comes)[1][0] is False
    assert live(connect, "second", as_it_comes)[1][0] is True


def test_a_process_that_asked_and_died_is_not_counted(connect):
    with pytest.raises(dist.DistStoreError):
        _store_of_this_life(connect(), 1, 3, timedelta(seconds=0.2))  # asks, is never told
    assert live(connect, "second")[1] == {0: False, 1: "second", 2: "second"}


def test_who_does_not_come_is_waited_for_only_so_long(connect):
    with pytest.raises(dist.DistError, match=r"not all of 2 processes joined within 0:00:00\.2"):
        _store_of_this_life(connect(), 0, 2, timedelta(seconds=0.2))


def test_torch_still_gives_the_store_that_is_wrapped(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    store, rank, size = next(rendezvous("env://", timeout=WAIT))
    assert (rank, size) == (0, 1)
    PrefixStore("life", store).set("key", "value")
    assert store.get("life/key") == b"value"

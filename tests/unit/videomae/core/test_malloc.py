"""glibc's heap keeps the memory of batches, also where it accepts no threshold above 32 MiB."""

import ctypes

import pytest

from videomae.core.malloc import tune_malloc

MMAP_THRESHOLD = -3


@pytest.mark.parametrize(("most", "set_to"), [(1 << 62, 1 << 30), (1 << 25, 1 << 25)])
def test_tune_malloc_sets_the_largest_accepted_threshold(
    monkeypatch: pytest.MonkeyPatch, most: int, set_to: int
) -> None:
    taken: dict[int, int] = {}

    class Library:
        def mallopt(self, parameter: int, value: int) -> int:
            if parameter == MMAP_THRESHOLD and value > most:
                return 0
            taken[parameter] = value
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    tune_malloc()
    assert taken[MMAP_THRESHOLD] == set_to

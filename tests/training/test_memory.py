"""What is there before training is out of the search for unreachable objects; what training makes is not."""

import gc
import weakref

from featherweight.training.memory import long_lived_objects


class _Ring:
    def __init__(self) -> None:
        self.itself = self  # unreachable when dropped, but never free without a search


def test_objects_from_before_are_spared_until_the_end() -> None:
    before = gc.get_freeze_count()
    old = _Ring()
    gone = weakref.ref(old)
    with long_lived_objects():
        assert gc.get_freeze_count() > before
        del old
        gc.collect()
        assert gone() is not None
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert gone() is None


def test_objects_made_meanwhile_are_still_found() -> None:
    with long_lived_objects():
        made = _Ring()
        gone = weakref.ref(made)
        del made
        gc.collect()
        assert gone() is None

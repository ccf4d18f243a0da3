"""The test pictures are read once, after the last epoch: this object is the only way to them, and it holds to that."""

from __future__ import annotations

import threading
from collections.abc import Callable

from featherweight.datasets import PictureSet


class ProtocolError(RuntimeError):
    """The test pictures were asked for when nobody may see them: a fault in the program, not in its input."""


class HeldOutTest:
    """Test pictures that nothing can read before the last epoch is over, nor a second time.

        test = HeldOutTest(lambda: load_test("cifar10"))
        …                                          # training; test.read() here raises ProtocolError
        test.training_finished(last_epoch=True)
        pictures = test.read()                     # once

    The loader is not called before that moment, so not even its file is opened. The object is for one process and
    cannot be copied or pickled: a copy would be a second reading.
    """

    def __init__(self, loader: Callable[[], PictureSet]) -> None:
        self.__loader: Callable[[], PictureSet] | None = loader
        self.__finished = False
        self.__lock = threading.Lock()

    def training_finished(self, *, last_epoch: bool) -> None:
        """Declare that training is over. last_epoch: whether it ended with its last epoch, its weights now final.

        A run that was interrupted or failed says False, and the pictures stay closed. Raises ProtocolError when
        training that was declared finished is said not to be.
        """
        if not last_epoch and self.__finished:
            raise ProtocolError("training was declared finished before; it cannot go on with the test pictures open")
        self.__finished = bool(last_epoch)

    def read(self) -> PictureSet:
        """The test pictures. Raises ProtocolError before the end of the last epoch and on a second reading.

        A loader that fails has shown nobody a picture: its error passes through and reading may be tried again.
        """
        with self.__lock:
            if not self.__finished:
                raise ProtocolError(
                    "test pictures asked for before the last epoch was over; choose and stop by the validation pictures"
                )
            if self.__loader is None:
                raise ProtocolError("test pictures asked for a second time; measure everything in one reading")
            pictures = self.__loader()
            self.__loader = None
            return pictures

    def __reduce__(self) -> tuple:
        raise ProtocolError("the held-out test pictures cannot be copied or pickled; read them once, where they are")


def disjoint(train: PictureSet, test: PictureSet) -> int:
    """How many pictures of `test` are also in `train`, by content hash: 0 when they are disjoint, as they should be.

    A picture that `test` holds twice counts twice. CIFAR-10's own training and test pictures give 0.
    """
    seen = {bytes(row) for row in train.hashes}
    return sum(bytes(row) in seen for row in test.hashes)

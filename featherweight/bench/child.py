"""`python -m featherweight.bench.child`: one contender's process. The first line it reads is its job."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import traceback

from featherweight.bench.channel import Channel
from featherweight.bench.job import Job
from featherweight.utils import UserError

# kind of job → (module, function); a function sends its facts once it is ready, then answers command by command
_KINDS = {
    "plain": ("plain", "serve"),
    "engine": ("engine", "serve"),
    "matrix": ("matrix", "serve"),
    "whole_run": ("whole_run", "serve"),
    "inference_files": ("inference", "prepare_files"),
    "inference": ("inference", "serve"),
}


def leave_with(parent: int) -> None:
    """End this process soon after `parent` does: while it trains, nobody here reads that there are no more commands."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    leave_with(os.getppid())
    channel = Channel.of_this_process()
    first = channel.receive()
    if first is None:
        return 0
    try:
        job = Job(**first)
        module, function = _KINDS[job.kind]
        getattr(importlib.import_module(f"featherweight.bench.{module}"), function)(job, channel)
    except BrokenPipeError:  # whoever asked is no more
        return 1
    except UserError as error:
        channel.send({"problem": str(error)})
        return 1
    except Exception as error:
        traceback.print_exc()  # into the file that the parent keeps for a child that fails
        channel.send({"problem": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

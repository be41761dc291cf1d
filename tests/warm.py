"""What each verb's process does first, done once in the process that all of them are forked from."""

import contextlib
import gc
import importlib
import io

from latentkit import VERBS
from latentkit.jobs.command import run

for verb in VERBS:
    with contextlib.redirect_stdout(io.StringIO()):
        run(verb, ["--cfg", "job"])
    importlib.import_module(importlib.import_module(f"latentkit.{verb}").main.job.rpartition(".")[0])
gc.collect()
gc.freeze()  # what is shared stays so: no child copies it by looking for garbage in it

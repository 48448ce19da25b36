"""One Typer command per DVC stage: arguments, inputs, outputs. The numerics are in `vqpipe`."""

import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C before the command has begun ends it without a traceback

"""The `vqpipe` console tools: thin commands over the library."""

import os
import signal
import sys

if (
    os.path.basename(sys.argv[0]) == "vqpipe"
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C before the command has begun ends it without a traceback

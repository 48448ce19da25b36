"""`python -m vqpipe` is the console script `vqpipe`."""

from vqpipe.cli.app import app

if __name__ == "__main__":
    app(prog_name="vqpipe")

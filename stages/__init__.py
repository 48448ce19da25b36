"""One Typer command per DVC stage: arguments, inputs, outputs. The numerics are in `vqpipe`."""

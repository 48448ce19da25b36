"""The boards' way to the tasks, until their params name tasks: see `vqpipe.tasks`."""

"""The pictures of the source `scenes`: their grammar, layout, text and drawing. The source is `adapters.scenes`."""


def __getattr__(name: str) -> object:  # shim: moved
    return getattr(__import__("vqpipe.data.adapters.scenes", fromlist=["x"]), name)  # shim: moved

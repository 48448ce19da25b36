"""Images/s of the patches stage beside a plain open_clip loop: python -m tests.bench.patches

Apart from what it measures: worker processes import the main module anew, and this one is light, as a stage is.
"""

if __name__ == "__main__":
    from tests.bench.beside_open_clip import run

    run()

"""Runs `unireid show-batch` from this checkout; nothing has to be installed but requirements.txt."""

from _checkout import run

if __name__ == "__main__":
    run("show-batch")

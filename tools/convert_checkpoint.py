"""`unireid convert` from a checkout, without installing; --help tells all."""

from _checkout import run

if __name__ == "__main__":
    run("convert")

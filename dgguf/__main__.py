"""Where the program starts: the command `dgguf` and `python -m dgguf`."""

import os
import signal


def _end_at_once(number: int, frame: object) -> None:
    """End without a word, as there is nothing to give back."""
    os._exit(128 + number)


# Before all other imports, which take a while. Else it has been told to ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end_at_once)


def main() -> None:
    """Run the command line."""
    from dgguf.cli import main as run

    run()


if __name__ == "__main__":
    main()

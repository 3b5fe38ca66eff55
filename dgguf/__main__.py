"""`python -m dgguf` is `dgguf`."""

from dgguf.cli import main

main()

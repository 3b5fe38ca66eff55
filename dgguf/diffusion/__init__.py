"""The generation algorithm on token ids: it knows no text, no file and no terminal."""

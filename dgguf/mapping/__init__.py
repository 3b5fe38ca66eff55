"""Files mapped into memory, and what happens when one of them changes meanwhile."""

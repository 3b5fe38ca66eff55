"""A recording as a file that anyone can look at: all of them draw the lines of the live views."""

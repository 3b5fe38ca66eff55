"""Other systems simulated on Linux: what they lack is hidden, what they forbid fails."""

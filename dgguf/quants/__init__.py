"""What the bits of a quantized block mean; see `block` for the table and `decode` for the way in."""

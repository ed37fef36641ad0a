"""`input.each`: the elements of a row as rows."""

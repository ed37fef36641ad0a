"""What the table formats are made of."""

"""Other replies of an endpoint than chat completions."""

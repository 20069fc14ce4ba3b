"""Where the method stops: shared neurons, twins, names of several tokens, doses."""

"""The residual stream of a decoder: where it can be reached, read and changed."""

"""Triples from prompts alone: a model of the user's own writes the responses, a judge says which of them are kept."""

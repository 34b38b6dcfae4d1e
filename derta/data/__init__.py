"""The data room: a recipe and its sources go in, one dataset in one row schema comes out."""

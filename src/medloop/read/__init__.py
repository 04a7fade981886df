"""One file an input: folders, tables and image files become a listing, then a Dataset."""

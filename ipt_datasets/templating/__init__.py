"""Pairs to texts: a library of templates as data files, and a seeded, independent choice among them."""

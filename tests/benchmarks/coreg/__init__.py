"""Pieces of the co-registration benchmark: pairs, cases, methods, the judge, tables, figure, cost.

Conventions of all modules: positions are (N, 2) arrays of x, y at pixel centres, x to the right and y downwards,
in pixels of the reference tile. A displacement d says that what the reference shows at p lies at p + d(p) in the
moving tile.
"""

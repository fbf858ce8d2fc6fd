"""Statistics of a study: pure functions of its scores and of the records of its evaluations.

``paired`` compares two arms over seeds, ``claims`` turns comparisons into sentences, ``bootstrap`` draws
seeds and images, ``pooled`` scores weighted images, ``relative`` has Δm, ``power`` plans a study.
"""

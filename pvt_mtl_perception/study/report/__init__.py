"""The report of a study: ``build`` has its parts in order, ``document`` writes them."""

"""The command line: ``pvt-mtl <verb>``, one module a verb."""

"""How good a model is: scores of every task on any data set."""

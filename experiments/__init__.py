"""Models started by several recipes, trained alike on data that every machine has: what a start is worth."""

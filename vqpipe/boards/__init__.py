"""Boards: equal-budget comparisons, from one row to the page with the verdicts."""

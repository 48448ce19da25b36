"""The scoreboard's page: tables of rows, the papers' claims, and verdicts that follow from the numbers by a rule."""

"""Who would hold what on machines that are not here."""

"""Each verb as a function; those that run on Ray live only here."""

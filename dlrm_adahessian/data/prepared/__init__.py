"""Write and open prepared data: memory maps and a vocabulary in sealed folders."""

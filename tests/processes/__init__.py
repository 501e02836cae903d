"""How tests start processes: ranks, commands of the program, users without rights."""

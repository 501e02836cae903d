"""Start processes in tests: ranks, commands of the program, and users without root rights."""

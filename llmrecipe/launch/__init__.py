"""How the processes of a training start and end."""

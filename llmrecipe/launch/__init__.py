"""How the processes of a run start and end."""

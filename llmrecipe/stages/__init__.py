"""The work: one module for each kind of stage, a function of its section and its inputs."""

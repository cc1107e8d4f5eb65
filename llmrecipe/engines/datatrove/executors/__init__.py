"""Where the tasks of a pass run."""

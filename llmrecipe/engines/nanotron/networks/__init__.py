"""The networks that are trained, of nanotron's parts and ours."""

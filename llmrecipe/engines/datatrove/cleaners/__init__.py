"""What takes documents away or changes them."""

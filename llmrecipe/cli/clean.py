import argparse
def add_parser(subparsers: argparse._SubParsersAction) -> None:
    pass

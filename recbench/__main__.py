"""`python -m recbench`: the same as the command `recbench`."""

from recbench.cli.app import main

if __name__ == "__main__":
    main()

"""`python -m jaxgd` is the command `jaxgd`."""

from jaxgd.cli import main

if __name__ == "__main__":
    main()

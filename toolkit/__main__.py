"""`python -m toolkit`: what launchers of several processes start."""

from toolkit.cli import main

if __name__ == "__main__":
    main()

"""`python -m bainmarie` is `bain`."""

from bainmarie.cli import main

if __name__ == "__main__":
    main()

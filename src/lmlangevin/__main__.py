"""`python -m lmlangevin` is the command `lml`."""

from lmlangevin.cli import main

if __name__ == "__main__":
    main()

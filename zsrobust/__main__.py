"""`python -m zsrobust` is `zsrobust`."""

import os
import sys

# Python searches the current folder first. A file json.py there would shadow a module.
if sys.path[0] == os.getcwd():
    sys.path.append(sys.path.pop(0))

if __name__ == "__main__":
    from zsrobust.cli import main

    main()

"""Lets a clone in a folder named `bert` be imported as a package.

  from bert import modeling, run_classifier

The modules import each other by their plain names, so the folder joins the
import path.
"""

import os
import sys

sys.path.append(os.path.dirname(os.path.abspath(__file__)))

"""Worked examples of the study guide: `byhand demo NAME` shows the one in the file NAME.py."""

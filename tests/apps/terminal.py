"""A terminal for tests of progress bars."""


class Terminal:
    """Takes what is written, as a terminal does."""

    def __init__(self):
        self.shown = ""

    def write(self, text):
        self.shown += text

    def flush(self):
        pass

    def isatty(self):
        return True
